"""Section "Score by size": the best GAP for every size, next to simpler choices, and what each point consists of."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from vidfit.report.axis import around
from vidfit.report.folder import Frontier, FrontierPoint, RunFolder
from vidfit.report.html import Child, element, table
from vidfit.report.plots import Series, figure, line_chart, stacked_bars
from vidfit.report.widgets import Colours, colour_key, fractions_of_bytes, missing
from vidfit.sizes import format_size

_ON_VALIDATION = "vidfit, on validation"

BASELINE_LOOKS = (("var(--b0)", "5 3"), ("var(--b1)", "2 3"), ("var(--b2)", "8 3 2 3"))
"""Colour and dashes, in turn."""


def frontier(run: RunFolder, colours: Colours) -> list[Child]:
    """Nothing without validation videos, which a search needs, and before the run is finished."""
    if run.frontier is None and (run.summary is None or run.lacks_validation):
        return []
    if run.frontier is None or not run.frontier.points:
        return missing("It has not been searched", f"vidfit frontier {run.path}", "finds the best file for every size")
    points = sorted(run.frontier.points, key=lambda point: point.bytes)
    names = list(dict.fromkeys(member.name for point in points for member in point.members))
    lines = [line for line in _lines(run.frontier, points) if line.points]
    composition = figure(
        stacked_bars(
            "Composition of each point by member",
            [(_short_size(point.bytes), fractions_of_bytes(point.members, colours)) for point in points],
        ),
        "Bytes of each point by member.",
        [colour_key(name, colours[name]) for name in names],
    )
    figures = [_plot(lines), composition] if lines else [composition]
    rows = (
        (
            format_size(point.bytes),
            _gap(point.gap),
            _gap(point.gap_confirmation),
            Path(point.run).name,
            point.models,
            *(_bits_and_weight(point, name) for name in names),
        )
        for point in points
    )
    title = "The best file of each size. Together these points are called the frontier."
    explained = (
        "For each member: the bits of its numbers, and its weight in the average. “Confirmed” is the GAP on the half "
        "of the validation videos that did not choose the point."
    )
    return [
        element("p", title),
        element("div", *figures, class_="pair"),
        element("p", explained),
        table(("bytes", "GAP", "confirmed", "run", "models", *names), rows, words=("run", "models")),
    ]


def _lines(frontier: Frontier, points: Sequence[FrontierPoint]) -> list[Series]:
    """The lines of the plot. vidfit's is last, so it is drawn on top."""
    lines = []
    for index, (name, baseline) in enumerate(frontier.baselines.items()):
        colour, dashes = BASELINE_LOOKS[index % len(BASELINE_LOOKS)]
        reached = sorted((float(point.bytes), point.gap) for point in baseline if point.gap is not None)
        lines.append(Series(name, colour, reached, "step", dashes, markers=True, width=1.4))
    measured = [(float(point.bytes), point.gap) for point in points if point.gap is not None]
    confirmed = [
        (float(point.bytes), point.gap_confirmation)
        for point in points
        if point.gap is None and point.gap_confirmation is not None
    ]
    return [
        *lines,
        Series(_ON_VALIDATION, "var(--muted)", confirmed, "step", "1 2", markers=True, width=1.4),
        Series("vidfit", "var(--accent)", measured, "step", markers=True, width=2.4),
    ]


def _plot(lines: list[Series]) -> Element:
    """The plot. Points below vidfit's own lines are left out: a weak member would squeeze all others together."""
    own = [gap for line in lines if line.name.startswith("vidfit") for _, gap in line.points]
    lowest = min(own, default=0.0)
    gaps = [gap for line in lines for _, gap in line.points if gap >= lowest]
    x = around("bytes of the file", (size for line in lines for size, _ in line.points), log=True, write=_short_size)
    y = around("GAP", gaps, write="{:.3g}".format)
    shown = [line.above(y.low) for line in lines]
    names = {line.name for line in lines}
    caption = []
    if names != {_ON_VALIDATION}:
        caption.append("GAP on the eval videos.")
    if _ON_VALIDATION in names:
        caption.append(
            "Points “on validation” show the GAP on the half of the validation videos that did not choose them. Do not "
            "compare it with a GAP on the eval videos."
        )
    return figure(line_chart("GAP over bytes", x, y, shown), " ".join(caption), lines[::-1])


def _bits_and_weight(point: FrontierPoint, name: str) -> str:
    member = next((member for member in point.members if member.name == name), None)
    return f"{member.bits:.3g} bits · {member.weight:.0%}" if member else ""


def _gap(gap: float | None) -> str:
    return "" if gap is None else f"{gap:.4f}"


def _short_size(size: float) -> str:
    """As `format_size`, without a zero after the decimal point."""
    return format_size(size).replace(".0 ", " ")
