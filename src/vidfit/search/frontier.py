"""GAP over bytes, from the smallest file to the unconstrained ensemble: what `vidfit frontier RUN` measures.

Every point is a file: written, read again and measured on the eval shards, which have selected nothing. Beside it stand
the curves that a user would get otherwise, measured on the same videos: the best single member in 8 bits, the members
in 8 bits and in fp16 averaged with equal weights in order of their validation GAP, as many as fit.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidfit import distributed, progress
from vidfit.evaluation.metrics import Metrics
from vidfit.export.metadata import metadata_bytes
from vidfit.features.batch import Batch
from vidfit.features.loader import Batches
from vidfit.features.prefetch import read_ahead
from vidfit.features.shards import estimate_records, expand_shards
from vidfit.files import replacing
from vidfit.inference.distributed_jobs import measure
from vidfit.quantization.member import Member, load_member
from vidfit.search.budget import Ensemble, best_within
from vidfit.search.packer import Packer
from vidfit.search.validation import BATCH_SIZE
from vidfit.sizes import format_size, parse_size
from vidfit.stages import write_text
from vidfit.training.trainer import predict

FRONTIER = "frontier.json"
POINTS = 12
SINGLE, EQUAL, HALF = "best single 8-bit member", "equal-weight 8-bit ensemble", "equal-weight fp16 ensemble"


def measure_frontier(packer: Packer, budgets: Sequence[str] = ()) -> dict[str, Any]:
    """Write and measure a file for each budget, and the baselines; leaves `frontier.json` and `frontier.csv`.

    Arguments:
        packer: of the run.
        budgets: bytes, as `1GB`; where there are none, twelve from the smallest file to the unconstrained ensemble.

    Returns:
        The content of `frontier.json` (docs/reference/file-formats.md).

    Raises:
        BudgetError: nothing fits the smallest budget.
    """
    asked = sorted(map(parse_size, budgets))
    frontier = packer.frontier()
    sizes = asked or _spread(frontier)
    measured: dict[Ensemble, dict[str, Any]] = {}
    for size in sizes:
        best = best_within(frontier, size)
        if best not in measured:
            measured[best] = _measure_point(packer, size)
    points = [measured[best_within(frontier, size)] | {"budget": size} for size in sizes]
    document = {"points": points, "baselines": _baselines(packer)}
    write_text(packer.directory / FRONTIER, json.dumps(document, indent=2) + "\n")
    _write_csv(packer.directory / "frontier.csv", document)
    return document


def _measure_point(packer: Packer, size: int) -> dict[str, Any]:
    path = packer.directory / "packing" / "point.onnx"
    try:
        told = packer.pack(path, size)
        shards = expand_shards(packer.data.eval)
        with progress.videos_bar(f"evaluating {format_size(told['bytes'])}") as show:
            scores = distributed.together(measure, path, shards, packer.data.skip_corrupt, here={"show": show})
        told |= {"gap": scores["gap"]}
    finally:
        path.unlink(missing_ok=True)
    progress.console.print(f"{format_size(told['bytes'])}: GAP {told['gap']:.4f}, {len(told['members'])} members")
    return told


def known_frontier(packer: Packer) -> dict[str, Any]:
    """The frontier as the search knows it, no file written: points without the eval shards' GAP, and no baselines."""
    frontier = packer.frontier()
    ensembles = dict.fromkeys(best_within(frontier, size) for size in _spread(frontier))
    return {"points": [packer.told(ensemble) for ensemble in ensembles], "baselines": {}}


def _spread(frontier: Sequence[Ensemble]) -> list[int]:
    """Sizes from that of the smallest ensemble to that of the best, evenly in their logarithm."""
    return np.geomspace(frontier[0].bytes, frontier[-1].bytes, POINTS).round().astype(int).tolist()


def _eval_batches(packer: Packer, title: str) -> Iterator[Batch]:
    info, data = packer.info, packer.data
    shards = expand_shards(data.eval)
    batches = Batches(shards, info.spec, len(info.vocabulary), BATCH_SIZE, skip_corrupt=data.skip_corrupt)
    return progress.counted(read_ahead(batches), f"evaluating {title}", estimate_records(shards))


def _baselines(packer: Packer) -> dict[str, list[dict[str, Any]]]:
    """Bytes and eval GAP of what one would pack without a search, members in order of their validation GAP."""
    names = sorted(packer.members, key=lambda name: -packer.infos[name].gap_validation)
    members = [load_member(packer.members[name]) for name in names]
    beside = {choice.member: choice.graph_bytes for choice in packer.choices}
    common = metadata_bytes(packer.info.spec, packer.info.vocabulary)
    eight = [member.quantized() for member in members]
    sizes = [member.nbytes + beside[name] for name, member in zip(names, eight, strict=True)]
    alone, equal = _measure(packer, eight, "8-bit members")
    curves = {
        SINGLE: [{"bytes": common + size, "gap": gap} for size, gap in zip(sizes, alone, strict=True)],
        EQUAL: [{"bytes": common + int(size), "gap": gap} for size, gap in zip(np.cumsum(sizes), equal, strict=True)],
    }
    sizes = [member.nbytes // 2 + beside[name] for name, member in zip(names, members, strict=True)]
    _, equal = _measure(packer, [_in_half_precision(member) for member in members], "fp16 members")
    curves[HALF] = [
        {"bytes": common + int(size), "gap": gap} for size, gap in zip(np.cumsum(sizes), equal, strict=True)
    ]
    return {title: sorted(points, key=lambda point: point["bytes"]) for title, points in curves.items()}


def _measure(packer: Packer, members: Sequence[Member], title: str) -> tuple[list[float], list[float]]:
    """GAP on the eval shards of each member alone, and of the plain average of it and those before it."""
    classes = len(packer.info.vocabulary)
    classifiers = [member.classifier() for member in members]
    alone, averaged = ([Metrics(classes) for _ in members] for _ in range(2))
    for batch in _eval_batches(packer, title):
        labels, counts = batch.labels.numpy(), batch.label_counts.numpy()
        total = np.zeros((len(batch), classes), np.float32)
        for place, classifier in enumerate(classifiers):
            predicted = predict(classifier, batch)
            total += predicted
            alone[place].update(predicted, labels, counts)
            averaged[place].update(total / (place + 1), labels, counts)
    return tuple([metrics.result()["gap"] for metrics in those] for those in (alone, averaged))  # type: ignore[return-value]


def _in_half_precision(member: Member) -> Member:
    """The member as it is after its float32 tensors have been stored as float16."""
    state = {
        name: value.half().float() if isinstance(value, Tensor) and value.dtype == torch.float32 else value
        for name, value in member.state.items()
    }
    return Member(member.info, state)


def _write_csv(path: Path, document: dict[str, Any]) -> None:
    rows = [{"curve": "vidfit", **point, "members": _composition(point["members"])} for point in document["points"]]
    rows += [{"curve": title, **point} for title, points in document["baselines"].items() for point in points]
    columns = ["curve", "bytes", "gap", "gap_selection", "gap_confirmation", "members"]
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _composition(members: Sequence[dict[str, Any]]) -> str:
    return " + ".join(f"{member['weight']:.2f} {member['name']} ({member['bits']:.1f} bits)" for member in members)
