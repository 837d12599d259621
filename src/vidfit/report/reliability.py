"""Section "Are the probabilities right?": whether labels with probability p are true in a fraction p of cases."""

from vidfit.report.axis import Axis
from vidfit.report.folder import RunFolder
from vidfit.report.html import Child, element, folded, table
from vidfit.report.plots import figure, reliability_diagram
from vidfit.report.widgets import Colours, missing


def reliability(run: RunFolder, _: Colours) -> list[Child]:
    """Nothing without eval videos, and before the run is finished."""
    if run.labels is None and (run.summary is None or run.lacks_eval):
        return []
    if run.labels is None:
        return missing("The probabilities were not compared with the labels", run.command, "compares them")
    bins = run.labels.reliability
    points = [(each.mean, each.hits / each.count) for each in bins]
    title, x, y = "Reliability of the probabilities", "probability", "fraction that is true"
    caption = (
        "All pairs of a video and a label, by their probability. On the dotted line, probabilities "
        "are true. Where points are below it, probabilities are too high; above it, too low."
    )
    figures = [figure(reliability_diagram(title, Axis(x, 0, 1), Axis(y, 0, 1), points), caption)]
    if drawable := [point for point in points if min(point) > 0]:
        low = min(map(min, drawable)) / 1.5
        diagram = reliability_diagram(f"{title}, small ones", Axis(x, low, 1, True), Axis(y, low, 1, True), drawable)
        figures.append(figure(diagram, "The same on logarithmic axes, because nearly all probabilities are small."))
    rows = (
        (
            f"{each.low:g}\u00a0to\u00a0{each.high:g}",
            f"{each.mean:.4f}",
            f"{fraction:.4f}",
            f"{each.hits:,}",
            f"{each.count:,}",
        )
        for each, (_, fraction) in zip(bins, points, strict=True)
    )
    head = ("probability", "mean", "true", "hits", "pairs")
    error = element(
        "p",
        "Of the labels with probability 0.3, three in ten should be true. Expected calibration error: ",
        element("strong", f"{run.labels.ece:.5f}"),
        ", the mean distance between probability and fraction over all pairs.",
    )
    return [
        error,
        element("div", *figures, class_="pair"),
        folded("Bins", table(head, rows, words=("probability",))),
    ]
