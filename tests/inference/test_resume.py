"""Predictions of many shards: a killed call is gone on with, nothing is mixed in, and the file is the same."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import vidfit as library
from tests.conftest import Call
from tests.corpus import LABELS, VIDEOS, videos
from vidfit.errors import DataError, OutputError
from vidfit.features.batch import Batch
from vidfit.features.example import write_shard
from vidfit.features.shards import expand_shards
from vidfit.features.skipped import NOTHING, Skipped
from vidfit.inference.prediction_files import write_predictions
from vidfit.inference.predictor import Predictor
from vidfit.inference.resume import Written, predict_to_file

SUFFIXES = (".csv", ".jsonl", ".parquet")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of all videos that are predicted in this process."""
    ids: list[str] = []
    predict = Predictor.predict_batch

    def predict_batch(self: Predictor, batch: Batch) -> np.ndarray:
        ids.extend(batch.ids)
        return predict(self, batch)

    monkeypatch.setattr(Predictor, "predict_batch", predict_batch)
    return ids


def of_100_shards(model: Path, folder: Path) -> list[object]:
    """The command, without its output; each video by itself, so that there is time to kill it."""
    return ["predict", model / "model.onnx", folder / "shards", "--batch-size", 1, "-o"]


@pytest.fixture(scope="module")
def killed(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 `shards`, and `out.csv.partial` as a killed process left it."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "shards").mkdir()
    for number in range(100):
        write_shard(folder / "shards" / f"{number:03}.tfrecord", videos(2, seed=number))
    command = [*of_100_shards(finished, folder), folder / "out.csv"]
    process = subprocess.Popen([sys.executable, "-m", "vidfit", *map(str, command)])
    while process.poll() is None and len(list(folder.glob("out.csv.partial/*-*-*.parquet"))) < 3:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "out.csv").exists()
    return folder


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_killed_process_is_gone_on_with(
    finished: Path, killed: Path, tmp_path: Path, counted: list[str], suffix: str, vidfit: Call
):
    """The parts are the same in each format."""
    whole, output = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    command = of_100_shards(finished, killed)
    assert vidfit(*command, whole)[0] == 0
    assert len(counted) == 100 * 2
    counted.clear()

    shutil.copytree(killed / "out.csv.partial", tmp_path / f"out{suffix}.partial")
    parts = len(list(tmp_path.glob("out*.partial/*-*-*.parquet")))
    assert 3 <= parts < 100
    code, out, _ = vidfit(*command, output)
    assert code == 0
    assert f"; {parts} shards were finished before" in out
    assert len(counted) == (100 - parts) * 2
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([output.name, whole.name])


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Three shards of 5, 4 and 3 videos; the second cannot be read to its end."""
    (tmp_path / "shards").mkdir()
    for number, count in enumerate((5, 4, 3)):
        write_shard(tmp_path / "shards" / f"{number}.tfrecord", videos(count, seed=number))
    damage(tmp_path / "shards" / "1.tfrecord")
    return expand_shards([tmp_path / "shards"])


LOST = Skipped(1, 412 + 16)
"""The last record of the second shard, with its length and checksums."""


def damage(shard: Path) -> None:
    content = bytearray(shard.read_bytes())
    content[-10] ^= 1
    shard.write_bytes(content)


def predict(output: Path, model: Path, shards: list[Path], **options) -> Written:
    return predict_to_file(output, shards, library.load(model), [str(model)], **options)


def ids_in(path: Path) -> list[str]:
    return [line.split(",")[0] for line in path.read_text().splitlines()[1:]]


def test_the_file_is_what_is_written_without_parts(finished: Path, corpus: Path, tmp_path: Path):
    model = library.load(finished / "model.onnx")
    shards = expand_shards([corpus / "eval", corpus / "train"])
    for suffix in SUFFIXES:
        rows = (row for shard in shards for row in model.predict_shards(shard))
        write_predictions(tmp_path / f"rows{suffix}", rows, LABELS, 3)
        made = predict(tmp_path / f"parts{suffix}", finished / "model.onnx", shards, top_k=3)
        assert made == Written(videos=VIDEOS["eval"] + VIDEOS["train"], skipped=NOTHING, resumed=0)
        if suffix != ".parquet":  # groups of rows may end elsewhere
            assert (tmp_path / f"parts{suffix}").read_bytes() == (tmp_path / f"rows{suffix}").read_bytes()


def test_after_a_bad_record_the_finished_shards_are_taken_over(
    finished: Path, tmp_path: Path, shards: list[Path], counted: list[str]
):
    model, output = finished / "model.onnx", tmp_path / "out.csv"
    for _ in range(2):
        with pytest.raises(DataError, match=r"1\.tfrecord, record 3 "):
            predict(output, model, shards)
        assert not output.exists()
    assert [id for id in counted if id.startswith("0-")] == [f"0-{number}" for number in range(5)]
    assert predict(output, model, shards, skip_corrupt=True) == Written(11, LOST, resumed=1)
    assert ids_in(output) == [f"{shard}-{number}" for shard in range(3) for number in range((5, 3, 3)[shard])]
    assert not (tmp_path / "out.csv.partial").exists()


def test_skipped_records_finish_a_shard_only_where_skipped(
    finished: Path, tmp_path: Path, shards: list[Path], counted: list[str]
):
    model, output = finished / "model.onnx", tmp_path / "out.csv"
    with pytest.raises(RuntimeError, match="stop"):
        predict(output, model, shards, skip_corrupt=True, on_count=stop_after(11))
    with pytest.raises(DataError, match=r"1\.tfrecord, record 3 "):
        predict(output, model, shards)
    counted.clear()
    assert predict(output, model, shards, skip_corrupt=True) == Written(11, LOST, resumed=2)
    assert counted == ["2-0", "2-1", "2-2"]


def stop_after(videos: int):
    def show(done: int, total: int) -> None:
        if done >= videos:
            raise RuntimeError("stop")

    return show


@pytest.mark.parametrize("change", ["model", "top_k", "shard"])
def test_what_was_made_from_something_else_is_not_taken_over(
    finished: Path, tmp_path: Path, shards: list[Path], change: str
):
    output, expected = tmp_path / "out.csv", tmp_path / "expected.csv"
    with pytest.raises(DataError):
        predict(output, finished / "model.onnx", shards, top_k=3)
    assert list((tmp_path / "out.csv.partial").iterdir())
    write_shard(shards[1], videos(4, seed=1))
    model, top_k = finished / "model.onnx", 3
    if change == "model":
        model = finished / "members" / "lstm"
    elif change == "top_k":
        top_k = 2
    else:
        write_shard(shards[0], videos(5, seed=9))
    assert predict(output, model, shards, top_k=top_k) == Written(videos=12, skipped=NOTHING, resumed=0)
    predict(expected, model, shards, top_k=top_k)
    assert output.read_bytes() == expected.read_bytes()
    assert not (tmp_path / "out.csv.partial").exists()


def test_a_part_that_cannot_be_read_is_named(finished: Path, tmp_path: Path, shards: list[Path]):
    output = tmp_path / "out.csv"
    with pytest.raises(DataError):
        predict(output, finished / "model.onnx", shards)
    (part,) = (tmp_path / "out.csv.partial").iterdir()
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(OutputError, match=f"{part.name}: cannot be read .*; remove it and call again"):
        predict(output, finished / "model.onnx", shards)


def test_shards_without_a_sound_record(finished: Path, tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.tfrecord").write_bytes(b"no records at all, but a text")
    for _ in range(2):
        with pytest.raises(DataError, match=r"a\.tfrecord, record 0: this is no TFRecord file"):
            predict(tmp_path / "out.csv", finished / "model.onnx", expand_shards([tmp_path]), skip_corrupt=True)
        assert not (tmp_path / "out.csv").exists()


def test_a_second_call_at_once_is_refused_and_the_first_is_whole(finished: Path, tmp_path: Path, shards: list[Path]):
    write_shard(shards[1], videos(4, seed=1))
    output, model = tmp_path / "out.csv", finished / "model.onnx"
    refused = []

    def second(done: int, total: int) -> None:
        with pytest.raises(OutputError, match=f"out.csv.partial: process {os.getpid()} on .* is writing here; wait"):
            predict(output, model, shards, overwrite=True)
        refused.append(done)

    assert predict(output, model, shards, on_count=second).videos == 12
    assert len(refused) == 3
    assert ids_in(output) == [f"{shard}-{number}" for shard in range(3) for number in range((5, 4, 3)[shard])]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "shards"]


def test_a_folder_that_vanishes_is_no_full_disk(finished: Path, tmp_path: Path, shards: list[Path]):
    output = tmp_path / "out.csv"
    with pytest.raises(OutputError, match="removed meanwhile; call again") as caught:
        predict(
            output,
            finished / "model.onnx",
            shards,
            skip_corrupt=True,
            on_count=lambda *numbers: shutil.rmtree(tmp_path / "out.csv.partial", ignore_errors=True),
        )
    assert "space" not in str(caught.value)
    assert not output.exists()


def test_names_that_look_like_addresses(finished: Path, tmp_path: Path, corpus: Path):
    for suffix in SUFFIXES:
        output = tmp_path / f"run-12:30{suffix}"
        predict(output, finished / "model.onnx", expand_shards([corpus / "eval"]))
        assert output.exists()


@pytest.mark.parametrize("name", ["out.txt", "there.csv", "none/out.csv"])
def test_a_bad_output_is_told_before_anything_is_made(
    finished: Path, tmp_path: Path, corpus: Path, name: str, counted: list[str]
):
    (tmp_path / "there.csv").write_text("mine")
    with pytest.raises(OutputError):
        predict(tmp_path / name, finished / "model.onnx", expand_shards([corpus / "eval"]))
    assert [path.name for path in tmp_path.iterdir()] == ["there.csv"]
    assert not counted


def test_progress_is_of_what_is_left(finished: Path, tmp_path: Path, shards: list[Path]):
    seen: list[tuple[int, int]] = []
    with pytest.raises(DataError):
        predict(tmp_path / "out.csv", finished / "model.onnx", shards)
    write_shard(shards[1], videos(4, seed=1))
    predict(tmp_path / "out.csv", finished / "model.onnx", shards, on_count=lambda *numbers: seen.append(numbers))
    assert [done for done, _ in seen] == [4, 7]
    assert all(4 <= total <= 10 for _, total in seen)
