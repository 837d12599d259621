"""`/v1/predict`: features as JSON, the most probable labels as JSON.

{"videos": [{"rgb": [[...], ...], "audio": [[...], ...]}, ...], "top_k": 20}

A video has an array `[T, D]` of each modality. T may differ from video to video.
"""

import json
from typing import Any, Final

import numpy as np

from vidfit.errors import DataError
from vidfit.features.batch import collate
from vidfit.features.spec import Modality, Video
from vidfit.serving.models import ServedModel

_TOP_K: Final = 20
_KINDS: Final = {"uint8": "whole numbers from 0 to 255", "float32": "finite numbers"}


def parse_json(body: bytes) -> dict[str, Any]:
    """An object of a body.

    Raises:
        DataError: the body is something else.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the body is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise DataError("the body is not a JSON object")
    return found


def to_array(values: object, dtype: str, place: str) -> np.ndarray:
    """Nested lists of numbers as an array.

    Arguments:
        dtype: of NumPy, such as `uint8`.
        place: what the error says about where they are.

    Raises:
        DataError: they are no numbers, do not fit the type, or the lists are of different lengths.
    """
    wanted = np.dtype(dtype)
    advice = f"{place}: give {_KINDS.get(dtype, 'whole numbers')} in lists of equal length"
    if not isinstance(values, list):
        raise DataError(advice)
    try:
        array = np.array(values)
    except (ValueError, OverflowError, RecursionError) as error:
        raise DataError(advice) from error
    if not array.size:
        return array.astype(wanted)
    if array.dtype.kind not in ("iu" if wanted.kind in "iu" else "iuf"):
        raise DataError(advice)
    if wanted.kind in "iu":
        limits = np.iinfo(wanted)
        if array.min() < limits.min or array.max() > limits.max:
            raise DataError(advice)
    with np.errstate(over="ignore"):
        array = array.astype(wanted)
    if not np.isfinite(array).all():
        raise DataError(advice)
    return array


def predict(model: ServedModel, body: bytes) -> dict[str, Any]:
    """The answer to a body.

    Raises:
        DataError: the body is not as described above.
    """
    asked = parse_json(body)
    if unknown := sorted(set(asked) - {"videos", "top_k"}):
        raise DataError(f"{unknown[0]!r}: is unknown; give videos and, if you like, top_k")
    videos, top_k = asked.get("videos"), asked.get("top_k", _TOP_K)
    if not isinstance(videos, list) or not videos:
        raise DataError("videos: give a list of objects, each with an array for every modality")
    if type(top_k) is not int or top_k < 1:
        raise DataError("top_k: give a whole number, at least 1")
    modalities = model.info.spec.modalities
    arrays = [_video(video, modalities, f"videos[{number}]") for number, video in enumerate(videos)]
    none = np.array([], np.int64)
    batch = collate([Video(str(number), frames, none) for number, frames in enumerate(arrays)])
    vocabulary = model.info.vocabulary
    return {
        "model": model.name,
        "videos": [
            {
                "labels": [
                    {"label": vocabulary[index], "probability": round(float(row_C[index]), 6)}
                    for index in np.argsort(-row_C, kind="stable")[:top_k]
                ]
            }
            for row_C in model.predictor.predict_batch(batch)
        ],
    }


def _video(video: object, modalities: tuple[Modality, ...], place: str) -> dict[str, np.ndarray]:
    names = [modality.name for modality in modalities]
    if not isinstance(video, dict) or set(video) != set(names):
        raise DataError(f"{place}: give an object with {', '.join(names)}")
    arrays = {it.name: to_array(video[it.name], it.dtype, f"{place}.{it.name}") for it in modalities}
    steps = len(arrays[names[0]])
    for modality in modalities:
        shape = arrays[modality.name].shape
        if not steps or shape != (steps, modality.size):
            raise DataError(
                f"{place}.{modality.name}: is {list(shape)}; give [T, {modality.size}] with the same T in all "
                "modalities, at least 1"
            )
    return arrays
