"""Batches: content, order, nothing lost or repeated over workers, corrupt records counted, copies by label."""

import os
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from vidfit.errors import DataError
from vidfit.features.batch import Batch, collate
from vidfit.features.cache_writer import write_cache
from vidfit.features.example import to_sequence_example
from vidfit.features.loader import Batches, balanced_copies
from vidfit.features.shards import expand_shards, infer_spec, read_videos
from vidfit.features.skipped import NOTHING, Skipped
from vidfit.features.spec import FeatureSpec, Modality, Video
from vidfit.features.tfrecord import CorruptRecordError, write_records

SPEC = FeatureSpec(modalities=(Modality(name="rgb", size=4), Modality(name="audio", size=2)))
CLASSES = 7


def make_video(number: int) -> Video:
    random = np.random.default_rng(number)
    frames = random.integers(1, 6)
    labels = np.flatnonzero(random.random(CLASSES) < 0.3)
    arrays = {m.name: random.integers(0, 256, (frames, m.size), np.uint8) for m in SPEC.modalities}
    return Video(f"video{number}", arrays, labels)


def write_shards(folder: Path, sizes: Sequence[int]) -> list[Path]:
    number, shards = 0, []
    for index, size in enumerate(sizes):
        shards.append(folder / f"{index:02}.tfrecord")
        write_records(shards[-1], (to_sequence_example(make_video(number + i)) for i in range(size)))
        number += size
    return shards


def damage_data(path: Path, record_numbers: Sequence[int]) -> None:
    """Flips a byte in the data of some records."""
    data, offset, number = bytearray(path.read_bytes()), 0, 0
    while offset < len(data):
        length = int.from_bytes(data[offset : offset + 8], "little")
        if number in record_numbers:
            data[offset + 12 + length // 2] ^= 1
        offset += 12 + length + 4
        number += 1
    path.write_bytes(data)


def expected_copies(video: Video, copies: Sequence[float]) -> float:
    return max((copies[label] for label in video.labels), default=1.0)


def ids_of(batches) -> list[str]:
    return [identifier for batch in batches for identifier in batch.ids]


@given(data=st.data(), numbers=st.lists(st.integers(0, 50), min_size=1, max_size=6))
def test_rows_are_the_batch_of_those_videos(data: st.DataObject, numbers: list[int]):
    index = data.draw(st.lists(st.integers(0, len(numbers) - 1), min_size=1, max_size=6))
    found = collate([make_video(number) for number in numbers], skipped=Skipped(3)).rows(torch.tensor(index))
    expected = collate([make_video(numbers[place]) for place in index])
    assert (found.ids, found.skipped) == (expected.ids, NOTHING)
    assert found.frames.keys() == expected.frames.keys()
    assert all(torch.equal(found.frames[name], expected.frames[name]) for name in found.frames)
    for name in ("num_frames", "labels", "label_counts"):
        assert torch.equal(getattr(found, name), getattr(expected, name))


@given(numbers=st.lists(st.integers(0, 50), min_size=1, max_size=6))
def test_a_batch_holds_what_its_videos_hold(numbers: list[int]):
    videos = [make_video(number) for number in numbers]
    batch = collate(videos)
    assert batch.ids == [video.id for video in videos]
    assert batch.num_frames.tolist() == [video.num_frames for video in videos]
    assert batch.num_frames.dtype == batch.labels.dtype == batch.label_counts.dtype == torch.int64
    assert sum(batch.num_frames) == len(batch.frames["rgb"])
    longest = max(video.num_frames for video in videos)
    multi_hot = batch.multi_hot(CLASSES)
    assert multi_hot.dtype == torch.float32
    for name, padded in batch.padded().items():
        assert padded.dtype == torch.uint8
        for row, video in enumerate(videos):
            expected = np.zeros((longest, padded.shape[2]), np.uint8)
            expected[: video.num_frames] = video.frames[name]
            np.testing.assert_array_equal(padded[row].numpy(), expected)
    for row, video in enumerate(videos):
        assert np.flatnonzero(multi_hot[row].numpy()).tolist() == video.labels.tolist()


def test_to_moves_frames_and_labels_and_keeps_their_counts():
    moved = collate([make_video(1)], skipped=Skipped(3)).to("meta")
    assert {tensor.device.type for tensor in [*moved.frames.values(), moved.labels]} == {"meta"}
    assert {moved.num_frames.device.type, moved.label_counts.device.type} == {"cpu"}
    assert moved.skipped == Skipped(3)


def test_without_a_buffer_files_and_records_keep_their_order(tmp_path: Path):
    batches = list(Batches(write_shards(tmp_path, [5, 0, 4]), SPEC, CLASSES, batch_size=4))
    assert [len(batch) for batch in batches] == [4, 4, 1]
    assert ids_of(batches) == [f"video{number}" for number in range(9)]


def test_shuffling_mixes_shards_and_is_fixed_by_seed_and_epoch(tmp_path: Path):
    shards = write_shards(tmp_path, [20, 20, 20])

    def order(seed: int, epoch: int) -> list[str]:
        return ids_of(Batches(shards, SPEC, CLASSES, 8, shuffle_buffer=30, seed=seed).epoch(epoch))

    assert order(0, 0) == order(0, 0)
    orders = [order(0, 0), order(0, 1), order(1, 0)]
    assert len({tuple(ids) for ids in orders}) == 3
    for ids in orders:
        assert sorted(ids) == sorted(f"video{number}" for number in range(60))
        assert len({int(identifier[5:]) // 20 for identifier in ids[:20]}) > 1


@pytest.mark.parametrize(
    ("sizes", "workers"), [([7, 1, 5, 3], 2), ([7, 1], 5), ([0, 9], 4)], ids=["shards", "parts", "an empty shard"]
)
def test_workers_deliver_every_record_exactly_once_and_in_a_fixed_order(tmp_path, sizes: list[int], workers: int):
    shards = write_shards(tmp_path, sizes)
    batches = Batches(shards, SPEC, CLASSES, 2, shuffle_buffer=4, workers=workers)
    delivered = list(batches.epoch(3))
    assert Counter(ids_of(delivered)) == Counter(f"video{number}" for number in range(sum(sizes)))
    for batch in delivered:
        expected = collate([make_video(int(identifier[5:])) for identifier in batch.ids])
        assert torch.equal(batch.frames["audio"], expected.frames["audio"])
        assert torch.equal(batch.labels, expected.labels)
    assert ids_of(batches.epoch(3)) == ids_of(delivered)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_corrupt_records_are_skipped_and_counted(tmp_path: Path, workers: int):
    shards = write_shards(tmp_path, [6, 6])
    damage_data(shards[0], [1, 2])
    damage_data(shards[1], [5])
    batches = list(Batches(shards, SPEC, CLASSES, 2, workers=workers, skip_corrupt=True))
    assert sorted(ids_of(batches)) == sorted(f"video{number}" for number in (0, 3, 4, 5, 6, 7, 8, 9, 10))
    assert sum(batch.skipped.records for batch in batches) == 3


def test_a_truncated_last_record_is_one_skipped_record(tmp_path: Path):
    shards = write_shards(tmp_path, [4])
    shards[0].write_bytes(shards[0].read_bytes()[:-3])
    batches = list(Batches(shards, SPEC, CLASSES, 3, skip_corrupt=True))
    assert ids_of(batches) == ["video0", "video1", "video2"]
    assert sum(batch.skipped.records for batch in batches) == 1


@pytest.mark.parametrize("shuffle_buffer", [0, 50])
def test_unlabelled_videos_can_be_left_out(tmp_path: Path, shuffle_buffer: int):
    """Those of a cache too, also where an epoch is begun in its midst."""
    shards = write_shards(tmp_path, [20, 20])
    write_cache(shards, tmp_path / "cache", "id", SPEC)
    labelled = {video.id for video in map(make_video, range(40)) if len(video.labels)}
    assert 0 < len(labelled) < 40
    for read in (shards, expand_shards([tmp_path / "cache"])):
        batches = Batches(read, SPEC, CLASSES, 3, shuffle_buffer=shuffle_buffer, labelled_only=True)
        whole = list(batches.epoch(0))
        assert set(ids_of(whole)) == labelled
        assert sum((batch.skipped for batch in whole), NOTHING) == Skipped(unlabelled=40 - len(labelled))
        assert [batch.ids for batch in batches.epoch(0, 2)] == [batch.ids for batch in whole[2:]]


@pytest.mark.parametrize("workers", [0, 3])
def test_a_corrupt_record_is_an_error_of_one_line(tmp_path: Path, workers: int):
    shards = write_shards(tmp_path, [4, 4])
    damage_data(shards[1], [2])
    with pytest.raises(CorruptRecordError) as caught:
        list(Batches(shards, SPEC, CLASSES, 2, workers=workers))
    assert f"{shards[1]}, record 2" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_labels_outside_the_vocabulary_are_an_error_even_when_skipping(tmp_path: Path, workers: int):
    shards = write_shards(tmp_path, [40])
    with pytest.raises(DataError, match=r"00\.tfrecord, record \d+: 'labels' has \d, outside the vocabulary"):
        list(Batches(shards, SPEC, 3, 2, workers=workers, skip_corrupt=True))


def test_shards_without_any_sound_record_are_an_error(tmp_path: Path):
    shards = write_shards(tmp_path, [0, 2])
    damage_data(shards[1], [0, 1])
    with pytest.raises(DataError, match=r"no record that can be read \(2 corrupt records \([\d,]+ bytes\) skipped\)"):
        list(Batches(shards, SPEC, CLASSES, 2, skip_corrupt=True))


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("change", ["gone", "longer", "shorter"])
def test_a_shard_that_changes_while_others_are_read(tmp_path: Path, workers: int, change: str):
    """Not even an added record that is sound is read without a word."""
    shards = write_shards(tmp_path, [40, 4])
    batches = Batches(shards, SPEC, CLASSES, 2, workers=workers, skip_corrupt=True)
    epoch = batches.epoch(0)
    next(epoch)
    if change == "gone":
        shards[1].unlink()
    else:
        write_records(shards[1], [to_sequence_example(make_video(n)) for n in range(5 if change == "longer" else 3)])
    message = (
        "cannot be read .No such file" if change == "gone" else r"changed from \d+ to \d+ bytes since reading began"
    )
    with pytest.raises(DataError, match=rf"01\.tfrecord: {message}"):
        list(epoch)


def test_a_shard_that_is_cut_while_it_is_read(tmp_path: Path):
    write_records(tmp_path / "long.tfrecord", [to_sequence_example(make_video(0))] * 8000)
    epoch = Batches([tmp_path / "long.tfrecord"], SPEC, CLASSES, 100).epoch(0)
    next(epoch)
    os.truncate(tmp_path / "long.tfrecord", 500_001)
    with pytest.raises(DataError, match=r"long\.tfrecord"):
        list(epoch)


def test_an_epoch_that_is_given_up_ends_its_workers(tmp_path: Path):
    before = threading.active_count()
    epoch = Batches(write_shards(tmp_path, [30]), SPEC, CLASSES, 1, workers=1).epoch(0)
    assert isinstance(next(epoch), Batch)
    assert threading.active_count() > before
    del epoch
    assert threading.active_count() == before


def test_no_more_videos_are_read_than_buffer_and_batches_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Memory does not follow the number of shards: reading stays a fixed distance ahead of what was delivered."""
    shards = write_shards(tmp_path, [4] * 25)
    read = 0

    def counting(*arguments):
        nonlocal read
        for video in read_videos(*arguments):
            read += 1
            yield video

    monkeypatch.setattr("vidfit.features.loader.read_examples", counting)
    delivered = 0
    for batch in Batches(shards, SPEC, CLASSES, 5, shuffle_buffer=10):
        delivered += len(batch)
        assert read <= delivered + 10 + 2 * 5
    assert read == delivered == 100


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle_buffer", [0, 16])
def test_whole_copies_are_exact(tmp_path: Path, workers: int, shuffle_buffer: int):
    shards = write_shards(tmp_path, [9, 12, 4])
    copies = [1.0, 2.0, 0.0, 3.0, 1.0, 8.0, 0.0]
    expected = Counter({f"video{n}": int(expected_copies(make_video(n), copies)) for n in range(25)})
    assert {0, 1, 8} <= set(expected.values())
    assert any(len(make_video(n).labels) == 0 for n in range(25))
    batches = Batches(
        shards, SPEC, CLASSES, 4, shuffle_buffer=shuffle_buffer, workers=workers, copies=torch.tensor(copies)
    )
    delivered = list(batches.epoch(1))
    assert Counter(ids_of(delivered)) == +expected
    for batch in delivered:
        again = collate([make_video(int(identifier[5:])) for identifier in batch.ids])
        assert torch.equal(batch.frames["rgb"], again.frames["rgb"])
        assert torch.equal(batch.labels, again.labels)


def test_broken_copies_come_as_often_as_expected(tmp_path: Path):
    """Each video's count over 400 epochs, and their sum, within five standard deviations; never off by one or more."""
    shards, epochs = write_shards(tmp_path, [12, 12]), 400
    copies = [0.125, 0.5, 0.75, 1.25, 2.5, 0.3, 1.9]
    batches = Batches(shards, SPEC, CLASSES, 64, shuffle_buffer=8, seed=3, copies=torch.tensor(copies))
    counts = [Counter(ids_of(batches.epoch(epoch))) for epoch in range(epochs)]
    expected = np.array([expected_copies(make_video(number), copies) for number in range(24)])
    found = np.array([[count[f"video{number}"] for number in range(24)] for count in counts])
    # float32 copies such as 0.3 are off by 1e-8.
    assert (np.abs(found - expected) < 1 + 1e-6).all()
    variance = (expected % 1) * (1 - expected % 1)
    assert (np.abs(found.sum(0) - epochs * expected) <= 5 * np.sqrt(epochs * variance) + 1e-4).all()
    assert abs(found.sum() - epochs * expected.sum()) <= 5 * np.sqrt(epochs * variance.sum())
    # Videos are drawn apart from each other: an epoch's size varies as a sum of independent draws does.
    assert found.sum(1).var() == pytest.approx(variance.sum(), rel=0.4)


@pytest.mark.parametrize("workers", [0, 2])
def test_copies_are_fixed_by_seed_and_epoch(tmp_path: Path, workers: int):
    shards = write_shards(tmp_path, [20, 20])

    def order(seed: int, epoch: int) -> list[str]:
        copies = torch.full((CLASSES,), 0.5)
        batches = Batches(shards, SPEC, CLASSES, 8, shuffle_buffer=9, seed=seed, workers=workers, copies=copies)
        return ids_of(batches.epoch(epoch))

    assert order(0, 1) == order(0, 1)
    assert len({tuple(sorted(order(*pair))) for pair in [(0, 1), (0, 2), (1, 1)]}) == 3


def test_no_copies_and_single_copies_leave_the_order_as_it_was(tmp_path: Path):
    """The draws of copies are not taken from the shuffling's: a run without copies goes on with the same bits."""
    shards = write_shards(tmp_path, [20, 20])
    orders = [
        ids_of(Batches(shards, SPEC, CLASSES, 8, shuffle_buffer=11, seed=5, copies=copies).epoch(2))
        for copies in (None, torch.ones(CLASSES))
    ]
    assert orders[0] == orders[1]
    # The rule of the shuffling, written out: shards in random order, draws from a buffer, then the buffer's rest.
    first, second = np.random.default_rng((5, 2, 0)).permutation(2)
    stream = [f"video{20 * shard + number}" for shard in (first, second) for number in range(20)]
    random, buffer, expected = np.random.default_rng((5, 2, 1)), stream[:11], []
    for identifier in stream[11:]:
        drawn = random.integers(11)
        expected.append(buffer[drawn])
        buffer[drawn] = identifier
    assert orders[0] == expected + [buffer[drawn] for drawn in random.permutation(11)]


def test_copies_count_a_corrupt_record_once(tmp_path: Path):
    shards = write_shards(tmp_path, [6])
    damage_data(shards[0], [2])
    batches = Batches(shards, SPEC, CLASSES, 2, skip_corrupt=True, copies=torch.full((CLASSES,), 4.0))
    assert sum(batch.skipped.records for batch in batches) == 1


@given(
    frequencies=st.lists(st.floats(2**-13, 1, width=32), min_size=1, max_size=9),
    power=st.floats(0, 1, width=32),
)
@example(frequencies=[2**-13, 0.01, 0.01, 0.01, 1], power=1)  # both limits
def test_balanced_copies_are_their_formula(frequencies: list[float], power: float):
    found = balanced_copies(torch.tensor(frequencies), power)
    expected = np.clip((np.median(frequencies) / np.array(frequencies)) ** power, 1 / 8, 8)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_labels_that_do_not_occur_are_no_measure_of_those_that_do():
    assert balanced_copies(torch.tensor([0.0, 0, 0, 0, 2, 4, 8]), 1)[4:].tolist() == [2, 1, 0.5]


def test_full_balancing_makes_labels_equally_frequent(tmp_path: Path):
    """One label a video, 2 to 16 videos a label: with power 1 each label comes as often as the median one."""
    counts = np.array([2, 4, 8, 16, 4])
    labels = np.repeat(np.arange(5), counts)
    frames = {m.name: np.zeros((1, m.size), np.uint8) for m in SPEC.modalities}
    videos = [Video(f"video{number}", frames, np.array([label])) for number, label in enumerate(labels)]
    write_records(tmp_path / "one.tfrecord", map(to_sequence_example, videos))
    frequencies = torch.tensor(counts / len(labels), dtype=torch.float32)
    for power, epochs, expected in [(0, 2, counts), (1, 200, [4, 4, 4, 4, 4])]:
        found = np.zeros(5)
        batches = Batches([tmp_path / "one.tfrecord"], SPEC, 5, 99, copies=balanced_copies(frequencies, power))
        for epoch in range(epochs):
            for batch in batches.epoch(epoch):
                found += np.bincount(batch.labels, minlength=5)
        np.testing.assert_allclose(found / epochs, expected, atol=5 * np.sqrt(16 / 4 / 200))


def test_real_shards_at_both_levels(data_dir: Path):
    audioset = expand_shards([data_dir / "audioset" / "train" / "train0[01].tfrecord"])
    ids = ids_of(Batches(audioset, infer_spec(audioset), 527, 256, shuffle_buffer=500, workers=2))
    assert Counter(ids) == Counter(ids_of(Batches(audioset, infer_spec(audioset), 527, 64)))
    assert len(set(ids)) == len(ids) == 2 * 1385
    means = expand_shards([data_dir / "yt8m-video-level" / "eval" / "eval00.tfrecord"])
    batch = next(iter(Batches(means, infer_spec(means), 3862, 8)))
    assert batch.padded()["mean_rgb"].shape == (8, 1, 1024)
    assert batch.frames["mean_audio"].dtype == torch.float32


@pytest.mark.parametrize("workers", [0, 3])
def test_an_epoch_begun_in_the_middle_is_the_rest_of_it(tmp_path: Path, workers: int):
    shards = write_shards(tmp_path, [20, 0, 13])
    damage_data(shards[0], [4])
    batches = Batches(shards, SPEC, CLASSES, 4, shuffle_buffer=9, workers=workers, skip_corrupt=True)
    whole = [batch.ids for batch in batches.epoch(1)]
    for start in range(len(whole) + 1):
        assert [batch.ids for batch in batches.epoch(1, start)] == whole[start:]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_held_of_a_batch_is_never_written_to(tmp_path: Path, workers: int):
    """Whatever is held: a batch, a tensor, a view of one, its storage, an array on it."""
    batches = Batches(write_shards(tmp_path, [150]), SPEC, CLASSES, 2, shuffle_buffer=9, workers=workers)
    random, held = np.random.default_rng(0), []
    for epoch in range(4):
        for batch in batches.epoch(epoch):
            rgb, audio = batch.frames["rgb"], batch.frames["audio"]
            held.append(
                [
                    batch,
                    rgb,
                    rgb[1:].T,
                    audio.numpy()[:1].data,
                    audio.untyped_storage(),
                    audio.reshape(-1)[3:].numpy(),
                    None,
                ][random.integers(7)]
            )
            held.append(content(held[-1]))
            # Letting go of some in any order is what makes memory free.
            if len(held) > 40:
                drop = 2 * random.integers(20)
                assert content(held[drop]) == held[drop + 1]
                del held[drop : drop + 2]
    assert all(content(thing) == was for thing, was in zip(held[::2], held[1::2], strict=True))


def content(thing: Batch | torch.Tensor | torch.UntypedStorage | np.ndarray | memoryview | None) -> bytes:
    """A copy of what is there now."""
    if isinstance(thing, Batch):
        return b"".join(frames.numpy().tobytes() for frames in thing.frames.values())
    if isinstance(thing, torch.Tensor):
        return thing.numpy().tobytes()
    if isinstance(thing, torch.UntypedStorage):
        return bytes(thing)
    return b"" if thing is None else thing.tobytes()
