"""The generated corpus: its format, its determinism, and what it is made of."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from vidfit.errors import OutputError
from vidfit.features.inspect import inspect_shards
from vidfit.features.shards import expand_shards, read_videos
from vidfit.features.spec import Video, Vocabulary
from vidfit.features.synthetic import CorpusConfig, write_corpus

SMALL = CorpusConfig(
    train_videos=25, validation_videos=7, eval_videos=1, videos_per_shard=10, classes=6, rgb_size=32, audio_size=16
)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_corpus_has_the_layout_of_youtube_8m(tmp_path: Path):
    calls = []
    write_corpus(tmp_path / "corpus", SMALL, lambda done, of: calls.append((done, of)))
    assert calls == [(10, 33), (20, 33), (25, 33), (32, 33), (33, 33)]
    train = inspect_shards(expand_shards([tmp_path / "corpus" / "train"]))
    assert train["records"] == 25
    assert train["level"] == "frame"
    assert train["id_key"] == "id"
    assert train["features"] == {"rgb": 32, "audio": 16}
    assert 10 <= train["frames"]["min"] <= train["frames"]["max"] <= 40
    assert train["labels"]["distinct"] <= 6
    names = Vocabulary.from_csv(tmp_path / "corpus" / "vocabulary.csv").names
    assert names == ("seen 0", "heard 1", "both 2", "seen 3", "heard 4", "both 5")
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_ids_are_unique_over_all_splits(tmp_path: Path):
    write_corpus(tmp_path / "corpus", SMALL)
    shards = expand_shards([tmp_path / "corpus" / "**" / "*.tfrecord"])
    ids = [video.id for shard in shards for video in read_videos(shard) if isinstance(video, Video)]
    assert len(set(ids)) == len(ids) == 33


def test_the_seed_decides_every_byte(tmp_path: Path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_corpus(tmp_path / name, SMALL.model_copy(update={"seed": seed}))
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert content(tmp_path / "a")["train/train000.tfrecord"] != content(tmp_path / "c")["train/train000.tfrecord"]


def test_a_shard_does_not_depend_on_the_others(tmp_path: Path):
    write_corpus(tmp_path / "small", SMALL)
    write_corpus(tmp_path / "large", SMALL.model_copy(update={"train_videos": 50}))
    small, large = content(tmp_path / "small"), content(tmp_path / "large")
    for name in ("train/train000.tfrecord", "validation/validation000.tfrecord", "eval/eval000.tfrecord"):
        assert small[name] == large[name]


def test_without_noise_a_label_shows_as_two_words_in_the_same_frames(tmp_path: Path):
    """Singular values count words: two in the part of a label, none in empty frames."""
    clear = {"noise": 0.0, "distractors": 0.0, "rgb_strength": 2.0, "audio_strength": 2.0, "variation": 0.8}
    one_label = {"labels_per_video": 1.0, "missing_labels": 0.0, "train_videos": 60, "rgb_size": 96, "audio_size": 64}
    config = SMALL.model_copy(update=clear | one_label)
    write_corpus(tmp_path / "corpus", config)
    columns = {"seen": {"rgb"}, "heard": {"audio"}, "both": {"rgb", "audio"}}
    names = Vocabulary.from_csv(tmp_path / "corpus" / "vocabulary.csv").names
    kinds = set()
    for shard in expand_shards([tmp_path / "corpus" / "train"]):
        for video in read_videos(shard):
            assert isinstance(video, Video)
            (label,) = video.labels
            kind = names[label].split()[0]
            kinds.add(kind)
            floats = np.concatenate([video.frames["rgb"], video.frames["audio"]], axis=1) * (4 / 255) + 4 / 512 - 2
            floats[np.abs(floats) < 0.01] = 0  # no byte stands for zero
            showing = np.flatnonzero(floats.any(axis=1))
            assert len(showing) == config.part_frames
            assert showing[-1] - showing[0] == config.part_frames - 1
            shown = {name for name, part in (("rgb", floats[:, :96]), ("audio", floats[:, 96:])) if part.any()}
            assert shown == columns[kind]
            singular = np.linalg.svd(floats[showing], compute_uv=False)
            assert singular[1] > 0.5
            assert singular[2] < 0.3  # rounding to bytes
    assert kinds == set(columns)


def test_frequent_labels_come_first(tmp_path: Path):
    write_corpus(tmp_path / "corpus", SMALL.model_copy(update={"train_videos": 300, "zipf": 1.5}))
    counts = np.zeros(6, int)
    for shard in expand_shards([tmp_path / "corpus" / "train"]):
        for video in read_videos(shard):
            assert isinstance(video, Video)
            counts[video.labels] += 1
    assert counts[0] > counts[2] > counts[5] > 0


@pytest.mark.parametrize("obstacle", ["file", "folder"])
def test_nothing_is_overwritten(tmp_path: Path, obstacle: str):
    target = tmp_path / "corpus"
    if obstacle == "file":
        target.write_text("kept")
    else:
        target.mkdir()
        (target / "notes.txt").write_text("kept")
    before = content(tmp_path)
    with pytest.raises(OutputError, match="corpus: exists"):
        write_corpus(target, SMALL)
    assert content(tmp_path) == before


def test_an_empty_folder_is_filled(tmp_path: Path):
    write_corpus(tmp_path, SMALL)
    assert {path.name for path in tmp_path.iterdir()} == {"train", "validation", "eval", "vocabulary.csv"}


def test_the_folder_where_somebody_works_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "corpus").mkdir()
    monkeypatch.chdir(tmp_path / "corpus")
    write_corpus(Path("."), SMALL)
    assert Path("vocabulary.csv").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


@pytest.mark.parametrize("call", ["vidfit.files.os.replace", "vidfit.features.synthetic.Path.rename"])
def test_a_full_disk_is_told_of_the_folder_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str):
    (tmp_path / "corpus").mkdir()

    def fail(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))

    monkeypatch.setattr(call, fail)
    with pytest.raises(OutputError, match=r"corpus: cannot be written \(No space left on device\)") as caught:
        write_corpus(tmp_path / "corpus", SMALL)
    assert "partial" not in str(caught.value)
    assert content(tmp_path) == {}


def test_an_interrupted_corpus_leaves_nothing(tmp_path: Path):
    def stop(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_corpus(tmp_path / "corpus", SMALL, stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_frames": 9, "max_frames": 8},
        {"rgb_words": 2, "classes": 6},
        {"clases": 5},
        {"distractors": 1.5},
        {"noise": float("inf")},
    ],
)
def test_impossible_numbers_are_refused(wrong: dict):
    with pytest.raises(ValidationError):
        CorpusConfig(**wrong)
