"""A video that is to be written, checked: what a shard cannot hold is refused, never cut or cast."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import ValidationError

from vidfit.errors import DataError, reason
from vidfit.features.segments import KEYS, NO_SEGMENTS, RatedSegments, misfit
from vidfit.features.spec import FeatureSpec, Modality, Video

# Keys of a video-level record beside its features.
_RESERVED = ("id", "video_id", "labels", *KEYS)
_SEGMENT_TYPES = {
    "starts": ("iu", np.int64), "ends": ("iu", np.int64), "labels": ("iu", np.int64), "scores": ("iuf", np.float32),
}  # fmt: skip
_KINDS = "give uint8 [T, D], a row per frame, or float32 [1, D], one pooled frame"


def quantize_frames(values: np.ndarray) -> np.ndarray:
    """Floats as the bytes that stand for them: uint8 of the same shape; values beyond [-2, 2] are clipped.

    A byte x stands for `x * 4/255 + 4/512 - 2`, so values come back with an error of at most 4/255 (0.016). Scale
    features whose values reach further, the same for all videos.

    Raises:
        DataError: a value is not finite.

    Source: YouTube-8M's feature extractor, `round((clip(x, -2, 2) + 2) * 255/4)`.
    """
    values = np.asarray(values, np.float32)
    if not np.isfinite(values).all():
        raise DataError("some of the values are not finite; leave such frames out")
    return np.rint((values.clip(-2, 2) + 2) * (255 / 4)).astype(np.uint8)


def checked_video(video: Video) -> tuple[Video, FeatureSpec]:
    """The same video with an id of text, frames as arrays and labels rising; and its modalities.

    Taken as they are meant: numbers and bytes as ids; lists and tensors as frames and labels; None as no labels.

    Raises:
        DataError: a shard cannot hold it; names the video and the field.
    """
    identifier = _id(video.id)
    where = f"video {identifier!r}"
    if not isinstance(video.frames, Mapping) or not video.frames:
        raise DataError(f"{where}: its frames are no mapping from feature names to arrays; give at least one feature")
    frames = {name: _frames(f"{where}, feature {name!r}", array) for name, array in video.frames.items()}
    lengths = {name: len(array) for name, array in frames.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{where}: its features differ in frames ({lengths}); give a row per frame in each")
    try:
        spec = FeatureSpec(
            modalities=tuple(
                Modality.model_validate({"name": name, "size": array.shape[1], "dtype": array.dtype.name})
                for name, array in frames.items()
            )
        )
    except ValidationError as error:
        raise DataError(f"{where}: its features cannot be read back ({reason(error)})") from error
    if spec.level == "video":
        _check_floats(where, frames)
    return Video(identifier, frames, _labels(where, video.labels), _segments(where, video.segments)), spec


def _id(identifier: Any) -> str:
    if isinstance(identifier, int | np.integer) and not isinstance(identifier, bool):
        return str(identifier)
    try:
        text = identifier.decode() if isinstance(identifier, bytes) else identifier
        if isinstance(text, str):
            text.encode()
            return text
    except UnicodeError as error:
        raise DataError(f"video {identifier!r}: its id is not UTF-8 ({reason(error)}); give another") from error
    raise DataError(f"video {identifier!r}: its id is a {type(identifier).__name__}; give text or a whole number")


def _array(where: str, values: Any) -> np.ndarray:
    """An array of a tensor, a list or an array."""
    if hasattr(values, "detach"):  # PyTorch's, which may be on a GPU or have a gradient
        values = values.detach().cpu()
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: cannot be made an array ({reason(error)})") from error


def _frames(where: str, values: Any) -> np.ndarray:
    """uint8 `[T, D]` or float32 `[1, D]`."""
    array = _array(where, values)
    if isinstance(values, list | tuple):  # of Python's numbers, which say nothing of a dtype
        if array.dtype.kind == "i" and array.size and 0 <= array.min() <= array.max() <= 255:
            array = array.astype(np.uint8)
        elif array.dtype.kind == "f":
            array = array.astype(np.float32)
    is_frames = array.ndim == 2 and min(array.shape) > 0
    if is_frames and (array.dtype == np.uint8 or (array.dtype == np.float32 and len(array) == 1)):
        return array
    what = f"{where}: is {array.dtype} {list(array.shape)}; {_KINDS}"
    if array.dtype.kind == "f":
        what += "; `vidfit.quantize_frames` makes bytes of floats"
    raise DataError(what)


def _check_floats(where: str, frames: Mapping[str, np.ndarray]) -> None:
    """What a video-level record cannot hold: its features stand beside id and labels, a single float is metadata."""
    for name, array in frames.items():
        if name in _RESERVED:
            raise DataError(f"{where}: a video-level feature cannot be called {name!r}; choose another name")
        if array.shape[1] == 1:
            raise DataError(
                f"{where}, feature {name!r}: is float32 [1, 1], and a single float would be read as metadata; give two "
                "values at least"
            )
        if not np.isfinite(array).all():
            raise DataError(f"{where}, feature {name!r}: has values that are not finite; leave such videos out")


def _segments(where: str, given: Any) -> RatedSegments:
    """The same with arrays of the record's types."""
    if given is None:
        return NO_SEGMENTS
    if not isinstance(given, RatedSegments):
        raise DataError(f"{where}: its segments are a {type(given).__name__}; give vidfit.RatedSegments")
    arrays: dict[str, np.ndarray] = {}
    for name, (kinds, dtype) in _SEGMENT_TYPES.items():
        array = _array(f"{where}: its segments' {name}", getattr(given, name))
        if array.ndim != 1 or (len(array) and array.dtype.kind not in kinds):
            what = "whole numbers" if dtype == np.int64 else "numbers"
            raise DataError(
                f"{where}: its segments' {name} are {array.dtype} {list(array.shape)}; give a list of {what}"
            )
        arrays[name] = array.astype(dtype)
    segments = RatedSegments(**arrays)
    if problem := misfit(segments):
        raise DataError(f"{where}: {problem}; correct it")
    return segments


def _labels(where: str, values: Any) -> np.ndarray:
    """`[L]` int64, rising, each once."""
    if values is None:
        return np.empty(0, np.int64)
    if isinstance(values, set | frozenset):
        values = sorted(values)
    array = _array(f"{where}: its labels", values)
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise DataError(
            f"{where}: its labels are {array.dtype} {list(array.shape)}; give its classes' numbers "
            "in one list (of zeros and ones: `numpy.flatnonzero`)"
        )
    labels = np.unique(array).astype(np.int64)
    if labels.min() < 0:
        raise DataError(f"{where}: its labels have {labels.min()}; classes are numbered from 0")
    return labels
