"""Section "Labels": the best and worst labels, and average precision over frequency."""

from collections.abc import Sequence
from statistics import mean
from typing import NamedTuple
from xml.etree.ElementTree import Element

from vidfit.report.axis import Axis, around
from vidfit.report.folder import RunFolder
from vidfit.report.html import Child, element, table
from vidfit.report.plots import Series, bar, figure, line_chart
from vidfit.report.widgets import Colours, missing

SHOWN = 15
"""Labels shown at each end."""


class _Scored(NamedTuple):
    average_precision: float
    positives: int
    name: str


def labels(run: RunFolder, _: Colours) -> list[Child]:
    if run.labels is None:
        return missing("The packed file was not measured by label", "vidfit run", "measures it")
    ranked = sorted(
        (
            _Scored(label.average_precision, label.positives, label.name)
            for label in run.labels.labels
            if label.average_precision is not None
        ),
        reverse=True,
    )
    best = ranked[: min(SHOWN, (len(ranked) + 1) // 2)]
    worst = ranked[len(best) :][-SHOWN:][::-1]
    average = mean(row.average_precision for row in ranked)
    caption = f"Each point is one of {len(ranked)} labels. Their mean is the mAP, {average:.4f}."
    if unseen := len(run.labels.labels) - len(ranked):
        caption += f" {unseen} more labels have no video in the eval shards."
    x = around("videos with the label (eval)", (row.positives for row in ranked), log=True, write="{:,.0f}".format)
    points = [(float(row.positives), row.average_precision) for row in ranked]
    cloud = Series("a label", "var(--accent)", points, line="none", markers=True)
    chart = line_chart("Average precision of labels over their videos", x, Axis("average precision", 0, 1), [cloud])
    ends = [
        element("div", element("h3", f"{which} {len(rows)}"), _table(rows))
        for which, rows in (("Best", best), ("Worst", worst))
    ]
    return [figure(chart, caption), element("div", *ends, class_="pair")]


def _table(rows: Sequence[_Scored]) -> Element:
    cells = (
        (row.name, f"{row.positives:,}", f"{row.average_precision:.3f}", bar(row.average_precision, 1)) for row in rows
    )
    return table(("label", "videos", "AP", ""), cells, words=("label",))
