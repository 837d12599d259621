"""Example and SequenceExample records to `Video` and back.

The message types come from `example.proto`: TensorFlow is not needed. An Example is a SequenceExample without feature
lists, so one message type reads both. Frame-level records have feature lists with one bytes value per frame;
video-level records have float lists.

Protobuf makes a Python object of every frame. So `fast_parse.py` finds the frames of a regular record, ten times as
fast. Protobuf parses the rest, and every irregular record: results and errors are the same.

Source: tensorflow/core/example/{example,feature}.proto
"""

from collections.abc import Iterable, Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.message import DecodeError

from vidfit.errors import DataError
from vidfit.features.fast_parse import context_of, regular_frames
from vidfit.features.segments import KEYS, check_segment_labels, parse_segments, write_segments
from vidfit.features.spec import FeatureSpec, Modality, Video
from vidfit.features.tfrecord import CorruptRecordError, record_size, scan_records, write_records
from vidfit.features.video_check import checked_video

ID_KEYS = ("id", "video_id")
_LABELS_KEY = "labels"
# Generated code would need the protobuf of its own major version; a descriptor works with any.
_TYPES = message_factory.GetMessages(
    descriptor_pb2.FileDescriptorSet.FromString(files("vidfit.features").joinpath("example.binpb").read_bytes()).file
)
SequenceExample: Any = _TYPES["vidfit.SequenceExample"]
_COMPARE = "compare `vidfit inspect` of these shards with the features asked for"


def parse_example(data: bytes, spec: FeatureSpec | None = None, classes: int | None = None) -> Video:
    """A record's video.

    Arguments:
        data: a serialised SequenceExample (frame level) or Example (video level).
        spec: the modalities to take, which must be there in their size; None takes every one, the largest first.
        classes: labels must lie below; None does not check them.

    Raises:
        DataError: the record does not fit `spec` or `classes`; or (CorruptRecordError) it is damaged: no such message,
            no id, no frames, or frames or rated segments that do not belong together.
    """
    if regular := regular_frames(data):
        head, lists = regular
        context = _decode(head).context.feature
        frames = _regular_frames(lists, spec)
    else:
        message = _decode(data)
        context = message.context.feature
        if message.feature_lists.feature_list:
            frames = _byte_frames(message.feature_lists.feature_list, spec)
        else:
            frames = _float_frames(context, spec)
    identifier = context[_id_key(context)].bytes_list.value
    if len(identifier) != 1:
        raise CorruptRecordError(f"its id has {len(identifier)} bytes values, expected one")
    video = identifier[0].decode("utf-8", "backslashreplace")
    labels, segments = _labels(context, classes), parse_segments(context, video)
    check_segment_labels(segments, classes, video)
    return Video(video, frames, labels, segments)


def parse_labels(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A record's labels, `[L]` int64, rising, and those of its rated segments, `[S]` int64. Skips its frames.

    Raises:
        CorruptRecordError: it is no such message, its labels are no list of int64, or its segments do not fit together.
    """
    context = _decode(context_of(data)).context.feature
    return _labels(context, None), parse_segments(context, "").labels


def id_key(data: bytes) -> str:
    """The key under which a record keeps its id: `id` or `video_id`; CorruptRecordError where it has none."""
    return _id_key(_decode(data).context.feature)


def _decode(data: bytes) -> Any:
    try:
        return SequenceExample.FromString(data)
    except DecodeError as error:
        raise CorruptRecordError("it is no SequenceExample or Example; write it again or use --skip-corrupt") from error


def _id_key(context: Any) -> str:
    for key in ID_KEYS:
        if key in context:
            return key
    raise CorruptRecordError(f"it has neither of the context features {' and '.join(map(repr, ID_KEYS))}; add one")


def _labels(context: Any, classes: int | None) -> np.ndarray:
    if _LABELS_KEY not in context:
        return np.empty(0, np.int64)
    feature = context[_LABELS_KEY]
    if feature.WhichOneof("kind") not in ("int64_list", None):
        raise CorruptRecordError(f"{_LABELS_KEY!r} is no list of int64; write it as one")
    labels = np.array(sorted(set(feature.int64_list.value)), np.int64)
    check_labels(labels, classes)
    return labels


def check_labels(labels: np.ndarray, classes: int | None) -> None:
    """Raises DataError where labels, rising, are outside the vocabulary; None does not check them."""
    if classes is not None and len(labels) and not 0 <= labels[0] <= labels[-1] < classes:
        outside = labels[0] if labels[0] < 0 else labels[-1]
        raise DataError(
            f"{_LABELS_KEY!r} has {outside}, outside the vocabulary of {classes} classes; "
            "give the vocabulary that belongs to these shards"
        )


def _regular_frames(lists: dict[str, np.ndarray], spec: FeatureSpec | None) -> dict[str, np.ndarray]:
    """`[T, D]` uint8 of each modality, of a record without anything else."""
    names = list(lists) if spec is None else [modality.name for modality in spec.modalities]
    for name in names:
        _require(name, lists, "feature lists")
    return _equally_long({name: lists[name] for name in names}, spec)


def _byte_frames(lists: Any, spec: FeatureSpec | None) -> dict[str, np.ndarray]:
    """`[T, D]` uint8 of each modality."""
    if spec is None:
        names = [name for name in lists if all(frame.HasField("bytes_list") for frame in lists[name].feature[:1])]
    else:
        names = [modality.name for modality in spec.modalities]
    return _equally_long({name: _byte_modality(lists, name) for name in names}, spec)


def _equally_long(frames: dict[str, np.ndarray], spec: FeatureSpec | None) -> dict[str, np.ndarray]:
    """The same, if they may be the frames of one video."""
    lengths = {name: len(array) for name, array in frames.items()}
    if not lengths:
        raise CorruptRecordError("none of its feature lists holds bytes; write a bytes value a frame")
    if min(lengths.values()) == 0:
        raise CorruptRecordError(
            f"it has zero frames ({_counts(lengths)}); leave such videos out or use --skip-corrupt"
        )
    if len(set(lengths.values())) > 1:
        raise CorruptRecordError(f"its modalities differ in frames ({_counts(lengths)}); write it again")
    return _fitted(frames, spec)


def _byte_modality(lists: Any, name: str) -> np.ndarray:
    _require(name, lists, "feature lists")
    values = [frame.bytes_list.value for frame in lists[name].feature]
    if any(len(value) != 1 for value in values):
        raise CorruptRecordError(f"feature {name!r} must have one bytes value a frame; write it so")
    values = [value[0] for value in values]
    sizes = set(map(len, values))
    if len(sizes) > 1:
        raise CorruptRecordError(
            f"feature {name!r} has frames of {min(sizes)} and of {max(sizes)} bytes; write it again"
        )
    return np.frombuffer(b"".join(values), np.uint8).reshape(len(values), *sizes or (0,))


def _float_frames(context: Any, spec: FeatureSpec | None) -> dict[str, np.ndarray]:
    """`[1, D]` float32 of each modality; without a spec a single float is taken for metadata, not for a modality."""
    if spec is None:
        names = [name for name in context if name not in KEYS and len(context[name].float_list.value) > 1]
    else:
        names = [modality.name for modality in spec.modalities]
    for name in names:
        _require(name, context, "features")
    frames = {name: np.array(context[name].float_list.value, np.float32)[None] for name in names}
    if not frames:
        raise CorruptRecordError("it has neither feature lists (frame level) nor float features (video level)")
    broken = next((name for name, array in frames.items() if not np.isfinite(array).all()), None)
    if broken:
        raise CorruptRecordError(f"feature {broken!r} has values that are not finite; write it again")
    return _fitted(frames, spec)


def _require(name: str, features: Any, kind: str) -> None:
    if name not in features:
        present = ", ".join(sorted(features)) or "none"
        raise DataError(f"it has no feature {name!r} (its {kind}: {present}); {_COMPARE}")


def _fitted(frames: dict[str, np.ndarray], spec: FeatureSpec | None) -> dict[str, np.ndarray]:
    if spec is None:
        return dict(sorted(frames.items(), key=lambda item: (-item[1].shape[1], item[0])))
    for modality in spec.modalities:
        found = frames[modality.name]
        if found.dtype != modality.dtype or found.shape[1] != modality.size:
            raise DataError(
                f"feature {modality.name!r} has {found.shape[1]} {found.dtype} values a frame, "
                f"expected {modality.size} {modality.dtype}; {_COMPARE}"
            )
    return frames


def _counts(lengths: dict[str, int]) -> str:
    return ", ".join(f"{name!r}: {length}" for name, length in sorted(lengths.items()))


def write_shard(path: str | Path, videos: Iterable[Video]) -> None:
    """Write videos as one TFRecord shard: SequenceExamples where frames are bytes, Examples where they are floats.

    Arguments:
        path: the file; it appears once it is complete.
        videos: any number, drawn one after another, all with the same features. Ids may be numbers; frames and labels
            may be lists or tensors (see `checked_video`). Rated segments are written if there are any.

    Raises:
        DataError: a video is none that a shard can hold. No file is left.
        OutputError: the file cannot be written.
    """
    write_records(path, _records(videos))


def _records(videos: Iterable[Video]) -> Iterator[bytes]:
    first = None
    for given in videos:
        video, spec = checked_video(given)
        first = first or (video.id, {modality.name: modality for modality in spec.modalities})
        for modality in spec.modalities:
            if len(spec.modalities) != len(first[1]) or first[1].get(modality.name) != modality:
                raise DataError(
                    f"video {video.id!r}: has {_listed(spec.modalities)}, and video {first[0]!r} before it "
                    f"{_listed(first[1].values())}; write them to shards of their own"
                )
        yield to_sequence_example(video) if spec.level == "frame" else to_example(video)


def _listed(modalities: Iterable[Modality]) -> str:
    return ", ".join(f"{own.name!r} of {own.size} {own.dtype}" for own in modalities)


def to_sequence_example(video: Video) -> bytes:
    """A frame-level video (uint8 frames) as YouTube-8M stores it: a context, and bytes per frame."""
    message = _with_context(video)
    for name, frames_TD in video.frames.items():
        add = message.feature_lists.feature_list[name].feature.add
        for frame in np.ascontiguousarray(frames_TD, np.uint8):
            add().bytes_list.value.append(frame.tobytes())
    return message.SerializeToString(deterministic=True)


def to_example(video: Video) -> bytes:
    """A video-level video (one float32 frame) as YouTube-8M stores it: `id`, `labels` and a float list a modality."""
    message = _with_context(video)
    for name, frames_1D in video.frames.items():
        message.context.feature[name].float_list.value.extend(frames_1D[0].tolist())
    return message.SerializeToString(deterministic=True)


def _with_context(video: Video) -> Any:
    message = SequenceExample()
    message.context.feature["id"].bytes_list.value.append(video.id.encode())
    message.context.feature[_LABELS_KEY].int64_list.value.extend(video.labels.tolist())
    write_segments(message.context.feature, video.segments)
    return message


def read_examples(
    path: str | Path, spec: FeatureSpec | None = None, classes: int | None = None, part: int = 0, parts: int = 1
) -> Iterator[Video | CorruptRecordError]:
    """As `read_videos` of `shards.py`, of a TFRecord file.

    Raises:
        DataError: the file cannot be read, or a sound record does not fit `spec` or `classes` (see `parse_example`);
            it names file, record and field.
    """
    parse = partial(parse_example, spec=spec, classes=classes)
    for number, record in scan_records(path, part, parts):
        if isinstance(record, CorruptRecordError):
            yield record
            continue
        try:
            yield parse(record)
        except CorruptRecordError as error:
            yield CorruptRecordError(f"{path}, record {number}: {error}", record_size(record))
        except DataError as error:
            raise DataError(f"{path}, record {number}: {error}") from error
