"""What a member could be in a file: a few choices of widths for its tensors, from the smallest to the float's equal.

They are made once and kept:

    RUN/packing/NAME/candidates.json   what the widths of each tensor cost, and what was chosen; written last
    RUN/packing/NAME/K.safetensors     the member as its candidate K
    RUN/packing/NAME/K.npy             its predictions for the validation videos, float16 [V, C]
    RUN/packing/NAME/float.npy         the float member's

Shapes: V validation videos, C classes.
"""

import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidfit import progress
from vidfit.errors import ModelFileError
from vidfit.export.graph import PROTOBUF_LIMIT, PackedMember, write_graph
from vidfit.export.metadata import metadata_bytes
from vidfit.export.weight_formats import FEW_INPUTS, Blocks, Bytes, graph_bytes, kind_of
from vidfit.features.batch import Batch
from vidfit.features.loader import Batches
from vidfit.files import make_folder, replacing
from vidfit.inference.predictor import load
from vidfit.quantization.bit_allocation import allocate, spread
from vidfit.quantization.calibration import collect
from vidfit.quantization.member import Member, load_member
from vidfit.quantization.sensitivity import COMPENSATED_BITS, Cost, divergence, sensitivity
from vidfit.quantization.uniform import REFERENCE, Grid, QuantizedTensor
from vidfit.search.budget import Candidate
from vidfit.search.validation import Validation
from vidfit.stages import digest, write_text
from vidfit.training.trainer import predict

# What every tensor may choose from: widths that run without being expanded (`export/weight_formats.py`). Groups finer
# than a channel lie on the same line of divergence over bytes, no lower (benchmarks/LOG.md); the last is the
# method's own.
GRIDS = [*map(Grid.parse, ("2/channel", "4/channel", "6/channel")), REFERENCE]
CANDIDATES = 8
CALIBRATION_VIDEOS = 1024
SENSITIVITY_VIDEOS = 512
_TIMINGS = 3
FLOAT = "float.npy"


@dataclass(frozen=True)
class Choice(Candidate):
    """A candidate with its files."""

    bits: float
    """Average width of the big weights."""
    graph_bytes: int
    """That the member takes in a file beside its weights, at most."""
    stem: Path
    """Of its member file and of its predictions, without the suffix."""

    def load(self) -> Member:
        """The quantised member."""
        return load_member(self.stem.with_suffix(".safetensors"))

    def predictions(self) -> np.ndarray:
        """Of the validation videos, float16 `[V, C]`, memory-mapped."""
        return np.load(self.stem.with_suffix(".npy"), mmap_mode="r")


def candidates_of(name: str, file: Path, folder: Path, calibration: Batches, validation: Validation) -> list[Choice]:
    """The candidates of one member; those in `folder` if they are of this very member and data.

    Arguments:
        name: of the member in its run.
        file: the float member.
        folder: for the candidates; made if absent.
        calibration: training videos, whose first `CALIBRATION_VIDEOS` show what the layers' inputs look like.
        validation: the selecting half measures; all videos are predicted.

    Raises:
        ModelFileError: the file is no member, or a weight is NaN or infinite.
        OutputError: the folder cannot be written to.
    """
    document = folder / "candidates.json"
    inputs = _digest(file, calibration, validation)
    saved = _read(document)
    if saved.get("inputs") != inputs:
        document.unlink(missing_ok=True)  # first: it says that the rest is whole
        if folder.exists():
            shutil.rmtree(folder)
        make_folder(folder)
        saved = {"inputs": inputs, **_make(name, file, folder, calibration, validation)}
        write_text(document, json.dumps(saved, indent=2) + "\n")
    return [
        Choice(
            name,
            candidate["bytes"] + saved["graph_bytes"],
            saved["ms"],
            candidate["bits"],
            saved["graph_bytes"],
            folder / str(place),
        )
        for place, candidate in enumerate(saved["candidates"])
    ]


def _read(document: Path) -> dict[str, Any]:
    """What was kept; nothing where there is none, or a damaged one."""
    try:
        return json.loads(document.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def _digest(file: Path, calibration: Batches, validation: Validation) -> str:
    with file.open("rb") as content:
        member = hashlib.file_digest(content, "sha256").hexdigest()
    videos = [[path.name, path.stat().st_size] for path in (*calibration.shards, *validation.batches.shards)]
    labels = hashlib.sha256(validation.labels_VC.tobytes()).hexdigest()  # in the order of the predictions
    constants = [
        list(map(str, GRIDS)),
        COMPENSATED_BITS,
        CANDIDATES,
        CALIBRATION_VIDEOS,
        SENSITIVITY_VIDEOS,
        FEW_INPUTS,
    ]
    return digest([member, videos, labels, constants])


def _make(name: str, file: Path, folder: Path, calibration: Batches, validation: Validation) -> dict[str, Any]:
    member = load_member(file)
    for tensor, value in member.state.items():
        if isinstance(value, torch.Tensor) and not value.isfinite().all():
            raise ModelFileError(
                f"{file}: tensor {tensor!r} holds NaN or infinity: training diverged; train it again with a lower "
                "learning rate"
            )
    moments = collect(member.classifier(), islice(calibration, CALIBRATION_VIDEOS // calibration.batch_size))
    costs: list[Cost] = []
    tensors: dict[tuple[str, Grid], QuantizedTensor] = {}
    with progress.counting_bar(f"{name}: what widths cost") as show:
        selecting = validation.selecting_batches(SENSITIVITY_VIDEOS)
        for cost, tensor in sensitivity(member, selecting, GRIDS, moments, show):
            costs.append(cost)
            tensors[cost.tensor, cost.grid] = tensor
    del moments  # of a large member as many bytes as its codes
    allocations = spread(allocate(costs), CANDIDATES)
    float_VC = _predictions(member, validation)
    _save(folder / FLOAT, float_VC)
    rows: list[dict[str, Any]] = []
    operators: list[int] = []
    with progress.counting_bar(f"{name}: predicting") as show:
        for place, allocation in enumerate(allocations):
            chosen = {tensor: tensors[tensor, grid] for tensor, grid in allocation.grids.items()}
            operators.append(sum(map(_operators, chosen.values())))
            candidate = Member(member.info, {**member.state, **chosen})
            candidate.save(folder / f"{place}.safetensors")
            predicted_VC = _predictions(candidate, validation)
            _save(folder / f"{place}.npy", predicted_VC)
            half = slice(None, validation.selecting)
            rows.append(
                {
                    "grids": {tensor: str(grid) for tensor, grid in allocation.grids.items()},
                    "bytes": member_bytes(candidate),
                    "bits": candidate.bits,
                    "divergence_predicted": allocation.divergence,
                    "divergence": divergence(float_VC[half], predicted_VC[half]),
                    **validation.gaps(predicted_VC),
                }
            )
            show(place + 1, len(allocations))
    del tensors
    largest_graph = operators.index(max(operators))
    return {
        **_in_a_graph(load_member(folder / f"{largest_graph}.safetensors"), folder, next(iter(validation.batches))),
        "gap_float": validation.gaps(float_VC),
        "costs": [{**vars(cost), "grid": str(cost.grid)} for cost in costs],
        "candidates": rows,
    }


def float_predictions(folder: Path) -> np.ndarray:
    """Of a float member whose candidates are in `folder`, float16 `[V, C]`, memory-mapped."""
    return np.load(folder / FLOAT, mmap_mode="r")


def _predictions(member: Member, validation: Validation) -> np.ndarray:
    classifier = member.classifier()
    return validation.predictions(lambda batch: predict(classifier, batch))


def _save(path: Path, predictions_VC: np.ndarray) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, predictions_VC)


def member_bytes(member: Member) -> int:
    """Of all tensors as they are in a graph, at most."""
    return sum(it.nbytes if isinstance(it, torch.Tensor) else graph_bytes(it) for it in member.state.values())


def _operators(tensor: QuantizedTensor) -> int:
    """How many a weight takes in a graph, roughly: bytes more than blocks, and each plane of narrow codes some."""
    planes, kind = tensor.grid.bits.bit_count(), kind_of(tensor, blocks=True)
    if kind is Blocks:
        return 2 * planes
    return (6 if kind is Bytes else 3) + (2 * planes if tensor.grid.bits < 8 else 0)


def _in_a_graph(member: Member, folder: Path, batch: Batch) -> dict[str, float]:
    """Bytes that a member takes in a file beside its weights, and milliseconds a video that it takes from there."""
    path = folder / "alone.onnx"
    write_graph(path, [PackedMember(member, 1.0)], budget=PROTOBUF_LIMIT)
    bytes_alone = path.stat().st_size
    predictor, seconds = load(path), []
    for _ in range(1 + _TIMINGS):  # the first is a warm-up
        start = time.perf_counter()
        predictor.predict_batch(batch)
        seconds.append(time.perf_counter() - start)
    path.unlink()
    return {
        "graph_bytes": bytes_alone - member_bytes(member) - metadata_bytes(member.info.spec, member.info.vocabulary),
        "ms": 1000 * float(np.median(seconds[1:])) / len(batch),
    }
