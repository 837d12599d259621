"""The candidates of a member: a few choices of bit widths for its tensors, from the smallest to nearly float.

They are made once and kept:

    RUN/packing/NAME/candidates.json   cost of each tensor's bit widths, and what was chosen; written last
    RUN/packing/NAME/K.safetensors     the member as its candidate K
    RUN/packing/NAME/K.npy             its predictions for the validation videos, float16 [V, C]
    RUN/packing/NAME/float.npy         predictions of the float member

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

from vidfit.errors import ModelFileError
from vidfit.export.graph import PROTOBUF_LIMIT, PackedMember, write_graph
from vidfit.export.metadata import metadata_bytes
from vidfit.export.weight_formats import FEW_INPUTS, Int8Weight, NBitsWeight, graph_bytes, weight_format
from vidfit.features.batch import Batch
from vidfit.features.loader import Batches
from vidfit.features.survey import digests, survey_shards
from vidfit.files import make_folder, replacing, write_text
from vidfit.inference.predictor import load
from vidfit.progress import OnProgress, Progress, counter, silent
from vidfit.quantization.bit_allocation import Allocation, allocate, spread
from vidfit.quantization.calibration import collect
from vidfit.quantization.member import Member, load_member
from vidfit.quantization.sensitivity import GPTQ_BITS, Cost, divergence, sensitivity
from vidfit.quantization.uniform import INT8, QuantizedTensor, QuantScheme
from vidfit.search.budget import Candidate
from vidfit.search.validation import Validation
from vidfit.stages import digest
from vidfit.training.validation import predict

# What each tensor may choose from: bit widths that run without being expanded (`export/weight_formats.py`).
SCHEMES = [*map(QuantScheme.parse, ("2/channel", "4/channel", "6/channel")), INT8]
CANDIDATES = 8
CALIBRATION_VIDEOS = 1024
SENSITIVITY_VIDEOS = 512
_TIMINGS = 3
FLOAT = "float.npy"

# (tensor, scheme) -> the quantised tensor.
_Quantized = dict[tuple[str, QuantScheme], QuantizedTensor]


@dataclass(frozen=True)
class StoredCandidate(Candidate):
    """A candidate with its files."""

    bits: float
    """Average bit width of the big weights."""
    graph_bytes: int
    """Bytes that the member's graph adds to a file, besides its weights; at most."""
    stem: Path
    """Path of its member file and its predictions, without the suffix."""

    def load(self) -> Member:
        """The quantised member."""
        return load_member(self.stem.with_suffix(".safetensors"))

    def predictions(self) -> np.ndarray:
        """Predictions for the validation videos, float16 `[V, C]`, memory-mapped."""
        return np.load(self.stem.with_suffix(".npy"), mmap_mode="r")


def candidates_of(
    name: str,
    file: Path,
    folder: Path,
    calibration: Batches,
    validation: Validation,
    on_progress: OnProgress = silent,
) -> list[StoredCandidate]:
    """The candidates of one member. Those in `folder` are reused if the member and the data are unchanged.

    Arguments:
        name: name of the member in its run.
        file: the float member.
        folder: where candidates are kept; created if missing.
        calibration: training videos. The first `CALIBRATION_VIDEOS` sample the layers' inputs.
        validation: its selecting half measures; all videos are predicted.
        on_progress: called a few times a second.

    Raises:
        ModelFileError: the file is not a member, or a weight is NaN or infinite.
        OutputError: the folder cannot be written.
    """
    document = folder / "candidates.json"
    inputs = _digest(file, calibration, validation)
    saved = _read(document)
    if saved.get("inputs") != inputs:
        document.unlink(missing_ok=True)  # first, because it marks the rest as complete
        if folder.exists():
            shutil.rmtree(folder)
        make_folder(folder)
        saved = {"inputs": inputs, **_make(name, file, folder, calibration, validation, on_progress)}
        write_text(document, json.dumps(saved, indent=2) + "\n")
    return [
        StoredCandidate(
            name,
            candidate["bytes"] + saved["graph_bytes"],
            saved["ms"],
            candidate["bits"],
            saved["graph_bytes"],
            folder / str(place),
        )
        for place, candidate in enumerate(saved["candidates"])
    ]


def float_predictions(folder: Path) -> np.ndarray:
    """Predictions of the float member whose candidates are in `folder`, float16 `[V, C]`, memory-mapped."""
    return np.load(folder / FLOAT, mmap_mode="r")


def _read(document: Path) -> dict[str, Any]:
    """What was kept, or nothing if the file is missing or damaged."""
    try:
        return json.loads(document.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def _digest(file: Path, calibration: Batches, validation: Validation) -> str:
    with file.open("rb") as content:
        member = hashlib.file_digest(content, "sha256").hexdigest()
    shards = [*calibration.shards, *validation.batches.shards]
    videos = digests(shards, survey_shards(shards)), calibration.labelled_only
    labels = hashlib.sha256(validation.labels_VC.tobytes()).hexdigest()  # in the order of the predictions
    constants = [
        list(map(str, SCHEMES)),
        GPTQ_BITS,
        CANDIDATES,
        CALIBRATION_VIDEOS,
        SENSITIVITY_VIDEOS,
        FEW_INPUTS,
    ]
    return digest([member, videos, labels, constants])


def _make(
    name: str, file: Path, folder: Path, calibration: Batches, validation: Validation, on_progress: OnProgress
) -> dict[str, Any]:
    """Write all candidates of a member; returns the content of `candidates.json`."""
    member = load_member(file)
    _check_finite(member, file)
    costs, tensors = _measure_costs(name, member, calibration, validation, on_progress)
    allocations = spread(allocate(costs), CANDIDATES)
    float_VC = _predictions(member, validation)
    _save(folder / FLOAT, float_VC)
    rows = []
    for place, allocation in enumerate(allocations):
        rows.append(_write_candidate(folder / str(place), member, allocation, tensors, float_VC, validation))
        on_progress(Progress(f"{name}: predicting", place + 1, len(allocations), "candidates"))
    operators = [
        sum(_operators(tensors[tensor, scheme]) for tensor, scheme in allocation.schemes.items())
        for allocation in allocations
    ]
    del tensors
    largest_graph = load_member(folder / f"{operators.index(max(operators))}.safetensors")
    return {
        **_measure_graph(largest_graph, folder, next(iter(validation.batches))),
        "gap_float": validation.gaps(float_VC),
        "costs": [{**vars(cost), "scheme": str(cost.scheme)} for cost in costs],
        "candidates": rows,
    }


def _check_finite(member: Member, file: Path) -> None:
    for tensor, value in member.state.items():
        if isinstance(value, torch.Tensor) and not value.isfinite().all():
            raise ModelFileError(
                f"{file}: tensor {tensor!r} holds NaN or infinity: training diverged; train it again with a lower "
                "learning rate"
            )


def _measure_costs(
    name: str, member: Member, calibration: Batches, validation: Validation, on_progress: OnProgress
) -> tuple[list[Cost], _Quantized]:
    """What each bit width of each tensor costs, and the quantised tensors."""
    inputs = collect(member.classifier(), islice(calibration, CALIBRATION_VIDEOS // calibration.batch_size))
    costs: list[Cost] = []
    tensors: _Quantized = {}
    measured = sensitivity(
        member,
        validation.selecting_batches(SENSITIVITY_VIDEOS),
        SCHEMES,
        inputs,
        counter(on_progress, f"{name}: cost of bit widths", "tensors"),
    )
    for cost, tensor in measured:
        costs.append(cost)
        tensors[cost.tensor, cost.scheme] = tensor
    return costs, tensors


def _write_candidate(
    stem: Path,
    member: Member,
    allocation: Allocation,
    tensors: _Quantized,
    float_VC: np.ndarray,
    validation: Validation,
) -> dict[str, Any]:
    """Write one candidate and its predictions; returns its row of `candidates.json`."""
    chosen = {tensor: tensors[tensor, scheme] for tensor, scheme in allocation.schemes.items()}
    candidate = Member(member.info, {**member.state, **chosen})
    candidate.save(stem.with_suffix(".safetensors"))
    predicted_VC = _predictions(candidate, validation)
    _save(stem.with_suffix(".npy"), predicted_VC)
    selecting = slice(None, validation.selecting)
    return {
        "schemes": {tensor: str(scheme) for tensor, scheme in allocation.schemes.items()},
        "bytes": member_bytes(candidate),
        "bits": candidate.bits,
        "divergence_predicted": allocation.divergence,
        "divergence": divergence(float_VC[selecting], predicted_VC[selecting]),
        **validation.gaps(predicted_VC),
    }


def _predictions(member: Member, validation: Validation) -> np.ndarray:
    classifier = member.classifier()
    return validation.predictions(lambda batch: predict(classifier, batch))


def _save(path: Path, predictions_VC: np.ndarray) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, predictions_VC)


def member_bytes(member: Member) -> int:
    """Bytes of all tensors as a graph stores them, at most."""
    return sum(it.nbytes if isinstance(it, torch.Tensor) else graph_bytes(it) for it in member.state.values())


def _operators(tensor: QuantizedTensor) -> int:
    """Roughly how many operators a weight takes in a graph: some per format, some per plane of narrow codes."""
    planes, kind = tensor.scheme.bits.bit_count(), weight_format(tensor, nbits=True)
    if kind is NBitsWeight:
        return 2 * planes
    return (6 if kind is Int8Weight else 3) + (2 * planes if tensor.scheme.bits < 8 else 0)


def _measure_graph(member: Member, folder: Path, batch: Batch) -> dict[str, float]:
    """Bytes that a member's graph takes besides its weights, and its milliseconds per video."""
    path = folder / "alone.onnx"
    write_graph(path, [PackedMember(member, 1.0)], budget=PROTOBUF_LIMIT)
    bytes_alone = path.stat().st_size
    predictor, seconds = load(path), []
    for _ in range(1 + _TIMINGS):  # the first is a warm-up
        start = time.perf_counter()
        predictor.predict_batch(batch)
        seconds.append(time.perf_counter() - start)
    path.unlink()
    info = member.info
    return {
        "graph_bytes": bytes_alone - member_bytes(member) - metadata_bytes(info.spec, info.vocabulary, info.extractor),
        "ms": 1000 * float(np.median(seconds[1:])) / len(batch),
    }
