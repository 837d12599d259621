"""What a packed file costs to run: latency, memory and load time of every family at competition size, in every form.

Members are those of recipes/yt8m-1gb.yaml, and of yt8m-best.yaml for newer families, with random weights: times and
bytes do not depend on what they know. Each form of a family runs in processes of its own, in turns in one call; the
fastest counts. Ratios are to the first form.

- float: float32 weights in ONNX Runtime;
- 8 bits, 4 bits: as `vidfit pack` writes them (one scale a tensor; one a channel);
- 4 bits expanded: the same file, loaded with `expand_weights`;
- Gather: 8 bits looked up in a codebook at each run, as the winners of 2018 did;
- PyTorch: float32, PyTorch's own kernels;
- OpenVINO, OpenVINO int8, OpenVINO int4: the float file, and its weights compressed by NNCF. They need
  `pip install 'vidfit[bench]'`.

On a busy machine, --cpu measures the CPU time of a single thread instead of the time that passes.

Two limits stand beside the times. A batch of 1 reads all weights, at the machine's rate of reading memory. A batch of
64 multiplies, at its rate of multiplying bytes.

With --operators the dearest operators of the families are told in place of latencies, with --many how many videos a
second they predict where there are many, batch by batch and, as `vidfit predict` does, several batches at once. With
--ensemble a packed file is measured, too, or all members of that recipe in one; with --gap RUN what integer activations
do to its members' GAP.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import openvino_forms
from competition_members import CLASSES, FRAMES, MEMBERS, info, multiplications, videos, write, write_ensemble
from rich.progress import track
from table import fastest, options, publish

ROOT = Path(__file__).parents[1]
FORMS = ("float", "8 bits", "4 bits", "4 bits expanded", "Gather", "PyTorch")
BATCHES = (1, 8, 64)
ROUNDS = 3
MEMORY_RATE, BYTES_RATE = "reading memory, GB/s", "multiplications of bytes, G/s"


def memory() -> dict[str, int]:
    """Resident now and at most, MB."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) // 1024 for name in ("VmRSS", "VmHWM")}


def pytorch(family: str, threads: int) -> Callable[[dict[str, np.ndarray], np.ndarray], Any]:
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = info(MEMBERS[family]).build().eval()

    def run(frames: dict[str, np.ndarray], num_frames: np.ndarray) -> None:
        with torch.inference_mode():
            model({name: torch.from_numpy(array) for name, array in frames.items()}, torch.from_numpy(num_frames))

    return run


def measure(family: str, form: str, path: Path, batches: tuple[int, ...], cpu: bool = False) -> dict[str, Any]:
    """Load time, latency by batch and memory of one file, in this process. With `cpu`, a single thread's CPU time."""
    import vidfit.inference.predictor

    before = memory()["VmRSS"]
    threads, clock = (1, time.process_time) if cpu else (os.cpu_count() or 1, time.perf_counter)
    begun = time.perf_counter()
    if form == "PyTorch":
        run = pytorch(family, threads)
    elif form in openvino_forms.WEIGHTS:
        run = openvino_forms.load(path, threads)
    else:
        expand = form == "4 bits expanded"
        run = vidfit.inference.predictor.load(path, threads, batch_size=64, expand_weights=expand).predict
    measured: dict[str, Any] = {"load, s": time.perf_counter() - begun, "loaded, MB": memory()["VmRSS"] - before}
    for batch in batches:
        inputs = videos(batch)
        measured[f"batch {batch}, ms"] = 1000 * fastest(partial(run, *inputs), clock=clock)
        if batch == 8:
            measured["peak at 8, MB"] = memory()["VmHWM"] - before
    return measured


def many(path: Path, parallel_batches: int) -> dict[str, float]:
    """Videos a second of four batches of a file, and memory, in this process."""
    from vidfit.inference.predictor import BATCH_SIZE, load

    before = memory()["VmRSS"]
    predict = load(path, parallel_batches=parallel_batches).predict
    inputs = videos(4 * BATCH_SIZE)
    rate = 4 * BATCH_SIZE / fastest(partial(predict, *inputs))
    return {"videos/s": rate, "peak, MB": memory()["VmHWM"] - before}


def many_in_turns(path: Path) -> dict[str, float]:
    """A file's videos a second and memory, one batch at a time and several."""
    measured = in_turns({"one by one": (many, path, 1), "at once": (many, path, 0)}, path.name)
    found = {
        f"{name}, {way}": best(run[name] for run in runs)
        for name, best in (("videos/s", max), ("peak, MB", min))
        for way, runs in measured.items()
    }
    return found | {"at once / one by one": found["videos/s, at once"] / found["videos/s, one by one"]}


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def in_turns(ways: dict[str, tuple[Any, ...]], title: str) -> dict[str, list[dict[str, Any]]]:
    """What each way, a function and its arguments, gives in as many processes of its own as there are rounds.

    In turns, so that a slow minute of a shared machine, or a process with slow memory, is not one way's alone.
    """
    measured: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for _, way in track(list(product(range(ROUNDS), ways)), title):
        measured[way].append(alone(*ways[way]))
    return measured


def least(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """The smallest of each figure."""
    return {name: min(it[name] for it in measured) for name in measured[0]}


def rows_of(
    families: list[str], forms: list[str], work: Path, able: dict[str, float], cpu: bool
) -> list[dict[str, Any]]:
    """One a family and form; with ratios to the family's first form, and the limits of a machine that is able to."""
    rows: list[dict[str, Any]] = []
    for family in families:
        paths = {form: work / f"{family}-{form.replace(' ', '-')}{ending(form)}" for form in forms}
        for form, path in paths.items():
            if form != "PyTorch":
                alone(write, family, form, path)
        os.sync()  # Writing goes on for seconds and takes the memory's bandwidth.
        measured = in_turns({form: (measure, family, form, path, BATCHES, cpu) for form, path in paths.items()}, family)
        best = {form: least(found) for form, found in measured.items()}
        multiplying = 64 * alone(multiplications, family) / able[BYTES_RATE] / 1e6
        for form, path in paths.items():
            files = list(work.glob(f"{path.stem}.*"))
            size = sum(file.stat().st_size for file in files) / 1e6
            row = {"family": family, "form": form, "MB": round(size)}
            row |= {"limit 1, ms": size / able[MEMORY_RATE], "limit 64, ms": multiplying}
            for file in files:
                file.unlink()
            for batch in BATCHES:
                key = f"batch {batch}, ms"
                row[key] = float(best[form][key])
                row[f"ratio {batch}"] = float(best[form][key] / best[forms[0]][key])
            rows.append(row | {name: best[form][name] for name in ("load, s", "loaded, MB", "peak at 8, MB")})
    return rows


def ending(form: str) -> str:
    return ".xml" if form in openvino_forms.WEIGHTS else ".onnx"


def kernels(path: Path, batch: int, threads: int) -> list[dict[str, Any]]:
    """ONNX Runtime's own profile of a file: what it tells of each operator of a second run."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_profiling = True
    with TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(path, options)
        frames, num_frames = videos(batch)
        for _ in range(2):  # the first is a warm-up
            session.run(None, {**frames, "num_frames": num_frames})
        profile = json.loads(Path(session.end_profiling()).read_text())
    events = [event for event in profile if event["name"].endswith("kernel_time")]
    return events[len(events) // 2 :]


def operators(path: Path, batch: int = 32, told: int = 8) -> list[dict[str, Any]]:
    """What a file spends its time on, on one core: its dearest operators."""
    events = kernels(path, batch, 1)
    total = sum(event["dur"] for event in events)
    return [
        {
            "operator": event["args"]["op_name"],
            "inputs": " x ".join(str(next(iter(it.values()))) for it in event["args"]["input_type_shape"][:2]),
            "ms": event["dur"] / 1000,
            "%": 100 * event["dur"] / total,
        }
        for event in sorted(events, key=lambda event: -event["dur"])[:told]
    ]


def machine() -> dict[str, float]:
    """What this machine can do: bytes a second, float and integer multiplications a second."""
    import onnxruntime
    import torch
    from onnx import TensorProto, helper

    numbers = torch.ones(2**28)
    numbers.sum()
    begun = time.perf_counter()
    numbers.sum()
    rates = {MEMORY_RATE: numbers.nbytes / (time.perf_counter() - begun) / 1e9}
    size = 2048
    floats, integers = (TensorProto.FLOAT,) * 3, (TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32)
    for name, operator, kinds, made in (
        ("float32 multiplications, G/s", "MatMul", ("float32", "float32"), floats),
        (BYTES_RATE, "MatMulInteger", ("uint8", "int8"), integers),
    ):
        left, right = (np.random.default_rng(0).integers(0, 100, (size, size)).astype(kind) for kind in kinds)
        graph = helper.make_graph(
            [helper.make_node(operator, ["left", "right"], ["product"])],
            operator,
            [helper.make_tensor_value_info("left", made[0], [size, size])],
            [helper.make_tensor_value_info("product", made[2], [size, size])],
            [helper.make_tensor("right", made[1], right.shape, right.tobytes(), raw=True)],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        session = onnxruntime.InferenceSession(model.SerializeToString())
        session.run(None, {"left": left})
        begun = time.perf_counter()
        session.run(None, {"left": left})
        rates[name] = size**3 / (time.perf_counter() - begun) / 1e9
    return rates


def shares(path: Path, members: list[str], batch: int) -> dict[str, float]:
    """Percent of the time in operators that each member takes; what several share is the first one's."""
    events = kernels(path, batch, os.cpu_count() or 1)
    # What is inside a Scan has no name and is counted with it.
    taken = {name: sum(it["dur"] for it in events if it["name"].startswith(f"{name}/")) for name in members}
    total = sum(taken.values())
    return {name: 100 * duration / total for name, duration in taken.items()}


def ensemble(path: Path) -> list[dict[str, Any]]:
    """Videos a second, memory and each member's share of a packed file."""
    import onnxruntime

    from vidfit.export.metadata import PackedInfo

    measured = least([alone(measure, "", "", path, (1, 8, 32)) for _ in track(range(ROUNDS), path.name)])
    rows: list[dict[str, Any]] = [{"what": "MB", "measured": path.stat().st_size // 10**6}]
    rows += [{"what": name, "measured": value} for name, value in measured.items()]
    rates = [(batch, 1000 * batch / measured[f"batch {batch}, ms"]) for batch in (1, 32)]
    rows += [{"what": f"videos/s at batch {batch}", "measured": rate} for batch, rate in rates]
    rows += [{"what": f"many videos: {name}", "measured": value} for name, value in many_in_turns(path).items()]
    metadata = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    names = [member["name"] for member in PackedInfo.model_validate(metadata).members]
    for batch in (1, 32):
        taken = alone(shares, path, names, batch)
        rows += [{"what": f"{name}, % at batch {batch}", "measured": share} for name, share in taken.items()]
    return rows


def gap_changes(run: Path, work: Path) -> list[dict[str, Any]]:
    """GAP on the run's eval shards of each member by PyTorch, with float activations, and from its file."""
    from vidfit.evaluation.metrics import Metrics
    from vidfit.export.graph import PROTOBUF_LIMIT, PackedMember, write_graph
    from vidfit.features.loader import Batches
    from vidfit.features.shards import expand_shards
    from vidfit.inference.predictor import load
    from vidfit.quantization.member import load_member
    from vidfit.quantization.uniform import QuantScheme
    from vidfit.recipe import load_recipe
    from vidfit.training.checkpoint import BEST, read_info
    from vidfit.training.validation import predict

    shards = expand_shards(load_recipe(run / "recipe.yaml").data.eval)
    names = sorted(path.name for path in (run / "members").iterdir())
    schemes = {"8 bits": QuantScheme(bits=8), "4 bits": QuantScheme(bits=4, granularity="channel")}
    about = read_info(run / "members" / names[0] / BEST)
    classes = len(about.vocabulary)
    rows = []
    for bits, scheme in schemes.items():
        pairs = []
        for name in names:
            member = load_member(run / "members" / name).quantized(scheme)
            path = work / f"{name}.onnx"
            write_graph(path, [PackedMember(member, 1.0)], PROTOBUF_LIMIT)
            pairs.append((member.classifier(), load(path)))
        gaps = {(name, how): Metrics(classes) for name in [*names, "mean of all"] for how in ("float", "file")}
        for batch in track(list(Batches(shards, about.spec, classes, 64)), bits):
            labels, counts = batch.labels.numpy(), batch.label_counts.numpy()
            predicted = [(predict(model, batch), predictor.predict_batch(batch)) for model, predictor in pairs]
            for place, how in enumerate(("float", "file")):
                for name, pair in zip(names, predicted, strict=True):
                    gaps[name, how].update(pair[place], labels, counts)
                gaps["mean of all", how].update(np.mean([pair[place] for pair in predicted], axis=0), labels, counts)
        for name in [*names, "mean of all"]:
            floats, file = (gaps[name, how].result()["gap"] for how in ("float", "file"))
            rows.append({"member": name, "weights": bits, "GAP": f"{floats:.4f}", "change": f"{file - floats:+.5f}"})
    return rows


def main() -> None:
    parser: argparse.ArgumentParser = options(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--families", nargs="*", choices=MEMBERS, default=list(MEMBERS))
    parser.add_argument("--forms", nargs="+", choices=[*FORMS, *openvino_forms.WEIGHTS], default=list(FORMS))
    parser.add_argument("--cpu", action="store_true", help="CPU time of a single thread, for a busy machine")
    parser.add_argument("--operators", action="store_true", help="tell the dearest operators in place of latencies")
    parser.add_argument("--many", action="store_true", help="tell videos a second of many in place of latencies")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "runtime", help="folder, 3 GB")
    parser.add_argument(
        "--ensemble", type=Path, nargs="?", const=Path(), help="a packed file; without one all members of the recipe"
    )
    parser.add_argument("--gap", type=Path, help="a run folder")
    arguments = parser.parse_args()
    if any(form in openvino_forms.WEIGHTS for form in arguments.forms):
        openvino_forms.check_installed()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if arguments.operators:
        for family, form in product(arguments.families, arguments.forms):
            path = arguments.work / "operators.onnx"
            alone(write, family, form, path)
            publish(f"{family}, {form}: batch 32, one core", alone(operators, path), None)
            path.unlink()
    elif arguments.many:
        rows: list[dict[str, Any]] = []
        for family, form in product(arguments.families, arguments.forms):
            path = arguments.work / f"{family}-many.onnx"
            alone(write, family, form, path)
            rows.append({"family": family, "form": form} | many_in_turns(path))
            path.unlink()
        publish(f"many videos of {FRAMES} frames, {os.cpu_count()} cores", rows, arguments.json)
    elif arguments.families:
        able = alone(machine)
        publish("this machine", [{"what": name, "measured": rate} for name, rate in able.items()], None)
        what = "CPU time of one thread" if arguments.cpu else f"{os.cpu_count()} cores"
        publish(
            f"{FRAMES} frames, {CLASSES:,} labels, {what}",
            rows_of(arguments.families, arguments.forms, arguments.work, able, arguments.cpu),
            arguments.json,
        )
    if arguments.ensemble == Path():
        arguments.ensemble = arguments.work / "ensemble.onnx"
        if not arguments.ensemble.exists():
            alone(write_ensemble, arguments.ensemble)
    if arguments.ensemble:
        publish(str(arguments.ensemble), ensemble(arguments.ensemble), None)
    if arguments.gap:
        publish("what integer activations do to GAP", gap_changes(arguments.gap, arguments.work), None)


if __name__ == "__main__":
    main()
