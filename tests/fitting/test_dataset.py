"""What `vidfit fit` is given: shards or a folder of features; and what is refused."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.fitting.making import write_features, write_names, write_videos
from vidfit.errors import DataError, OutputError
from vidfit.features.example import write_shard
from vidfit.features.spec import Video
from vidfit.files import read_table, write_table
from vidfit.fitting.dataset import complete_intervals, find_dataset, read_dataset
from vidfit.progress import silent


def test_shards_and_their_vocabulary(tmp_path: Path):
    shards = [write_videos(tmp_path / "data" / f"{seed}.tfrecord", 30, seed) for seed in range(2)]
    names = write_names(tmp_path / "names.csv")
    for given in ("data", "data/*", "data/*.tfrecord"):
        dataset = find_dataset([str(tmp_path / given)], [], str(names), tmp_path / "run", silent)
        assert (dataset.shards, dataset.eval, dataset.vocabulary) == (shards, [], names)
    data = read_dataset(dataset, False, silent)
    assert data.spec.total_size == 16
    assert data.shards["train"] == shards
    assert not (tmp_path / "run").exists()


def test_a_folder_of_features_has_its_own_names_and_eval_shards(tmp_path: Path):
    for name in ("train-0", "validation-0", "eval-0"):
        write_videos(tmp_path / "shards" / f"{name}.tfrecord", 5)
    write_names(tmp_path / "vocabulary.csv")
    (tmp_path / "extractor.json").write_text("{}")
    dataset = find_dataset([str(tmp_path)], [], None, tmp_path / "run", silent)
    assert [shard.name for shard in dataset.shards] == ["train-0.tfrecord", "validation-0.tfrecord"]
    assert [shard.name for shard in dataset.eval] == ["eval-0.tfrecord"]
    assert dataset.vocabulary == tmp_path / "vocabulary.csv"
    for shard in dataset.shards:
        shard.unlink()
    with pytest.raises(DataError, match="has no shards but those for eval"):
        find_dataset([str(tmp_path)], [], None, tmp_path / "run", silent)


def test_a_table_with_an_interval_for_each_label_is_learned_from(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    features = write_features(tmp_path / "features", 60)
    dataset = find_dataset([str(features)], [], None, tmp_path / "run", silent)
    data = read_dataset(dataset, False, silent)
    table = features / "segments.csv"
    assert complete_intervals(dataset, data, 1, 1) == table
    assert complete_intervals(dataset, data, 0.5, 2) == table
    rows = table.read_text().splitlines()
    id, *_ = rows[-1].split(",")
    *_, last = rows
    # Lost; in no second's middle; after the end of a video of one to three frames.
    for changed in ([], [last.replace(",0,2", ",0.6,1.4")], [last.replace(",0,2", ",3,9")]):
        table.write_text("\n".join([*rows[:-1], *changed]) + "\n")
        caplog.clear()
        with caplog.at_level("INFO"):
            assert complete_intervals(dataset, data, 1, 1) is None
        assert f"1 video without an interval for a label, or with too short a one ({id}, ...)" in caplog.text
    table.unlink()
    assert find_dataset([str(features)], [], None, tmp_path / "run", silent).intervals is None


def read(tmp_path: Path, count: int, names: Path | None = None, evaluated: Path | None = None, **options):
    shard = write_videos(tmp_path / "a.tfrecord", count, **options)
    names = names or write_names(tmp_path / "names.csv")
    own = [str(evaluated)] if evaluated else []
    return read_dataset(find_dataset([str(shard)], own, str(names), tmp_path / "run", silent), False, silent)


def test_fifty_videos_are_enough(tmp_path: Path):
    assert sum(survey.videos for survey in read(tmp_path, 50).surveys.values()) == 50


@pytest.mark.parametrize(
    ("count", "labels", "message"),
    [
        (49, lambda number: [number % 4], "49 labelled videos are too few .*; give at least 50"),
        (60, lambda number: [], "none of its videos has a label; give labelled shards"),
        (98, lambda number: [1] * (number % 2), "49 labelled videos are too few"),
        (60, lambda number: [0, 2], "all videos have the same labels, .*; give videos of other labels"),
        (60, lambda number: [number % 7], r"a\.tfrecord, record 4: 'labels' has 4, outside the vocabulary"),
    ],
)
def test_labels_that_teach_nothing_are_refused(tmp_path: Path, count: int, labels, message: str):
    with pytest.raises(DataError, match=message):
        read(tmp_path, count, labels=labels)


def test_videos_that_are_all_alike_are_refused(tmp_path: Path):
    frames = {"rgb": np.full((2, 12), 100, np.uint8), "audio": np.full((2, 4), 100, np.uint8)}
    write_shard(tmp_path / "a.tfrecord", (Video(f"{it}", frames, np.array([it % 4])) for it in range(60)))
    dataset = find_dataset([str(tmp_path)], [], str(write_names(tmp_path / "names.csv")), tmp_path / "run", silent)
    with pytest.raises(DataError, match=r"a\.tfrecord: all videos have the same frames, .*; extract them again"):
        read_dataset(dataset, False, silent)


def test_one_label_and_videos_without_it_can_be_told_apart(tmp_path: Path):
    assert read(tmp_path, 120, labels=lambda number: [1] * (number % 2)).surveys


def test_a_vocabulary_of_one_label_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="the vocabulary has one label; a second one"):
        read(tmp_path, 60, write_names(tmp_path / "one.csv", ["cat"]), labels=lambda number: [0])


def test_videos_to_learn_from_are_not_measured_on(tmp_path: Path):
    with pytest.raises(DataError, match="a shard may be in one only"):
        read(tmp_path, 60, evaluated=tmp_path / "a.tfrecord")
    copy = Path(shutil.copy(tmp_path / "a.tfrecord", tmp_path / "copy.tfrecord"))
    with pytest.raises(DataError, match="has the same content"):
        read(tmp_path, 60, evaluated=copy)


def test_eval_shards_of_other_features_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.fitting.making.SIZES", {"rgb": 10, "audio": 4})
    other = write_videos(tmp_path / "other.tfrecord", 10)
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"other\.tfrecord: has 'rgb' of 10 uint8, .*; give others"):
        read(tmp_path, 60, evaluated=other)


def test_a_damaged_record_is_named(tmp_path: Path):
    shard = write_videos(tmp_path / "b" / "b.tfrecord", 60)
    data = bytearray(shard.read_bytes())
    data[400] ^= 1
    shard.write_bytes(np.array(data, np.uint8).tobytes())
    dataset = find_dataset([str(shard)], [], str(write_names(tmp_path / "names.csv")), tmp_path / "run", silent)
    with pytest.raises(DataError, match=r"b\.tfrecord, record \d"):
        read_dataset(dataset, False, silent)


def test_extracted_videos_are_used_again_and_others_refused(tmp_path: Path):
    pytest.importorskip("av")
    features, names = tmp_path / "run" / "features", ["cat", "dog"]
    frames = {"rgb": np.zeros((2, 12), np.uint8), "audio": np.zeros((2, 4), np.uint8)}
    videos = [Video(f"{it:02d}.mp4", frames, np.array([it % 2])) for it in range(60)]
    (features / "shards").mkdir(parents=True)
    write_shard(features / "shards" / "train-0000.tfrecord", videos)
    write_names(features / "vocabulary.csv", names)
    (features / "extractor.json").write_text("{}")
    write_table(features / "failed.csv", ["path", "reason"], [])
    write_table(features / "videos.csv", ["id", "split"], ([it.id, "train"] for it in videos))
    table = tmp_path / "labels.csv"
    write_table(table, ["path", "labels"], ([it.id, names[it.labels[0]]] for it in videos))
    dataset = find_dataset([str(table)], [], None, tmp_path / "run", silent)
    assert dataset.shards == [features / "shards" / "train-0000.tfrecord"]
    table.write_text(table.read_text().replace("00.mp4,cat", "00.mp4,dog"))
    refused = "holds features of other videos, or other labels or intervals of them; choose another"
    with pytest.raises(OutputError, match=refused):
        find_dataset([str(table)], [], None, tmp_path / "run", silent)


def test_extracted_videos_with_other_intervals_are_refused(tmp_path: Path):
    pytest.importorskip("av")
    features = write_features(tmp_path / "run" / "features", 60)
    header, table = ["path", "label", "start", "end"], tmp_path / "intervals.csv"
    rows = [list(row.values())[:2] for row in read_table(features / "segments.csv")]
    write_table(features / "failed.csv", ["path", "reason"], [])
    write_table(
        features / "videos.csv", ["id", "split", "duration"], ([f"0-{it}", "train", "2.000"] for it in range(60))
    )
    write_table(features / "segments.csv", header, ([*row, "0.000", "2.000"] for row in rows))

    def find() -> Path | None:
        return find_dataset([str(table)], [], None, tmp_path / "run", silent).intervals

    for end in (2, "inf"):
        write_table(table, header, ([*row, 0, end] for row in rows))
        assert find() == features / "segments.csv"
    write_table(table, header, ([*row, 0, 1] for row in rows))
    with pytest.raises(OutputError, match="other labels or intervals of them"):
        find()


def test_too_few_videos_are_refused_before_they_are_read(tmp_path: Path):
    pytest.importorskip("av")
    table = tmp_path / "labels.csv"
    write_table(table, ["path", "labels"], ([f"{it}.mp4", f"{it % 2}"] for it in range(49)))
    with pytest.raises(DataError, match="49 labelled videos are too few"):
        find_dataset([str(table)], [], None, tmp_path / "run", silent)
    assert not (tmp_path / "run").exists()
