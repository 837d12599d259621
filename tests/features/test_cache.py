"""Caches: the same videos as the shards, whichever way they are read; added to, compared, and told when damaged."""

import json
import os
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests.corpus import write_recipe
from tests.features.test_loader import CLASSES, SPEC, damage_data, ids_of, make_video, write_shards
from vidfit.cli import app
from vidfit.errors import DataError, OutputError, VidfitError
from vidfit.features.cache import INDEX, CacheIndex, checksum, open_cached, read_index
from vidfit.features.cache_writer import write_cache
from vidfit.features.example import to_sequence_example, write_shard
from vidfit.features.inspect import inspect_shards
from vidfit.features.loader import Batches
from vidfit.features.shards import estimate_records, expand_shards, infer_id_key, infer_spec, read_videos
from vidfit.features.skipped import Skipped
from vidfit.features.spec import FeatureSpec, Modality, Video
from vidfit.features.tfrecord import CorruptRecordError, write_records


def cached(shards: list[Path], folder: Path, **options) -> CacheIndex:
    return write_cache(shards, folder, infer_id_key(shards), infer_spec(shards, True), **options)[0]


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return write_shards(tmp_path, [20, 0, 13])


@pytest.fixture
def files(shards: list[Path], tmp_path: Path) -> list[Path]:
    cached(shards, tmp_path / "cache")
    return expand_shards([tmp_path / "cache"])


def assert_equal_batches(found: Batches, expected: Batches) -> None:
    for one, other in zip(found.epoch(1), expected.epoch(1), strict=True):
        assert one.ids == other.ids
        assert one.frames.keys() == other.frames.keys()
        pairs = [(one.frames[name], other.frames[name]) for name in one.frames]
        pairs += [(getattr(one, name), getattr(other, name)) for name in ("num_frames", "labels", "label_counts")]
        assert all(torch.equal(*pair) and pair[0].dtype == pair[1].dtype for pair in pairs)


def test_a_file_is_arrow_that_others_read(files: list[Path]):
    """The columns of `columns_of`, by pyarrow alone."""
    with pa.memory_map(str(files[0])) as source:
        table = pa.ipc.open_file(source).read_all()
    assert [f"{field.name}: {field.type}" for field in table.schema] == [
        "id: string",
        "labels: list<item: int64>",
        "segments: list<item: struct<start: int64, end: int64, label: int64, score: float>>",
        "crc32c: uint32",
        "rgb: list<item: fixed_size_list<item: uint8>[4]>",
        "audio: list<item: fixed_size_list<item: uint8>[2]>",
    ]
    rows = table.to_pylist()
    assert len(rows) == 20
    for number, row in enumerate(rows):
        video = make_video(number)
        assert row["id"] == video.id
        assert row["labels"] == video.labels.tolist()
        assert row["segments"] == []
        assert {name: row[name] for name in video.frames} == {k: v.tolist() for k, v in video.frames.items()}


def test_a_video_is_a_view_of_the_file(files: list[Path]):
    video = open_cached(files[0]).video(3)
    assert not any(frames.flags.writeable or frames.flags.owndata for frames in video.frames.values())


@pytest.mark.parametrize("workers", [0, 1, 3, 5])
@pytest.mark.parametrize("size", [4, 1000])
def test_in_order_a_cache_gives_the_bits_of_its_shards(shards, files, workers: int, size: int):
    batches = [Batches(kind, SPEC, CLASSES, size, workers=workers) for kind in (files, shards)]
    assert_equal_batches(*batches)


def test_video_level_features_are_cached_alike(tmp_path: Path):
    random = np.random.default_rng(0)
    videos = [
        Video(f"v{number}", {"mean": random.normal(size=(1, 6)).astype(np.float32)}, np.arange(number % 3))
        for number in range(7)
    ]
    write_shard(tmp_path / "means.tfrecord", videos)
    shards = [tmp_path / "means.tfrecord"]
    cached(shards, tmp_path / "cache")
    files = expand_shards([tmp_path / "cache"])
    assert infer_spec(files) == infer_spec(shards)
    assert_equal_batches(*(Batches(kind, infer_spec(shards), 3, 3) for kind in (files, shards)))


def test_whatever_reads_shards_reads_a_cache(shards: list[Path], files: list[Path]):
    assert infer_spec(files) == infer_spec(shards)
    assert inspect_shards(files) == inspect_shards(shards)
    assert estimate_records(files) == 33
    part = [video.id for video in read_videos(files[0], part=1, parts=3) if isinstance(video, Video)]
    assert part == [f"video{number}" for number in range(1, 20, 3)]


@pytest.mark.parametrize("workers", [0, 2, 7])
def test_a_shuffled_cache_is_one_permutation_of_all_videos(files: list[Path], workers: int):
    def order(seed: int, epoch: int) -> list[str]:
        batches = Batches(files, SPEC, CLASSES, 4, shuffle_buffer=1, seed=seed, workers=workers)
        return ids_of(batches.epoch(epoch))

    orders = [order(0, 0), order(0, 1), order(1, 0)]
    assert orders[0] == order(0, 0)
    for ids in orders:
        assert Counter(ids) == Counter(f"video{number}" for number in range(33))
    assert len(set(map(tuple, orders))) == 3
    # The rule written out: worker w of n has every n-th place of a permutation.
    places = np.random.default_rng((1, 0, 0)).permutation(33)
    shares = [[f"video{number}" for number in places[worker :: workers or 1]] for worker in range(workers or 1)]
    assert [[found for found in orders[2] if found in share] for share in shares] == shares


def test_copies_are_spread_by_the_buffer(files: list[Path]):
    """Copies of a video must not all be in one batch; the buffer parts them as it does with shards."""
    copies = torch.full((CLASSES,), 3.0)
    batches = list(Batches(files, SPEC, CLASSES, 8, shuffle_buffer=30, copies=copies))
    counts = Counter(ids_of(batches))
    assert counts == Counter({f"video{n}": 3 if len(make_video(n).labels) else 1 for n in range(33)})
    assert sum(max(Counter(batch.ids).values()) == 3 for batch in batches) < len(batches) / 2


def test_a_second_call_reads_nothing_again(shards, files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    before = {path.name: path.stat().st_mtime_ns for path in files}
    monkeypatch.setattr("vidfit.features.cache_writer.read_examples", None)
    index, added = write_cache(shards, tmp_path / "cache", "id", SPEC)
    assert added == 0
    assert {path.name: path.stat().st_mtime_ns for path in files} == before
    assert [entry.records for entry in index.shards.values()] == [20, 0, 13]


def test_a_stopped_call_is_gone_on_with_and_until_then_no_cache(tmp_path: Path):
    shards = write_shards(tmp_path, [4, 4, 4])
    whole = shards[1].read_bytes()
    damage_data(shards[1], [2])
    with pytest.raises(CorruptRecordError, match=r"01\.tfrecord, record 2"):
        cached(shards, tmp_path / "cache")
    with pytest.raises(DataError, match=r"not finished, 2 shards are missing, 01\.tfrecord for one"):
        expand_shards([tmp_path / "cache"])
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["00.tfrecord.arrow", INDEX]
    shards[1].write_bytes(whole)
    _, added = write_cache(shards, tmp_path / "cache", "id", SPEC)
    assert added == 2
    assert estimate_records(expand_shards([tmp_path / "cache"])) == 12


def test_corrupt_records_are_left_out_and_counted(tmp_path: Path):
    shards = write_shards(tmp_path, [6, 3])
    damage_data(shards[0], [1, 5])
    done = CliRunner().invoke(app, ["cache", *map(str, shards), "-o", str(tmp_path / "cache"), "--skip-corrupt"])
    assert done.exit_code == 0, done.output
    assert "2 corrupt records (" in done.stderr
    assert "2 of 2 shards cached now; in all 7 videos" in done.stdout
    assert [entry.skipped for entry in read_index(tmp_path / "cache").shards.values()] == [2, 0]
    with pytest.raises(DataError, match=r"00\.tfrecord\.arrow: lacks 2 corrupt records"):
        cached(shards, tmp_path / "cache")
    assert ids_of(Batches(expand_shards([tmp_path / "cache"]), SPEC, CLASSES, 9)) == [
        f"video{number}" for number in (0, 2, 3, 4, 6, 7, 8)
    ]


def test_another_shard_of_the_same_name_is_refused_unless_asked(shards: list[Path], files: list[Path], tmp_path: Path):
    write_records(shards[0], [to_sequence_example(make_video(number)) for number in range(40, 60)])
    with pytest.raises(OutputError, match=r"00\.tfrecord\.arrow: was made from another 00\.tfrecord"):
        cached(shards, tmp_path / "cache")
    cached(shards, tmp_path / "cache", overwrite=True)
    assert ids_of(Batches(files, SPEC, CLASSES, 99))[:20] == [f"video{number}" for number in range(40, 60)]


def test_a_cache_of_other_features_is_refused_unless_asked(shards: list[Path], files: list[Path], tmp_path: Path):
    del files
    write_shard(tmp_path / "other.tfrecord", [Video("a", {"rgb": np.zeros((2, 3), np.uint8)}, np.array([0]))])
    other = [tmp_path / "other.tfrecord"]
    with pytest.raises(OutputError, match="is a cache of other features"):
        cached(other, tmp_path / "cache")
    assert list(cached(other, tmp_path / "cache", overwrite=True).shards) == ["other.tfrecord"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_no_cache_is_left_alone(shards: list[Path], tmp_path: Path, kind: str):
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("mine")
    else:
        place.mkdir()
        (place / "mine").touch()
    with pytest.raises(OutputError, match=r"place: (holds something and is no cache|is a file, not a folder)"):
        cached(shards, place)


def test_shards_of_one_name_and_files_of_a_cache_are_refused(shards: list[Path], files: list[Path], tmp_path: Path):
    (tmp_path / "again").mkdir()
    again = write_shards(tmp_path / "again", [2])
    with pytest.raises(DataError, match=r"2 shards are called 00\.tfrecord"):
        cached([shards[0], *again], tmp_path / "other")
    with pytest.raises(DataError, match="is in a cache already"):
        cached(files, tmp_path / "other")


def test_features_that_it_has_not_are_told(files: list[Path]):
    spec = FeatureSpec(modalities=(Modality(name="rgb", size=5),))
    with pytest.raises(DataError, match=r"has no feature 'rgb' of 5 uint8 values a frame \(its features: 'rgb' of 4"):
        list(read_videos(files[0], spec))
    audio = FeatureSpec(modalities=SPEC.modalities[1:])
    assert {tuple(video.frames) for video in read_videos(files[0], audio) if isinstance(video, Video)} == {("audio",)}


def test_labels_outside_the_vocabulary_are_an_error(files: list[Path]):
    with pytest.raises(DataError, match=r"tfrecord\.arrow, record \d+: 'labels' has \d, outside the vocabulary"):
        list(Batches(files, SPEC, 3, 9, skip_corrupt=True))


def test_files_out_of_their_cache_and_a_damaged_index_are_told(files: list[Path], tmp_path: Path):
    stray = files[0].rename(tmp_path / "stray.arrow")
    with pytest.raises(DataError, match=r"cache\.json: cannot be read"):
        list(read_videos(stray))
    with pytest.raises(DataError, match=r"00\.tfrecord\.arrow: is damaged or was replaced.*call the `vidfit cache`"):
        list(read_videos(files[0]))
    index = files[0].parent / INDEX
    index.write_text(json.dumps({**json.loads(index.read_text()), "version": 1}))
    with pytest.raises(DataError, match=r"cache\.json: is damaged or of another version \(version: "):
        expand_shards([index.parent])


def test_a_damaged_record_is_named_or_skipped(shards: list[Path], files: list[Path], tmp_path: Path):
    frames = make_video(7).frames["rgb"].tobytes()
    data = files[0].read_bytes()
    place = data.index(frames)
    files[0].write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    with pytest.raises(CorruptRecordError, match=r"00\.tfrecord\.arrow, record 7: .*remove the file and call"):
        list(Batches(files, SPEC, CLASSES, 9))
    batches = list(Batches(files, SPEC, CLASSES, 9, skip_corrupt=True))
    assert ids_of(batches) == [f"video{number}" for number in range(33) if number != 7]
    assert sum(batch.skipped.records for batch in batches) == 1
    # A second call finds it, and what its message says mends it.
    with pytest.raises(VidfitError, match="record 7"):
        cached(shards, tmp_path / "cache")
    files[0].unlink()
    cached(shards, tmp_path / "cache")
    assert files[0].read_bytes() == data


def test_a_recipe_and_the_verbs_take_either_and_come_to_the_same(corpus: Path, tmp_path: Path):
    """Every set from a cache; the same order, so the same weights and predictions to the bit."""
    places = [(corpus, tmp_path / "shards"), (tmp_path / "caches", tmp_path / "cached")]
    for name in ("train", "validation", "eval"):
        command = ["cache", str(corpus / name), "-o", str(tmp_path / "caches" / name)]
        assert CliRunner().invoke(app, command).exit_code == 0
    (tmp_path / "caches" / "vocabulary.csv").write_bytes((corpus / "vocabulary.csv").read_bytes())
    for data, folder in places:
        folder.mkdir()
        command = ["train", str(write_recipe(folder, data)), "-o", str(folder / "run"), "--member", "mean"]
        done = CliRunner().invoke(app, [*command, "--set", "training.shuffle_buffer=0"])
        assert done.exit_code == 0, done.output
        command = ["predict", str(folder / "run" / "members" / "mean"), str(data / "eval")]
        assert CliRunner().invoke(app, [*command, "-o", str(folder / "out.csv")]).exit_code == 0
    assert (tmp_path / "shards" / "out.csv").read_bytes() == (tmp_path / "cached" / "out.csv").read_bytes()
    one, other = (load_file(folder / "run" / "members" / "mean" / "best.safetensors") for _, folder in places)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def damage(file: Path, number: int, modality: str = "rgb") -> None:
    """Flip a bit of a video's frames, in place; the time of change is told apart however coarse the clock is."""
    data, state = file.read_bytes(), file.stat()
    place = data.index(make_video(number).frames[modality].tobytes())
    with file.open("r+b") as writing:
        writing.seek(place)
        writing.write(bytes([data[place] ^ 1]))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns + 1))


@pytest.mark.parametrize("skip_corrupt", [False, True])
@pytest.mark.parametrize("shuffle_buffer", [0, 1])
@pytest.mark.parametrize("how", ["written to", "cut short", "removed"])
def test_a_file_that_changes_while_in_use_ends_the_reading(
    files: list[Path], how: str, shuffle_buffer: int, skip_corrupt: bool
):
    """In the first epoch, and in another, where checksums are not compared again."""
    for epochs in (0, 1):
        whole = files[0].read_bytes()
        batches = Batches(files, SPEC, CLASSES, 1, shuffle_buffer=shuffle_buffer, skip_corrupt=skip_corrupt)
        for epoch in range(epochs):
            assert len(list(batches.epoch(epoch))) == 33
        epoch = batches.epoch(epochs)
        next(epoch)
        if how == "written to":
            damage(files[0], 5)
        elif how == "cut short":
            os.truncate(files[0], len(whole) - 8)
        else:
            files[0].unlink()
        with pytest.raises(DataError, match=r"00\.tfrecord\.arrow: (was removed or changed while|is damaged)"):
            list(epoch)
        files[0].write_bytes(whole)


def test_a_checksum_is_compared_once(files: list[Path], monkeypatch: pytest.MonkeyPatch):
    calls = []

    def counted(number: int, video: Video) -> int:
        calls.append(number)
        return checksum(number, video)

    monkeypatch.setattr("vidfit.features.cache.checksum", counted)
    batches = Batches(files, SPEC, CLASSES, 4, shuffle_buffer=1)
    for epoch in range(3):
        list(batches.epoch(epoch))
    assert len(calls) == 33
    list(Batches(files, SPEC, CLASSES, 4))
    assert len(calls) == 66


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_shuffled_cache_is_begun_at_any_batch(files: list[Path], workers: int, ranks: int):
    batches = Batches(files, SPEC, CLASSES, 4, shuffle_buffer=1, workers=workers)
    for share in (batches.of_rank(rank, ranks) for rank in range(ranks)):
        whole = [batch.ids for batch in share.epoch(2)]
        for start in range(len(whole) + 2):
            assert [batch.ids for batch in share.epoch(2, start)] == whole[start:]


def test_what_comes_before_is_not_read_unless_some_of_it_was_skipped(files: list[Path]):
    options = {"shuffle_buffer": 1, "skip_corrupt": True}
    order = ids_of(Batches(files, SPEC, CLASSES, 4, **options))
    number = int(order[1].removeprefix("video"))
    damage(next(file for file, end in zip(files, (20, 20, 33), strict=True) if number < end), number)
    batches = Batches(files, SPEC, CLASSES, 4, **options)
    whole = list(batches)
    assert [batch.skipped.records for batch in whole] == [1, *[0] * 7]
    rest = list(batches.epoch(0, 2, skipped=Skipped(1)))
    assert [batch.ids for batch in rest] == [batch.ids for batch in whole[2:]]
    # As if there were none, the batches lie where the whole records say.
    assert ids_of(Batches(files, SPEC, CLASSES, 4, shuffle_buffer=1).epoch(0, 1)) == order[4:]


def test_another_process_opens_its_own_files(files: list[Path]):
    batches = Batches(files, SPEC, CLASSES, 4, shuffle_buffer=1)
    ids = ids_of(batches)
    sent = pickle.dumps(batches)
    assert len(sent) < 2000
    assert ids_of(pickle.loads(sent)) == ids
