"""Whatever becomes of a training or its files, it goes on from a sound checkpoint and ends with the same bytes."""

import errno
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.training.toy import CONFIG, EVERY_STEP, StopError, alike, go, go_until
from vidfit.errors import ModelFileError, OutputError
from vidfit.features.cache import CacheFile
from vidfit.features.cache_writer import write_cache
from vidfit.features.shards import expand_shards, infer_spec
from vidfit.features.spec import Video
from vidfit.training.averaging import AveragingConfig
from vidfit.training.checkpoint import BEST, read_member
from vidfit.training.checkpoint_manager import BETWEEN, CHECKPOINTS, LAST, PREVIOUS
from vidfit.training.train_step import TrainStep


def test_checkpoints_between_validations_change_nothing(corpus: Path, whole: Path, tmp_path: Path):
    go(corpus, tmp_path, EVERY_STEP)
    assert alike(tmp_path, whole)
    # What only the training needed is gone.
    assert sorted(path.name for path in tmp_path.iterdir()) == [BEST, LAST, "log.jsonl"]


def test_a_kill_costs_the_steps_since_the_last_checkpoint(
    corpus: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    go_until(8, corpus, tmp_path)
    done, step = [], TrainStep.__call__

    def counted(self: TrainStep, *arguments):
        done.append(arguments[2])
        return step(self, *arguments)

    monkeypatch.setattr(TrainStep, "__call__", counted)
    go(corpus, tmp_path)
    assert done == list(range(8, 20))
    assert alike(tmp_path, whole)


@pytest.mark.parametrize("killed", [6, 8])
def test_from_a_cache_what_was_trained_on_is_not_read_again(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: int
):
    """Killed between two epochs of 6 batches, and within one."""
    shards = expand_shards([corpus / "train"])
    write_cache(shards, tmp_path / "corpus" / "train", "id", infer_spec(shards))
    (tmp_path / "corpus" / "validation").symlink_to(corpus / "validation")
    go(tmp_path / "corpus", tmp_path / "whole", EVERY_STEP)
    go_until(killed, tmp_path / "corpus", tmp_path / "parts")
    read, video = [], CacheFile.video

    def counted(self: CacheFile, number: int) -> Video:
        read.append(number)
        return video(self, number)

    monkeypatch.setattr(CacheFile, "video", counted)
    go(tmp_path / "corpus", tmp_path / "parts", EVERY_STEP)
    assert alike(tmp_path / "parts", tmp_path / "whole")
    ahead = 2
    assert len(read) == len(["for infer_spec"]) + (20 - killed + ahead) * 16


def test_killed_after_any_renaming_ends_as_if_never_killed(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    averaging = AveragingConfig(steps=3, learning_rate=0.005, ema_decay=0.75, keep="always")
    config = CONFIG.model_copy(update={"steps": 6, "validate_every": 3, "averaging": averaging})
    renamings = last = 0
    replace = os.replace

    def counted(source: Path, target: Path) -> None:
        nonlocal renamings
        replace(source, target)
        renamings += 1
        if renamings == last:
            raise StopError

    monkeypatch.setattr("os.replace", counted)
    go(corpus, tmp_path / "whole", config)
    for last in range(1, renamings + 1):
        renamings = 0
        folder = tmp_path / str(last)
        with pytest.raises(StopError):
            go(corpus, folder, config)
        go(corpus, folder, config)
        assert alike(folder, tmp_path / "whole")


@pytest.mark.parametrize(("damaged", "used"), [([LAST], PREVIOUS), ([BETWEEN], LAST), ([BETWEEN, LAST], PREVIOUS)])
def test_a_damaged_checkpoint_is_told_and_the_one_before_used(
    corpus: Path, whole: Path, tmp_path: Path, damaged: list[str], used: str
):
    go_until(12, corpus, tmp_path)
    if BETWEEN not in damaged:
        (tmp_path / BETWEEN).unlink()
    for file in damaged:
        content = bytearray((tmp_path / file).read_bytes())
        content[-9] ^= 4
        (tmp_path / file).write_bytes(content)
    told = []
    go(corpus, tmp_path, log=told.append)
    assert told == [
        f"{tmp_path / file}: damaged, renamed to {Path(file).stem}.damaged; resuming from {used}" for file in damaged
    ]
    assert alike(tmp_path, whole)


def test_checkpoints_that_are_all_damaged(corpus: Path, tmp_path: Path):
    go_until(12, corpus, tmp_path)
    for file in CHECKPOINTS:
        os.truncate(tmp_path / file, 3000)
    with pytest.raises(ModelFileError, match=r"between\.safetensors: not a readable member .* remove .* to start over"):
        go(corpus, tmp_path)
    assert all((tmp_path / file).exists() for file in CHECKPOINTS)


@pytest.mark.parametrize(("code", "advice"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "choose a place")])
def test_a_checkpoint_that_cannot_be_written_leaves_those_before(
    corpus: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, advice: str
):
    def refused(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        save_file(tensors, path, metadata)
        if (tmp_path / LAST).exists() and read_member(tmp_path / LAST)[0].step == 10:
            os.truncate(path, 1000)
            raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr("vidfit.training.checkpoint.save_file", refused)
        with pytest.raises(OutputError, match=rf"safetensors: cannot be written \({os.strerror(code)}\); {advice}"):
            go(corpus, tmp_path)
    assert not list(tmp_path.glob(".*"))
    go(corpus, tmp_path)
    assert alike(tmp_path, whole)
