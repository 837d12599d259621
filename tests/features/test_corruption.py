"""Damage of every kind: an error that names file and record or a count of what was skipped, never a wrong video."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vidfit.errors import DataError
from vidfit.features import cache
from vidfit.features.batches import Batch, Batches, NoRecordsError
from vidfit.features.example import write_shard
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


def delivered(path: Path, skip_corrupt: bool) -> tuple[list[str], int]:
    """Ids and how many records were skipped; what is delivered must be what was written."""
    batches: list[Batch] = list(Batches([path], SPEC, CLASSES, 4, skip_corrupt=skip_corrupt))
    for batch in batches:
        lengths, counts = batch.num_frames.tolist(), batch.label_counts.tolist()
        labels = batch.labels.split(counts)
        for row, name in enumerate(batch.ids):
            original = VIDEOS[ALL.index(name)]
            assert labels[row].tolist() == original.labels.tolist()
            for modality, frames in batch.frames.items():
                np.testing.assert_array_equal(frames.split(lengths)[row].numpy(), original.frames[modality])
    return [name for batch in batches for name in batch.ids], sum(batch.skipped for batch in batches)


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
    errors = skips = 0
    for changed in variants(path):
        try:
            ids, skipped = delivered(path, skip_corrupt=False)
        except DataError as error:
            errors += 1
            assert str(path) in str(error)
            assert "record" in str(error)
            assert "\n" not in str(error)
            failed = not isinstance(error, NoRecordsError)
        else:
            # Whole records may be gone, or be there twice: a shard does not know how many it should hold.
            assert skipped == 0
            assert changed != whole or ids == ALL
            failed = False
        try:
            ids, skipped = delivered(path, skip_corrupt=True)
        except NoRecordsError as error:
            assert str(path) in str(error)
            continue
        assert (skipped > 0) == failed
        skips += skipped > 0
    assert errors > 450
    assert skips > 250


def write_cached(folder: Path) -> Path:
    write_shard(folder / "some.tfrecord", VIDEOS)
    cache.write_cache([folder / "some.tfrecord"], folder / "cache", "id", SPEC)
    (path,) = expand_shards([folder / "cache"])
    return path


def test_500_variants_of_a_cache(tmp_path: Path):
    path = write_cached(tmp_path)
    errors = skips = 0
    for _ in variants(path):
        try:
            ids, skipped = delivered(path, skip_corrupt=False)
        except DataError as error:
            errors += 1
            assert str(path) in str(error)
            assert "\n" not in str(error)
        else:
            # Only padding is not covered by a checksum.
            assert (ids, skipped) == (ALL, 0)
        try:
            ids, skipped = delivered(path, skip_corrupt=True)
        except DataError as error:
            assert str(path) in str(error)
        else:
            assert len(ids) + skipped == len(ALL)
            assert ids == [name for name in ALL if name in ids]
            skips += skipped > 0
    assert errors > 400
    assert skips > 25


def test_variants_of_an_index(tmp_path: Path):
    path = write_cached(tmp_path)
    refused = 0
    for _ in variants(path.with_name(cache.INDEX), 100):
        cache._parsed.cache_clear()  # it goes by the time of change, which may be that of the variant before
        try:
            assert delivered(path, skip_corrupt=False) == (ALL, 0)
        except DataError as error:
            refused += 1
            assert str(tmp_path / "cache") in str(error)
    assert refused > 70
