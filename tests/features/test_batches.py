"""Batches: content, order, nothing lost or repeated over workers, and corrupt records counted."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidfit.errors import DataError
from vidfit.features.batches import Batch, Batches, collate
from vidfit.features.example import infer_spec, read_videos, to_sequence_example
from vidfit.features.shards import expand_shards
from vidfit.features.spec import FeatureSpec, Modality, Video
from vidfit.features.tfrecord import CorruptRecordError, write_records

SPEC = FeatureSpec(modalities=(Modality(name="rgb", size=4), Modality(name="audio", size=2)))
CLASSES = 7
# More loader workers than cores is what some tests are about.
many_workers = pytest.mark.filterwarnings("ignore:This DataLoader will create")


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


def ids_of(batches) -> list[str]:
    return [identifier for batch in batches for identifier in batch.ids]


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


def test_to_moves_every_tensor():
    moved = collate([make_video(1)], skipped=3).to("meta")
    tensors = [*moved.frames.values(), moved.num_frames, moved.labels, moved.label_counts]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert moved.skipped == 3


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


@many_workers
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


def test_workers_leave_the_global_random_state_alone(tmp_path: Path):
    shards = write_shards(tmp_path, [3])
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(Batches(shards, SPEC, CLASSES, 2, workers=1))
    assert torch.equal(torch.rand(1), expected)


@many_workers
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_corrupt_records_are_skipped_and_counted(tmp_path: Path, workers: int):
    shards = write_shards(tmp_path, [6, 6])
    damage_data(shards[0], [1, 2])
    damage_data(shards[1], [5])
    batches = list(Batches(shards, SPEC, CLASSES, 2, workers=workers, skip_corrupt=True))
    assert sorted(ids_of(batches)) == sorted(f"video{number}" for number in (0, 3, 4, 5, 6, 7, 8, 9, 10))
    assert sum(batch.skipped for batch in batches) == 3


def test_a_truncated_last_record_is_one_skipped_record(tmp_path: Path):
    shards = write_shards(tmp_path, [4])
    shards[0].write_bytes(shards[0].read_bytes()[:-3])
    batches = list(Batches(shards, SPEC, CLASSES, 3, skip_corrupt=True))
    assert ids_of(batches) == ["video0", "video1", "video2"]
    assert sum(batch.skipped for batch in batches) == 1


@many_workers
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
    with pytest.raises(DataError, match=r"no record that can be read \(2 corrupt\)"):
        list(Batches(shards, SPEC, CLASSES, 2, skip_corrupt=True))


def test_an_epoch_that_is_given_up_ends_its_workers(tmp_path: Path):
    epoch = Batches(write_shards(tmp_path, [30]), SPEC, CLASSES, 1, workers=1).epoch(0)
    assert isinstance(next(epoch), Batch)
    assert torch.multiprocessing.active_children()
    del epoch
    assert not torch.multiprocessing.active_children()


def test_no_more_videos_are_read_than_buffer_and_batches_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Memory does not follow the number of shards: reading stays a fixed distance ahead of what was delivered."""
    shards = write_shards(tmp_path, [4] * 25)
    read = 0

    def counting(*arguments):
        nonlocal read
        for video in read_videos(*arguments):
            read += 1
            yield video

    monkeypatch.setattr("vidfit.features.batches.read_videos", counting)
    delivered = 0
    for batch in Batches(shards, SPEC, CLASSES, 5, shuffle_buffer=10):
        delivered += len(batch)
        assert read <= delivered + 10 + 2 * 5
    assert read == delivered == 100


def test_real_shards_at_both_levels(data_dir: Path):
    audioset = expand_shards([data_dir / "audioset" / "train" / "train0[01].tfrecord"])
    ids = ids_of(Batches(audioset, infer_spec(audioset), 527, 256, shuffle_buffer=500, workers=2))
    assert Counter(ids) == Counter(ids_of(Batches(audioset, infer_spec(audioset), 527, 64)))
    assert len(set(ids)) == len(ids) == 2 * 1385
    means = expand_shards([data_dir / "yt8m-video-level" / "eval" / "eval00.tfrecord"])
    batch = next(iter(Batches(means, infer_spec(means), 3862, 8)))
    assert batch.padded()["mean_rgb"].shape == (8, 1, 1024)
    assert batch.frames["mean_audio"].dtype == torch.float32
