"""What the command line says at the end of a run and of a frontier, on standard output: a table and what it means."""

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from vidfit.report.folder import Summary
from vidfit.report.page import REPORT
from vidfit.sizes import format_gain, format_size


def print_summary(summary: dict[str, Any], directory: Path) -> None:
    """The closing table of a run and what it means."""
    members, packed = summary["members"], summary["packed"]
    weighted = {member["name"]: member for member in packed["members"]}
    rows = [("member", "family", "params", "GAP", "GAP 8-bit", "mAP", "float32", "8-bit", "bits", "weight")]
    for member in members:
        name = member["name"]
        rows.append(
            (
                name,
                member["family"],
                _count(member["parameters"]),
                _score(member["gap"]),
                _score(member["gap_quantized"]),
                _score(member["map"]),
                format_size(member["bytes_float32"]),
                format_size(member["bytes_quantized"]),
                f"{weighted[name]['bits']:.1f}" if name in weighted else "-",
                f"{weighted[name]['weight']:.2f}" if name in weighted else "-",
            )
        )
    size = format_size(packed["bytes"])
    rows.append(("packed", "", "", "", _score(packed["gap"]), _score(packed["map"]), "", size, "", "1.00"))
    print_table(rows, words={"member", "family"})
    print()
    parsed = Summary.model_validate(summary)
    for member in parsed.members:
        if member.gap_validation is not None and (earlier := parsed.gaps_of_teachers(member.name)):
            gaps = " -> ".join(f"{gap:.4f}" for gap in [*earlier, member.gap_validation])
            print(f"validation GAP of {member.name} by generation: {gaps}")
    if packed["gap"] is not None:
        _print_gains(members, packed, weighted)
    elif "fit" in summary:
        *_, last = summary["fit"].values()
        print(f"GAP on videos that the members were not trained on: {last['gap_of_best']:.4f}")
        if found := summary.get("decisions"):
            print(_of_decisions(found["precision"], found["recall"]))
    if "gap_confirmation" in packed:
        print(
            f"validation GAP of the packed file: {packed['gap_selection']:.4f} on the half that selected its members, "
            f"{packed['gap_confirmation']:.4f} on the other"
        )
    print(f"{directory / packed['path']}: {packed['bytes']:,} bytes of {packed['budget']:,}")
    if "accuracy" in packed:
        print(f"accuracy: {packed['accuracy']:.4f}, top-5 accuracy {packed['top_5_accuracy']:.4f}")
    if "micro_precision" in packed:  # an older version measured none
        said = _of_decisions(packed["micro_precision"], packed["micro_recall"])
        print(f"{said} (micro F1 {packed['micro_f1']:.4f}, macro {packed['macro_f1']:.4f})")
    if (page := directory / REPORT).exists():
        print(f"{page}: all of it on one page, and what to do next")


def _of_decisions(precision: float, recall: float) -> str:
    return f"at the labels' thresholds: {precision:.0%} of labels given are right, {recall:.0%} of true ones are given"


def _print_gains(members: Sequence[dict[str, Any]], packed: dict[str, Any], weighted: Mapping[str, Any]) -> None:
    best = max((member for member in members if member["name"] in weighted), key=lambda member: member["gap_quantized"])
    worst = max(members, key=lambda member: member["gap"] - member["gap_quantized"])
    gained = format_gain(best["gap_quantized"], packed["gap"])
    lost = format_gain(worst["gap_quantized"], worst["gap"]).removeprefix("+")
    print(
        f"GAP of the packed file against its best member, {best['name']}: {gained}\n"
        f"GAP lost to 8 bits, at most ({worst['name']}): {lost}\n"
        f"Hit@1 {packed['hit_at_1']:.4f}, PERR {packed['perr']:.4f}"
    )


def _count(parameters: int) -> str:
    """`7.70 k`, `1.25 M`."""
    return f"{parameters / 1e6:.2f} M" if parameters >= 1e6 else f"{parameters / 1e3:.2f} k"


def _score(value: float | None) -> str:
    """Four decimals; `-` where nothing was measured."""
    return "-" if value is None else f"{value:.4f}"


def print_frontier(document: dict[str, Any]) -> None:
    """Each point with the best of every baseline that takes no more bytes."""
    baselines: dict[str, list[dict[str, float]]] = document["baselines"]
    rows = [("bytes", "vidfit", *baselines, "models", "members")]
    for point in document["points"]:
        others = [
            max((f"{own['gap']:.4f}" for own in points if own["bytes"] <= point["budget"]), default="-")
            for points in baselines.values()
        ]
        members = ", ".join(f"{member['name']} {member['bits']:.1f} bits" for member in point["members"])
        models = f"{Path(point['run']).name}: {point['models']}" if "run" in point else "-"
        rows.append((format_size(point["bytes"]), f"{point['gap']:.4f}", *others, models, members))
    print_table(rows, words={"models", "members"})


def print_table(rows: Sequence[Sequence[str]], words: Set[str]) -> None:
    """Columns two spaces apart, numbers to the right. Columns without values are left out.

    Arguments:
        rows: headings first. `-` means a missing value.
        words: headings of the columns that stand to the left.
    """
    columns: list[list[str]] = []
    for column in zip(*rows, strict=True):
        if set(column[1:]) <= {"", "-"}:
            continue
        aligned, width = str.ljust if column[0] in words else str.rjust, max(map(len, column))
        columns.append([aligned(cell, width) for cell in column])
    for row in zip(*columns, strict=True):
        print("  ".join(row).rstrip())
