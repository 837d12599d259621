"""Section "Labels": the best and worst labels, and average precision over frequency."""

from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple
from xml.etree.ElementTree import Element

from vidfit.report.axis import Axis, around
from vidfit.report.folder import Label, RunFolder
from vidfit.report.html import Child, element, table
from vidfit.report.plots import Series, bar, figure, line_chart
from vidfit.report.widgets import Colours, missing

SHOWN = 15
"""Labels shown at each end."""


class _Scored(NamedTuple):
    average_precision: float
    label: Label


def labels(run: RunFolder, _: Colours) -> list[Child]:
    """Nothing without eval videos."""
    if run.labels is None and run.lacks_eval:
        return []
    if run.labels is None:
        return missing("The packed file was not measured by label", run.command, "measures it")
    scored = [
        _Scored(label.average_precision, label) for label in run.labels.labels if label.average_precision is not None
    ]
    ranked = sorted(scored, key=lambda row: (-row.average_precision, -row.label.positives))
    best = ranked[: min(SHOWN, (len(ranked) + 1) // 2)]
    worst = ranked[len(best) :][-SHOWN:][::-1]
    average = mean(row.average_precision for row in ranked)
    caption = f"Each point is one of {len(ranked)} labels. Their mean is the mAP, {average:.4f}."
    if unseen := len(run.labels.labels) - len(ranked):
        caption += f" {unseen} more labels have no eval video."
    caption += " Precision and recall are those at the file's threshold of each label."
    x = around(
        "videos with the label (eval)", (row.label.positives for row in ranked), log=True, write="{:,.0f}".format
    )
    points = [(float(row.label.positives), row.average_precision) for row in ranked]
    cloud = Series("a label", "var(--accent)", points, line="none", markers=True)
    chart = line_chart("Average precision of labels over their videos", x, Axis("average precision", 0, 1), [cloud])
    ends = [
        element("div", element("h3", f"{which} {len(rows)}"), _table(rows))
        for which, rows in (("Best", best), ("Worst", worst))
    ]
    return [figure(chart, caption), element("div", *ends, class_="pair")]


def _table(rows: Sequence[_Scored]) -> Element:
    cells = (
        (
            label.name,
            f"{label.positives:,}",
            f"{precision:.3f}",
            bar(precision, 1),
            *(_figure(value) for value in (label.threshold, label.precision, label.recall)),
        )
        for precision, label in rows
    )
    head = ("label", "videos", "AP", "", "threshold", "precision", "recall")
    return table(head, cells, words=("label",))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
