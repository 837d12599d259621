"""The regular layout is read as protobuf reads it, and nothing else is read at all."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.features.test_example import CONTEXT, SPEC, bytes_feature, entry, field, video
from vidfit.errors import DataError
from vidfit.features.example import parse_example, to_example, to_sequence_example
from vidfit.features.fast_parse import regular_frames
from vidfit.features.spec import FeatureSpec, Video

SOUND = to_sequence_example(video())
LONG = to_sequence_example(
    Video("long", {name: np.full((5, size), 7, np.uint8) for name, size in (("rgb", 130), ("audio", 2))}, np.arange(2))
)


def outcome(data: bytes, spec: FeatureSpec | None, classes: int | None = 6) -> object:
    """A video or an error as something to compare."""
    try:
        found = parse_example(data, spec, classes)
    except DataError as error:
        return type(error), str(error)
    frames = {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in found.frames.items()}
    return found.id, found.labels.tolist(), list(frames), frames


def assert_as_protobuf(data: bytes) -> None:
    for spec in (None, SPEC):
        fast = outcome(data, spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vidfit.features.example.regular_frames", lambda data: None)
            assert fast == outcome(data, spec)


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """Messages that are nearly regular: each part may be repeated, swapped, cut, or of a length of its own."""

    def some(*parts: bytes) -> bytes:
        return b"".join(parts[index] for index in draw(st.lists(st.sampled_from(range(len(parts))), max_size=4)))

    def length(data: bytes) -> bytes:
        # A length may be one off, or longer than it needs to be.
        return draw(st.sampled_from([field(1, data), field(1, data), b"\x0a" + bytes([len(data) | 128, 0]) + data]))

    frame = bytes_feature(b"\1\2")
    odd = [bytes_feature(b"\1\2\3"), bytes_feature(b"\1", b"\2"), bytes_feature(b""), b"", field(2, b"\0\0\0\0")]
    frames = draw(st.lists(st.sampled_from([frame] * 4 + odd), max_size=5))
    if draw(st.booleans()):
        frames = [frame] * len(frames)
    lists = [
        entry("audio", b"".join(map(length, frames))),
        entry("rgb", field(1, bytes_feature(b"\1\2\3\4")) * len(frames)),
        entry("", field(1, frame) * 2),
    ]
    context = some(CONTEXT, entry("labels", field(3, field(1, b"\1\5"))), b"\x12\0") if draw(st.booleans()) else CONTEXT
    parts = [field(1, context), field(2, some(*lists) if draw(st.booleans()) else b"".join(lists[:2]))]
    return some(*parts, b"\x18\1") if draw(st.integers(0, 3)) == 0 else b"".join(parts)


@given(data=records())
@settings(max_examples=300)
def test_a_nearly_regular_record_is_what_protobuf_finds(data: bytes):
    assert_as_protobuf(data)


@given(data=st.binary(max_size=60))
@example(data=b"\x0a\0\x12\0")  # no lists, so perhaps a video-level record
@example(data=field(1, CONTEXT) + field(2, entry("rgb", b"")))
@example(data=field(1, CONTEXT) + field(2, field(1, field(1, b"\xff") + field(2, field(1, bytes_feature(b"\1"))))))
@example(data=to_example(Video("a", {"rgb": np.zeros((1, 4), np.float32)}, np.array([0]))))
def test_any_bytes_are_what_protobuf_finds(data: bytes):
    assert_as_protobuf(data)


@given(
    sound=st.sampled_from([SOUND, LONG]),
    places=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3),
    cut=st.one_of(st.none(), st.integers(0, 10**6)),
)
@settings(max_examples=300)
def test_a_changed_record_is_what_protobuf_finds(sound: bytes, places: list[tuple[int, int]], cut: int | None):
    data = bytearray(sound)
    for place, value in places:
        data[place % len(data)] = value
    assert_as_protobuf(bytes(data if cut is None else data[: cut % len(data)]))


@pytest.mark.parametrize("place", range(len(SOUND)))
def test_every_bit_of_a_record_counts(place: int):
    for bit in range(8):
        assert_as_protobuf(SOUND[:place] + bytes([SOUND[place] ^ 1 << bit]) + SOUND[place + 1 :])


@pytest.mark.parametrize("data", [SOUND, LONG], ids=["short", "two bytes of length"])
def test_what_writers_write_is_regular_and_not_copied(data: bytes):
    found = regular_frames(data)
    assert found is not None
    head, frames = found
    assert data.startswith(head)
    start = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    for array in frames.values():
        assert start <= array.__array_interface__["data"][0] < start + len(data)
        assert not array.flags.writeable
    assert {name: array.shape[0] for name, array in frames.items()} == dict.fromkeys(
        ("rgb", "audio"), 3 if data is SOUND else 5
    )
