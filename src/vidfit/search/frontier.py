"""GAP over bytes, from the smallest file to the unconstrained ensemble: what `vidfit frontier RUN` measures.

Every point is a file: written, read again and measured on the eval shards, which nothing was selected on.

Three curves show what you would get without a search, on the same videos. One is the best single member in 8 bits. One
averages members in 8 bits with equal weights, as many as fit, in order of their validation GAP. The third does so in
fp16.
"""

import csv
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidfit import distributed
from vidfit.evaluation.metrics import Metrics
from vidfit.features.batch import Batch
from vidfit.features.prefetch import read_ahead
from vidfit.features.shards import estimate_records
from vidfit.features.skipped import Skipped
from vidfit.files import replacing, write_text
from vidfit.inference.distributed_jobs import measure
from vidfit.progress import counter, log_skipped
from vidfit.quantization.member import Member, load_member
from vidfit.search.budget import Ensemble, best_within
from vidfit.search.packer import Packer
from vidfit.search.runs import Runs
from vidfit.search.search import Search
from vidfit.sizes import count_of, format_size, parse_size
from vidfit.training.validation import predict

_log = logging.getLogger("vidfit")

FRONTIER = "frontier.json"
POINTS = 12
SINGLE, EQUAL, HALF = "best single 8-bit member", "equal-weight 8-bit ensemble", "equal-weight fp16 ensemble"


def measure_frontier(runs: Runs, budgets: Sequence[str] = ()) -> dict[str, Any]:
    """Write and measure a file for each budget, and the baselines. Leaves `frontier.json` and `frontier.csv`.

    Arguments:
        runs: one run, or several to choose among.
        budgets: sizes such as `1GB`. Without any, twelve from the smallest file to the unconstrained ensemble.

    Returns:
        The content of `frontier.json` (docs/reference/file-formats.md).

    Raises:
        BudgetError: nothing fits the smallest budget.
        OutputError: another process uses the run folder.
        ModelFileError: runs have other eval videos.
    """
    with runs.locked():
        runs.check_same_videos("eval")
        return _measure_frontier(runs, sorted(map(parse_size, budgets)))


def _measure_frontier(runs: Runs, asked: Sequence[int]) -> dict[str, Any]:
    document = _with_extractor(runs, asked) if runs.with_extractor else _without_extractor(runs, asked)
    write_text(runs.directory / FRONTIER, json.dumps(document, indent=2) + "\n")
    _write_csv(runs.directory / "frontier.csv", document)
    return document


def _without_extractor(runs: Runs, asked: Sequence[int]) -> dict[str, Any]:
    frontier = runs.search.frontier()
    sizes = asked or _spread(frontier)
    measured: dict[Ensemble, dict[str, Any]] = {}
    for size in sizes:
        best = best_within(frontier, size)
        if best not in measured:
            measured[best] = _measure_point(runs, size)
    points = [measured[best_within(frontier, size)] | {"budget": size} for size in sizes]
    return {"points": points, "baselines": _baselines(runs.packers[0])}


def _with_extractor(runs: Runs, asked: Sequence[int]) -> dict[str, Any]:
    """The eval shards hold features of the models as they are, also for files that carry them in 8 bits."""
    sizes = asked or np.geomspace(*runs.limits, POINTS).astype(int).tolist()
    return {"points": [_measure_point(runs, size) for size in sizes], "baselines": {}}


def known_frontier(search: Search) -> dict[str, Any]:
    """The frontier as the search knows it: no eval GAP, no baselines, and no file is written."""
    frontier = search.frontier()
    ensembles = dict.fromkeys(best_within(frontier, size) for size in _spread(frontier))
    return {"points": [search.describe(ensemble) for ensemble in ensembles], "baselines": {}}


def _measure_point(runs: Runs, size: int) -> dict[str, Any]:
    path = runs.directory / "packing" / "point.onnx"
    try:
        point, packer, _ = runs.pack(path, size)
        what = f"evaluating {format_size(point['bytes'])}"
        batches = packer.search.members.batches("eval")
        scores = distributed.on_all_ranks(
            measure,
            path,
            batches.shards,
            batches.skip_corrupt,
            labelled_only=batches.labelled_only,
            rank_0_only={"on_count": counter(packer.on_progress, what, "videos")},
        )
        point |= {"gap": scores["gap"]}
    finally:
        path.unlink(missing_ok=True)
    _log.info("%s: GAP %.4f, %s", format_size(point["bytes"]), point["gap"], count_of(len(point["members"]), "member"))
    return point


def _spread(frontier: Sequence[Ensemble]) -> list[int]:
    """Sizes from the smallest ensemble to the best one, evenly in their logarithm."""
    return np.geomspace(frontier[0].bytes, frontier[-1].bytes, POINTS).round().astype(int).tolist()


def _baselines(packer: Packer) -> dict[str, list[dict[str, Any]]]:
    """Bytes and eval GAP of packing without a search."""
    run = packer.search.members
    names = sorted(run.files, key=lambda name: -(run.infos[name].gap_validation or 0.0))
    members = [load_member(run.files[name]) for name in names]
    graph_bytes = {candidate.member: candidate.graph_bytes for candidate in packer.search.candidates}
    eight = [member.quantized() for member in members]
    eight_bytes = [member.nbytes + graph_bytes[name] for name, member in zip(names, eight, strict=True)]
    half_bytes = [member.nbytes // 2 + graph_bytes[name] for name, member in zip(names, members, strict=True)]
    alone, equal = _measure(packer, eight, "8-bit members")
    _, equal_half = _measure(packer, [_in_half_precision(member) for member in members], "fp16 members")
    curves = {
        SINGLE: (eight_bytes, alone),
        EQUAL: (np.cumsum(eight_bytes).tolist(), equal),
        HALF: (np.cumsum(half_bytes).tolist(), equal_half),
    }
    common = packer.search.common_bytes
    return {
        title: sorted(
            ({"bytes": common + size, "gap": gap} for size, gap in zip(sizes, gaps, strict=True)),
            key=lambda point: point["bytes"],
        )
        for title, (sizes, gaps) in curves.items()
    }


def _measure(packer: Packer, members: Sequence[Member], title: str) -> tuple[list[float], list[float]]:
    """Eval GAP of each member alone, and of the plain average of it and all members before it."""
    classes = len(packer.search.members.info.vocabulary)
    classifiers = [member.classifier() for member in members]
    alone, averaged = ([Metrics(classes) for _ in members] for _ in range(2))
    for batch in _eval_batches(packer, f"evaluating {title}"):
        labels, counts = batch.labels.numpy(), batch.label_counts.numpy()
        total = np.zeros((len(batch), classes), np.float32)
        for place, classifier in enumerate(classifiers):
            predicted = predict(classifier, batch)
            total += predicted
            alone[place].update(predicted, labels, counts)
            averaged[place].update(total / (place + 1), labels, counts)
    return [metrics.result()["gap"] for metrics in alone], [metrics.result()["gap"] for metrics in averaged]


def _eval_batches(packer: Packer, what: str) -> Iterator[Batch]:
    """Batches of the eval shards, with progress and a warning about skipped records."""
    batches = packer.search.members.batches("eval")
    total, videos, skipped = estimate_records(batches.shards), 0, Skipped()
    on_count = counter(packer.on_progress, what, "videos")
    for batch in read_ahead(batches):
        yield batch
        videos += len(batch)
        skipped += batch.skipped
        on_count(videos, total)
    log_skipped(what, skipped)


def _in_half_precision(member: Member) -> Member:
    """The member with its float32 tensors rounded to float16."""
    state = {
        name: value.half().float() if isinstance(value, Tensor) and value.dtype == torch.float32 else value
        for name, value in member.state.items()
    }
    return Member(member.info, state)


def _write_csv(path: Path, document: dict[str, Any]) -> None:
    rows = [{"curve": "vidfit", **point, "members": _composition(point["members"])} for point in document["points"]]
    rows += [{"curve": title, **point} for title, points in document["baselines"].items() for point in points]
    columns = ["curve", "bytes", "gap", "gap_selection", "gap_confirmation", "members", "run", "models"]
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def _composition(members: Sequence[dict[str, Any]]) -> str:
    return " + ".join(f"{member['weight']:.2f} {member['name']} ({member['bits']:.1f} bits)" for member in members)
