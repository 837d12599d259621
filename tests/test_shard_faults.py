"""Shards that are damaged, changed, unlabelled or named twice, as a user of the command line meets them."""

import json
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Call
from tests.corpus import LABELS, VIDEOS, videos, write_corpus
from vidfit import load_recipe, run
from vidfit.features import survey
from vidfit.features.example import write_shard
from vidfit.features.spec import Video
from vidfit.features.tfrecord import read_records

RECIPE = """
data: {train: train, validation: validation, eval: eval, vocabulary: vocabulary.csv}
training: {steps: 8, batch_size: 16, sample_frames: 6, learning_rate: 0.02, validate_every: 8}
members: {mean: {family: {type: mean}, head: {type: logistic}}}
pack: {budget: 1MB, members: [mean]}
"""


@pytest.fixture(autouse=True)
def fresh_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that has just been written counts as settled."""
    monkeypatch.setattr(survey, "_TICK", 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    """A packed file of one small member."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "recipe.yaml").write_text(RECIPE)
    for name in ("train", "validation", "eval", "vocabulary.csv"):
        (folder / name).symlink_to(corpus / name)
    run(load_recipe(folder / "recipe.yaml"), folder / "run")
    return folder / "run" / "model.onnx"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A corpus that a test may change, and a recipe of one small member."""
    corpus = write_corpus(tmp_path / "corpus")
    (corpus / "recipe.yaml").write_text(RECIPE)
    return corpus


def relabel(shard: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Other labels of the same number of bytes; size and time of modification stay as they were."""
    from vidfit.features.example import read_examples

    before = shard.stat()
    read = [video for video in read_examples(shard) if isinstance(video, Video)]
    time.sleep(0.02)  # a tick of the file system's clock
    write_shard(shard, [Video(video.id, video.frames, change(video.labels)) for video in read])
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert shard.stat().st_size == before.st_size


def flip_length(shard: Path, record: int) -> int:
    """Flip a bit in a record's length; returns the bytes that the record takes."""
    sizes = [len(data) + 16 for data in read_records(shard)]
    data = bytearray(shard.read_bytes())
    data[sum(sizes[:record])] ^= 1
    shard.write_bytes(data)
    return sizes[record]


def test_labels_corrected_in_place_are_measured_anew(vidfit: Call, own: Path, tmp_path: Path):
    command = "run", own / "recipe.yaml", "-o", tmp_path / "run"
    assert vidfit(*command)[0] == 0
    first = json.loads((tmp_path / "run" / "summary.json").read_text())
    for shard in sorted((own / "eval").iterdir()):
        relabel(shard, lambda labels: np.unique((labels + 1) % len(LABELS)))
    assert vidfit(*command)[0] == 0
    second = json.loads((tmp_path / "run" / "summary.json").read_text())
    code, out, _ = vidfit("evaluate", tmp_path / "run" / "model.onnx", own / "eval")
    assert code == 0
    assert f"gap {second['packed']['gap']:.4f}" in " ".join(out.split())
    assert second["packed"]["gap"] != first["packed"]["gap"]
    assert second["members"][0]["step"] == first["members"][0]["step"]


def test_other_training_shards_are_told_before_anything(vidfit: Call, own: Path, tmp_path: Path):
    command = own / "recipe.yaml", "-o", tmp_path / "run"
    assert vidfit("train", *command)[0] == 0
    relabel(own / "train" / "train0.tfrecord", lambda labels: np.unique((labels + 1) % len(LABELS)))
    for verb in ("run", "train"):
        code, _, err = vidfit(verb, *command)
        assert code == 2
        assert "was trained with different settings or shards" in err
    assert vidfit("train", *command, "--overwrite")[0] == 0


def test_soft_labels_go_by_content(vidfit: Call, own: Path, model: Path, tmp_path: Path):
    label = "soft-label", model, own / "eval", "-o", tmp_path / "soft"
    assert "2 of 2 shards labelled now" in vidfit(*label)[1]
    assert "0 of 2 shards labelled now" in vidfit(*label)[1]
    relabel(own / "eval" / "eval0.tfrecord", lambda labels: np.unique((labels + 1) % len(LABELS)))
    code, _, err = vidfit(*label)
    assert code == 2
    assert "made from another shard" in err
    assert "1 of 2 shards labelled now" in vidfit(*label, "--overwrite")[1]


def test_a_label_beyond_the_vocabulary_is_found_before_training(vidfit: Call, own: Path, tmp_path: Path):
    shard = own / "eval" / "eval1.tfrecord"
    relabel(shard, lambda labels: np.array([*labels[:-1], len(LABELS)]))
    code, _, err = vidfit("run", own / "recipe.yaml", "-o", tmp_path / "run")
    assert code == 2
    assert f"{shard}, record 0: 'labels' has 5, outside the vocabulary" in err
    assert not (tmp_path / "run").exists()


def test_a_corrupt_eval_record_is_found_before_training(vidfit: Call, own: Path, tmp_path: Path):
    flip_length(own / "eval" / "eval1.tfrecord", 5)
    code, _, err = vidfit("run", own / "recipe.yaml", "-o", tmp_path / "run")
    assert code == 2
    assert "eval1.tfrecord, record 5" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", ["inspect", "evaluate", "predict", "cache", "soft-label", "run"])
def test_a_damaged_length_costs_one_record_and_is_told(vidfit: Call, own: Path, model: Path, tmp_path: Path, verb: str):
    place = "train/train0" if verb == "run" else "eval/eval0"
    shard = own / f"{place}.tfrecord"
    lost = flip_length(shard, 3)
    first = () if verb in ("inspect", "cache") else (model,)
    output = () if verb in ("inspect", "evaluate") else ("-o", tmp_path / ("out.csv" if verb == "predict" else "out"))
    arguments = (own / "recipe.yaml",) if verb == "run" else (*first, shard)
    code, out, err = vidfit(verb, *arguments, *output, "--skip-corrupt")
    assert code == 0
    if verb == "inspect":
        assert "corrupt      1\n" in out
        assert f"corrupt_bytes {lost}\n" in out
        assert f"records      {VIDEOS['eval'] // 2 - 1}" in out
    else:
        assert f"1 corrupt record ({lost:,} bytes) skipped" in err


@pytest.mark.parametrize("verb", ["inspect", "evaluate", "predict", "cache", "soft-label"])
def test_a_text_file_is_an_error_among_skipped_records(vidfit: Call, own: Path, model: Path, tmp_path: Path, verb: str):
    text = own / "eval" / "eval2.tfrecord"
    text.write_text("not a record file, but a text that somebody renamed\n" * 9)
    first = () if verb in ("inspect", "cache") else (model,)
    output = () if verb in ("inspect", "evaluate") else ("-o", tmp_path / ("out.csv" if verb == "predict" else "out"))
    code, _, err = vidfit(verb, *first, own / "eval", *output, "--skip-corrupt")
    assert code == 2
    assert f"{text}, record 0: this is no TFRecord file" in err


def test_unlabelled_videos_are_told_and_can_be_skipped(vidfit: Call, own: Path, model: Path):
    before = vidfit("evaluate", model, own / "eval")
    assert "unlabelled 0 " in " ".join(before[1].split())
    assert "no label" not in before[2]
    write_shard(
        own / "eval" / "more.tfrecord", [Video(f"u{video.id}", video.frames, np.array([])) for video in videos(30, 9)]
    )
    code, out, err = vidfit("evaluate", model, own / "eval")
    assert code == 0
    assert "unlabelled 30 " in " ".join(out.split())
    assert "30 videos have no label and count as videos that no label fits" in err
    code, out, err = vidfit("evaluate", model, own / "eval", "--unlabelled", "skip")
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith(("gap", "map", "perr", "videos"))] == [
        line for line in before[1].splitlines() if line.startswith(("gap", "map", "perr", "videos"))
    ]
    assert "30 videos have no label and were left out" in err
    assert '"unlabelled": 30' in vidfit("inspect", own / "eval", "--json")[1]


def test_a_run_tells_and_skips_unlabelled_videos(vidfit: Call, own: Path, tmp_path: Path):
    for which in ("train", "validation", "eval"):
        write_shard(
            own / which / f"{which}2.tfrecord", [Video(which, video.frames, np.array([])) for video in videos(9, 9)]
        )
    code, _, err = vidfit("run", own / "recipe.yaml", "-o", tmp_path / "run")
    assert code == 0
    assert f"data.eval: 9 of {VIDEOS['eval'] + 9} videos have no label; they count" in err
    kept = json.loads((tmp_path / "run" / "summary.json").read_text())["packed"]["gap"]
    code, _, err = vidfit("run", own / "recipe.yaml", "-o", tmp_path / "skipped", "--unlabelled", "skip")
    assert code == 0
    assert f"data.train: 9 of {VIDEOS['train'] + 9} videos have no label; they are left out" in err
    skipped = json.loads((tmp_path / "skipped" / "summary.json").read_text())["packed"]["gap"]
    (own / "eval" / "eval2.tfrecord").unlink()
    alone = vidfit("evaluate", tmp_path / "skipped" / "model.onnx", own / "eval")[1]
    assert f"gap {skipped:.4f}" in " ".join(alone.split())
    assert skipped != kept
    # What was trained on all videos is not taken for a run without some of them.
    assert vidfit("run", own / "recipe.yaml", "-o", tmp_path / "run", "--unlabelled", "skip")[0] == 2


def test_a_linked_folder_counts_once(vidfit: Call, own: Path, model: Path, tmp_path: Path):
    (own / "eval" / "again").symlink_to(own / "eval")
    code, out, err = vidfit("predict", model, own / "**" / "eval*.tfrecord", "-o", tmp_path / "out.csv")
    assert code == 0
    assert f"{VIDEOS['eval']} videos" in out
    assert "are reached twice" in err
    ids = [line.split(",")[0] for line in (tmp_path / "out.csv").read_text().splitlines()[1:]]
    assert len(ids) == len(set(ids)) == VIDEOS["eval"]


def test_a_link_does_not_hide_training_on_eval_shards(vidfit: Call, own: Path, tmp_path: Path):
    (own / "train" / "innocent.tfrecord").hardlink_to(own / "eval" / "eval0.tfrecord")
    code, _, err = vidfit("run", own / "recipe.yaml", "-o", tmp_path / "run")
    assert code == 2
    assert "is in both data.train and data.eval" in err


def test_an_empty_shard_among_good_ones_is_told(vidfit: Call, own: Path, model: Path):
    """And no error: a writer of many shards may have had nothing for one."""
    (own / "eval" / "eval2.tfrecord").touch()
    code, out, err = vidfit("evaluate", model, own / "eval")
    assert code == 0
    assert f"videos {VIDEOS['eval']}" in " ".join(out.split())
    assert "1 of 3 are empty files" in err


def test_a_hidden_file_beside_the_shards_changes_nothing(vidfit: Call, own: Path, model: Path, tmp_path: Path):
    (own / "eval" / "._eval0.tfrecord").write_bytes(struct.pack("<16x"))
    assert f"videos {VIDEOS['eval']}" in " ".join(vidfit("evaluate", model, own / "eval")[1].split())
    assert vidfit("soft-label", model, own / "train", "-o", tmp_path / "soft")[0] == 0
    (tmp_path / "soft" / "._train0.tfrecord.parquet").write_bytes(b"resource fork")
    student = f"distill={{soft_labels: {tmp_path / 'soft'}}}"
    assert vidfit("train", own / "recipe.yaml", "-o", tmp_path / "run", "--set", student)[0] == 0
