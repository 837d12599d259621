"""Section "Training curves": GAP and loss of every member and its teachers over steps."""

from collections.abc import Callable
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from vidfit.report.axis import Axis, around
from vidfit.report.folder import LogLine, RunFolder
from vidfit.report.html import Child, element
from vidfit.report.plots import Series, figure, line_chart
from vidfit.report.widgets import Colours


@dataclass(frozen=True)
class _Training:
    title: str
    colour: str
    log: list[LogLine]
    of_teacher: bool

    def series(self, value: Callable[[LogLine], float | None]) -> list[Series]:
        """All validations as a line; dots on it are averaged weights."""
        known = [(line, measured) for line in self.log if (measured := value(line)) is not None]
        points = [(float(line.step), measured) for line, measured in known]
        averaged = [(float(line.step), measured) for line, measured in known if line.averaged]
        dashes, width = ("4 3", 1.2) if self.of_teacher else ("none", 2.0)
        return [
            Series(self.title, self.colour, points, dashes=dashes, markers=len(points) == 1, width=width),
            Series(f"{self.title}, averaged", self.colour, averaged, line="none", markers=True),
        ]


def curves(run: RunFolder, colours: Colours) -> list[Child]:
    trainings = []
    for name in run.names:
        for title, log in run.teacher_logs.get(name, {}).items():
            trainings.append(_Training(f"{name}, {title}", colours[name], log, of_teacher=True))
        if name in run.logs:
            trainings.append(_Training(name, colours[name], run.logs[name], of_teacher=False))
    if not trainings:
        return []
    caption = ["Higher is better. The state with the best GAP is kept."]
    if run.teacher_logs:
        caption.append("Dashed: the generations that taught a member (distillation).")
    if any(line.averaged for training in trainings for line in training.log):
        caption.append("Dots: weights averaged over steps.")
    measured = any(line.gap is not None for training in trainings for line in training.log)
    loss = "Lower is better. Each point is of one step and few videos, so the line goes up and down."
    if run.teacher_logs:
        loss += " A member that has teachers must match their predictions, too, so do not compare it with the others."
    keys = [Series(name, colours[name], []) for name in run.names if name in run.logs or name in run.teacher_logs]
    figures = [_figure("training loss (cross-entropy, nats per video)", trainings, lambda line: line.loss, loss, keys)]
    if measured:
        gap = _figure("GAP on the validation videos", trainings, lambda line: line.gap, " ".join(caption), keys)
        figures.insert(0, gap)
    explained = "In each step, a member learns from a batch of videos. The loss says how far its predictions are off."
    if any(len(training.log) == 1 for training in trainings):
        explained += " A member with one point was measured once, at its end."
    if run.fit and run.fit.parts:
        explained += " These are the last trainings: of the chosen members, on all videos."
    return [element("p", explained), element("div", *figures, class_="pair")]


def _figure(
    label: str, trainings: list[_Training], value: Callable[[LogLine], float | None], caption: str, keys: list[Series]
) -> Element:
    series = [series for training in trainings for series in training.series(value)]
    points = [point for each in series for point in each.points]
    x = Axis("steps", 0, max(step for step, _ in points), write="{:,.0f}".format)
    y = around(label, (value for _, value in points), write="{:.3g}".format)
    return figure(line_chart(f"{label} over steps", x, y, series), caption, keys)
