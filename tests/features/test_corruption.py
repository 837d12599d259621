"""Damage of every kind: an error that names file and record or a count of what was skipped, never a wrong video."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vidfit.errors import DataError
from vidfit.features import cache
from vidfit.features.batch import Batch
from vidfit.features.cache_writer import write_cache
from vidfit.features.example import write_shard
from vidfit.features.loader import Batches, NoRecordsError
from vidfit.features.shards import expand_shards
from vidfit.features.spec import FeatureSpec, Modality, Video

SPEC = FeatureSpec(modalities=(Modality(name="rgb", size=40), Modality(name="audio", size=8)))
CLASSES = 7


def make_video(number: int) -> Video:
    random = np.random.default_rng(number)
    length = random.integers(1, 9)
    frames = {own.name: random.integers(0, 256, (length, own.size), np.uint8) for own in SPEC.modalities}
    return Video(f"video{number}", frames, np.flatnonzero(random.random(CLASSES) < 0.4))


VIDEOS = [make_video(number) for number in range(9)]
ALL = [video.id for video in VIDEOS]


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """One to eight bits flipped, the end cut off, a range twice or not at all or in the place of another, or zeros."""
    start, end, place = (int(value) for value in np.sort(random.integers(len(data) + 1, size=3)))
    kind = random.integers(6)
    if kind == 0:
        changed = bytearray(data)
        for bit in random.integers(8 * len(data), size=random.integers(1, 9)):
            changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)
    if kind == 1:
        return data[:start]
    if kind == 2:
        return data[:end] + data[start:]
    if kind == 3:
        return data[:start] + data[end:]
    if kind == 4:
        moved = data[start:end]
        return (data[:place] + moved + data[place + len(moved) :])[: len(data)]
    return data[:start] + bytes(end - start) + data[end:]


def outcome(path: Path, skip_corrupt: bool = False) -> tuple[list[str], int] | DataError:
    """Ids and how many records were skipped, or the error; what is delivered must be what was written."""
    try:
        batches = list[Batch](Batches([path], SPEC, CLASSES, 4, skip_corrupt=skip_corrupt))
    except DataError as error:
        return error
    for batch in batches:
        lengths, counts = batch.num_frames.tolist(), batch.label_counts.tolist()
        labels = batch.labels.split(counts)
        for row, name in enumerate(batch.ids):
            original = VIDEOS[ALL.index(name)]
            assert labels[row].tolist() == original.labels.tolist()
            for modality, frames in batch.frames.items():
                np.testing.assert_array_equal(frames.split(lengths)[row].numpy(), original.frames[modality])
    return [name for batch in batches for name in batch.ids], sum(batch.skipped.records for batch in batches)


def variants(path: Path, number: int = 500) -> Iterator[bytes]:
    """Writes each to the file in turn."""
    data, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(number):
        changed = damaged(data, random)
        path.write_bytes(changed)
        yield changed


def test_500_variants_of_a_shard(tmp_path: Path):
    path = tmp_path / "some.tfrecord"
    write_shard(path, VIDEOS)
    whole = path.read_bytes()
    errors = counted = 0
    for changed in variants(path):
        found, skipping = outcome(path), outcome(path, skip_corrupt=True)
        if isinstance(found, DataError):
            errors += 1
            assert str(path) in str(found)
            assert "record" in str(found)
            assert "\n" not in str(found)
        else:
            # Whole records may be gone, or be there twice: a shard does not know how many it should hold.
            assert found[1] == 0
            assert changed != whole or found[0] == ALL
        if isinstance(skipping, DataError):
            # A file in which no record can be found at all is none of records: that is told even then.
            assert isinstance(skipping, NoRecordsError) or "no TFRecord file" in str(skipping)
            assert str(path) in str(skipping)
        else:
            counted += skipping[1] > 0
            assert (skipping[1] > 0) == isinstance(found, DataError)
    assert errors > 450
    assert counted > 250


def test_a_flipped_bit_costs_one_record_wherever_it_is(tmp_path: Path):
    path = tmp_path / "some.tfrecord"
    write_shard(path, VIDEOS)
    whole, random = path.read_bytes(), np.random.default_rng(1)
    headers = [place for start in starts_of(whole) for place in range(start, start + 12)]
    for place in [*headers, *random.integers(len(whole), size=200).tolist()]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << random.integers(8)]) + whole[place + 1 :])
        ids, skipped = sound(outcome(path, skip_corrupt=True))
        assert skipped == 1
        assert len(ids) == len(ALL) - 1
        assert ids == [name for name in ALL if name in ids]


def starts_of(data: bytes) -> list[int]:
    """Where the records of a sound shard begin."""
    starts = [0]
    while starts[-1] < len(data):
        starts.append(starts[-1] + 16 + int.from_bytes(data[starts[-1] : starts[-1] + 8], "little"))
    return starts[:-1]


def sound(found: tuple[list[str], int] | DataError) -> tuple[list[str], int]:
    assert not isinstance(found, DataError)
    return found


def write_cached(folder: Path) -> Path:
    write_shard(folder / "some.tfrecord", VIDEOS)
    write_cache([folder / "some.tfrecord"], folder / "cache", "id", SPEC)
    (path,) = expand_shards([folder / "cache"])
    return path


def test_500_variants_of_a_cache(tmp_path: Path):
    path = write_cached(tmp_path)
    errors = counted = 0
    for _ in variants(path):
        found, skipping = outcome(path), outcome(path, skip_corrupt=True)
        if isinstance(found, DataError):
            errors += 1
            assert str(path) in str(found)
            assert "\n" not in str(found)
        else:
            assert found == (ALL, 0)  # padding alone has no checksum
        if isinstance(skipping, DataError):
            assert str(path) in str(skipping)
        else:
            ids, skipped = skipping
            counted += skipped > 0
            assert len(ids) + skipped == len(ALL)
            assert ids == [name for name in ALL if name in ids]
    assert errors > 400
    assert counted > 25


def test_variants_of_an_index(tmp_path: Path):
    path = write_cached(tmp_path)
    refused = 0
    for _ in variants(path.with_name(cache.INDEX), 100):
        cache._parsed.cache_clear()  # it goes by the time of change, which may be that of the variant before
        found = outcome(path)
        if isinstance(found, DataError):
            refused += 1
            assert str(path.parent) in str(found)
        else:
            assert found == (ALL, 0)
    assert refused > 70
