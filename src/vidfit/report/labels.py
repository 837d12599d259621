"""Section "Labels": the best and worst labels, and average precision over frequency."""

from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple
from xml.etree.ElementTree import Element

from vidfit.report.axis import Axis, around
from vidfit.report.folder import Label, RunFolder
from vidfit.report.html import Child, element, table
from vidfit.report.plots import Series, figure, line_chart
from vidfit.report.widgets import Colours, missing
from vidfit.sizes import count_of

SHOWN = 15
"""Labels shown at each end."""


class _Scored(NamedTuple):
    average_precision: float
    label: Label


def labels(run: RunFolder, _: Colours) -> list[Child]:
    """Nothing without eval videos, and before the run is finished."""
    if run.labels is None and (run.summary is None or run.lacks_eval):
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
        caption += f" {count_of(unseen, 'more label')} without eval videos {'is' if unseen == 1 else 'are'} not shown."
    explained = (
        "A label is given from its threshold on. Precision: of the videos that get it, the fraction that has it (“-”: "
        "none gets it). Recall: of the videos that have it, the fraction that gets it. AP, average precision: 1 if "
        "they all come before the others when videos are ordered by probability. labels.json has all labels."
    )
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
    return [figure(chart, caption), element("p", explained), element("div", *ends, class_="pair")]


def _table(rows: Sequence[_Scored]) -> Element:
    cells = (
        (
            label.name,
            f"{label.positives:,}",
            *(_figure(value) for value in (average, label.precision, label.recall, label.threshold)),
        )
        for average, label in rows
    )
    head = ("label", "videos", "AP", "precision", "recall", "threshold")
    return table(head, cells, words=("label",))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
