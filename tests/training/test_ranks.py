"""Two ranks do what one process does: real processes over gloo, started as torchrun starts them and by it."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.corpus import videos, write_recipe
from tests.training.two_ranks import RANKS, TRAINING, over_shards, train_on_ranks
from vidfit.features.cache_writer import write_cache
from vidfit.features.example import to_sequence_example
from vidfit.features.shards import expand_shards, infer_spec
from vidfit.features.tfrecord import write_records
from vidfit.training.checkpoint import BEST, read_member
from vidfit.training.checkpoint_manager import LAST
from vidfit.training.soft_labels import soft_labels_files

ROOT = Path(__file__).resolve().parents[2]
NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process is on the CPU, too, as the two are: a machine may have one GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def start(*module_and_arguments: object) -> list[subprocess.Popen[str]]:
    """Two processes with what torchrun sets."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, "-m", *map(str, module_and_arguments)],
            cwd=ROOT,
            env=os.environ
            | {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(RANKS), "RANK": str(rank)}
            | {"LOCAL_WORLD_SIZE": str(RANKS), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
            | NO_GPU
            # Rank 0 keeps the store here (under torchrun it does not), and of its end PyTorch warns with a trace.
            | {"TORCH_CPP_LOG_LEVEL": "ERROR"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(RANKS)
    ]


def log(member: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (member / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of whose three training shards one rank has read its share in 4 steps and the other in 12."""
    folder = tmp_path_factory.mktemp("uneven")
    for name, sizes in (("train", (7, 40, 13)), ("validation", (9, 25)), ("damaged", (8, 8))):
        (folder / name).mkdir()
        for number, size in enumerate(sizes):
            records = map(to_sequence_example, videos(size, seed=10 * len(name) + number))
            write_records(folder / name / f"{name}{number}.tfrecord", records)
    shards = expand_shards([folder / "train"])
    write_cache(shards, folder / "cache", "id", infer_spec(shards))
    shard = folder / "damaged" / "damaged1.tfrecord"
    content = bytearray(shard.read_bytes())
    content[-10] ^= 1
    shard.write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def two(uneven: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, str]]]:
    """What two processes left in a folder; exit code and standard error of each."""
    folder = tmp_path_factory.mktemp("two")
    processes = start("tests.training.two_ranks", uneven, folder)
    told = [process.communicate(timeout=200)[1] for process in processes]
    return folder, [(process.returncode, text) for process, text in zip(processes, told, strict=True)]


@pytest.fixture
def by_two(two: tuple[Path, list[tuple[int, str]]]) -> Path:
    assert (two[0] / "figures.json").exists(), two[1]
    return two[0]


def test_two_ranks_solve_what_one_process_does(uneven: Path, by_two: Path, tmp_path: Path):
    train_on_ranks("linear", uneven / TRAINING["linear"], uneven, tmp_path)
    (_, one, _), (_, two, _) = (read_member(folder / "linear" / BEST) for folder in (tmp_path, by_two))
    for name, tensor in one.items():
        assert torch.allclose(two[name], tensor, atol=5e-3 * float(tensor.abs().max())), name


@pytest.mark.parametrize("family", ["netvlad", "lstm", "segments"])
def test_two_ranks_train_as_one_process_does(family: str, uneven: Path, by_two: Path, tmp_path: Path):
    train_on_ranks(family, uneven / TRAINING[family], uneven, tmp_path, compose=TRAINING[family] == "train")
    one, two = (log(folder / family) for folder in (tmp_path, by_two))
    assert len(one) == len(two) >= 20
    # GAP goes in steps: two probabilities that lie close may change places.
    for figure, within in (("loss", 1e-4), ("lr", 0), ("gap", 2e-3)):
        assert [line[figure] for line in two] == pytest.approx([line[figure] for line in one], rel=within)
    losses = [line["loss"] for line in one]
    assert max(losses) > 1.2 * min(losses)
    (_, one, _), (_, two, _) = (read_member(folder / family / LAST) for folder in (tmp_path, by_two))
    for name, tensor in one.items():
        assert torch.allclose(two[name], tensor, rtol=1e-2, atol=1e-3), name


def test_over_shards_two_ranks_are_one_process_to_the_bit(uneven: Path, by_two: Path, tmp_path: Path):
    figures = over_shards(by_two / "netvlad" / BEST, uneven, tmp_path)
    assert json.loads((by_two / "figures.json").read_text()) == json.loads(json.dumps(figures))
    assert (by_two / "predicted.csv").read_bytes() == (tmp_path / "predicted.csv").read_bytes()
    one, two = (soft_labels_files(folder / "soft") for folder in (tmp_path, by_two))
    assert [file.name for file in one] == [file.name for file in two]
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two]


ONE_MEMBER = (
    *("--set", "members={mean: {family: {type: mean}, head: {type: logistic}}}"),
    *("--set", "pack.members=[mean]", "--set", "training.steps=4"),
)


def test_torchrun_runs_a_recipe(corpus: Path, tmp_path: Path):
    """Every stage, a generation of teachers included; rank 0 alone prints and writes."""
    recipe, distill = write_recipe(tmp_path, corpus), "distill={generations: 1, teachers: [mean]}"
    run = tmp_path / "run"
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}")
    done = subprocess.run(
        [*torchrun, "-m", "vidfit", "run", recipe, "-o", run, *ONE_MEMBER, "--set", distill],
        env=os.environ | NO_GPU,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("GAP of the packed file against its best member") == 1
    assert done.stderr.count("mean: best validation GAP") == 2  # the teacher's and the student's
    assert json.loads((run / "summary.json").read_text())["packed"]["gap"] > 0.4
    assert not list(run.rglob("*.partial"))


def test_what_fails_on_one_rank_is_told_once_and_hangs_no_other(two: tuple[Path, list[tuple[int, str]]]):
    assert [code for code, _ in two[1]] == [1, 1]
    (told,) = [line for _, text in two[1] for line in text.splitlines()]
    assert told.startswith("told: ")
    assert "damaged1.tfrecord, record 7" in told


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux names them")
@pytest.mark.parametrize(("end", "codes"), [("ends", [0, 0]), ("fails", [1, 1])])
def test_no_thread_of_transfers_outlives_the_group(end: str, codes: list[int]):
    """Such a thread can abort the process while Python exits, although the work is done."""
    processes = start("tests.training.leaving_ranks", end)
    told = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == codes, told
    assert [printed for printed, _ in told] == ["[]\n", "[]\n"], told
