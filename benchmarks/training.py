"""What a training step costs: every family at competition size, beside the machine's limit and the original.

Members are those of recipes/yt8m-1gb.yaml, with random weights, fed from a cache of random frames, 300 a video: a
step's time does not depend on what there is to learn. Each runs in a process of its own. The CPU seconds of a step are
those of all its threads: on a shared machine they say more than the clock.

The limit of a step is the time of its multiplications at the rate of a large matmul of its precision, and of one pass
of Adam over weights and both moments (24 bytes a weight) at the rate of an addition, one after the other; both rates
are measured just before. The share of the matmul peak is a GPU's model FLOP utilisation.

With --tensorflow PYTHON, an interpreter that has TensorFlow, the large operators of the original are timed on one core
of this machine, too, each alone (`original_operators.py`): a floor under what its step takes here.
On a GPU give --batch 160 --precision bfloat16 --workers 2 --cores 4. A CPU's steps are timed one by one; a GPU's as
many together as training makes between two looks at the loss, since the next step is prepared while one is computed.
"""

import json
import os
import subprocess
import tempfile
import time
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from competition_members import CLASSES, FRAMES, MEMBERS, info, member, recurrent_flops, spec
from rich.progress import track
from runtime import alone, memory
from table import fastest, options, publish

# Seconds a step of batch 8 on one core of another machine, under TensorFlow 2.15 (DESIGN.md, section 4).
ORIGINAL = {"netvlad": 2.23, "netfv": 2.56, "dbof": 0.92, "lstm": 12.3, "gru": 8.89}
WARM_UP, MOST_STRETCHES, SECONDS = 2, 12, 25.0
TOGETHER = 16  # steps of a stretch on a GPU


def machine(cores: int, precision: str) -> dict[str, float]:
    """What a large matmul of this precision and an addition reach, with so many threads."""
    import torch

    torch.set_num_threads(cores)
    device, size = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 4096)
    matrix = torch.randn(size, size, device=device, dtype=getattr(torch, precision))
    first, second, third = torch.zeros(3, 2**27, device=device)
    multiply = fastest(lambda: (matrix @ matrix)[0, 0].item())
    add = fastest(lambda: torch.add(first, second, out=third)[0].item())
    return {"machine, GFLOP/s": 2 * size**3 / multiply / 1e9, "machine, GB/s": 3 * 2**27 * 4 / add / 1e9}


def write(folder: Path, videos: int) -> Path:
    """A cache of random frames."""
    from vidfit.features.cache_writer import write_cache
    from vidfit.features.example import write_shard
    from vidfit.features.spec import Video

    shard, cache = folder / "train.tfrecord", folder / "cache"
    random = np.random.default_rng(0)
    write_shard(
        shard,
        (
            Video(
                id=str(number),
                frames={it.name: random.integers(0, 256, (FRAMES, it.size), np.uint8) for it in spec().modalities},
                labels=np.sort(random.choice(CLASSES, 3, replace=False)),
            )
            for number in range(videos)
        ),
    )
    write_cache([shard], cache, "id", spec())
    return cache


def cudnn_flops(inputs: Any, weights: Any, *_: Any, **__: Any) -> int:
    """Of a forward pass of cuDNN's LSTM or GRU: `[B, T, D]` by each direction's `[G, D]` and `[G, H]`."""
    return 2 * np.prod(inputs[:2]).item() * sum(np.prod(shape).item() for shape in weights if len(shape) == 2)


def measure(family: str, cores: int, cache: Path, batch_size: int, precision: str, workers: int) -> dict[str, Any]:
    """Steps of one family in this process: fed from the cache over and over."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    import vidfit  # noqa: F401 - asks for huge pages before anything is allocated
    from vidfit.features.loader import Batches
    from vidfit.features.shards import expand_shards
    from vidfit.training.train_step import TrainStep

    torch.set_num_threads(cores)
    torch.manual_seed(0)
    config = member(MEMBERS[family]).training
    config = config.model_copy(update={"batch_size": batch_size, "precision": precision})
    train_step = TrainStep(info(MEMBERS[family]).build(), config, 0)
    batches = Batches(expand_shards([cache]), spec(), CLASSES, batch_size, workers=workers, shuffle_buffer=1)
    wait, together = (lambda: None, 1) if train_step.device.type == "cpu" else (torch.cuda.synchronize, TOGETHER)
    source, numbers = chain.from_iterable(map(batches.epoch, count())), count()

    def steps(number: int) -> tuple[float, float, float]:
        """Seconds a step of waiting for data and of all else, and the latter's CPU seconds."""
        waited, begun, used = 0.0, time.perf_counter(), time.process_time()
        for _ in range(number):
            asked, asked_used = time.perf_counter(), time.process_time()
            batch = next(source)
            waited += time.perf_counter() - asked
            used += time.process_time() - asked_used
            batch = batch.to(train_step.device)
            train_step(batch, batch.multi_hot(CLASSES), next(numbers), 1e-5)
        wait()
        taken = time.perf_counter() - begun - waited
        return waited / number, taken / number, (time.process_time() - used) / number

    operators = torch.ops.aten
    formulas = {
        operators.mkldnn_rnn_layer: recurrent_flops,
        operators.mkldnn_rnn_layer_backward: lambda *shapes, **_: 2 * recurrent_flops(*shapes),
        operators._cudnn_rnn: cudnn_flops,
        operators._cudnn_rnn_backward: lambda *shapes, **_: 2 * cudnn_flops(*shapes),
    }
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        steps(1)
    steps(WARM_UP * together)
    taken = []
    while len(taken) < MOST_STRETCHES and together * sum(step for _, step, _ in taken) < SECONDS:
        taken.append(steps(together))
    return {
        "step, s": min(step for _, step, _ in taken),
        "CPU, s": min(used for _, _, used in taken),
        "waiting for data, %": 100 * sum(it[0] for it in taken) / sum(it[0] + it[1] for it in taken),
        "GFLOP": counter.get_total_flops() / 1e9,
        "weights, M": sum(parameter.numel() for parameter in train_step.model.parameters()) / 1e6,
        "peak, MB": torch.cuda.max_memory_allocated() // 2**20 if wait is torch.cuda.synchronize else memory()["VmHWM"],
    }


def operators(interpreter: str, batch_size: int) -> dict[str, float]:
    """CPU seconds by family of the original's large operators."""
    script = str(Path(__file__).with_name("original_operators.py"))
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    command = [interpreter, script, str(batch_size)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout)


def main() -> None:
    parser = options(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--families", nargs="+", choices=MEMBERS, default=list(ORIGINAL))
    parser.add_argument("--cores", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--workers", type=int, default=0, help="threads that read")
    parser.add_argument("--tensorflow", metavar="PYTHON", help="also time the original's operators")
    arguments = parser.parse_args()
    floors = operators(arguments.tensorflow, arguments.batch) if arguments.tensorflow else {}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cache = write(Path(folder), 16 * arguments.batch)
        for family in track(arguments.families):
            for cores in arguments.cores:
                able = alone(machine, cores, arguments.precision)
                ours = alone(measure, family, cores, cache, arguments.batch, arguments.precision, arguments.workers)
                computing = ours["GFLOP"] / able["machine, GFLOP/s"]
                limit = computing + ours["weights, M"] * 24 / 1e3 / able["machine, GB/s"]
                row = {"family": family, "cores": cores, **ours, **able}
                row["videos/s"] = arguments.batch / ours["step, s"] * (1 - ours["waiting for data, %"] / 100)
                row |= {"limit, s": limit, "of the limit, %": 100 * limit / ours["step, s"]}
                row["of the matmul peak, %"] = 100 * computing / ours["step, s"]
                if family in floors:
                    row["original's operators, CPU s"] = floors[family]
                if arguments.batch == 8 and family in ORIGINAL:
                    row["DESIGN.md, s"] = ORIGINAL[family]
                rows.append(row)
    publish(f"a training step of batch {arguments.batch}, {arguments.precision}", rows, arguments.json)


if __name__ == "__main__":
    main()
