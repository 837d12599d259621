"""Plots as small inline SVG: lines, stacked bars, bars in tables, reliability diagrams.

Plots are 400 units wide, about the width of a phone, so text keeps its size there. Colours come from the style sheet.
Legends are HTML below the picture, where they can wrap.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from xml.etree.ElementTree import Element

from vidfit.report.axis import Axis
from vidfit.report.html import Child, element

WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 26, 38
"""Margins of a plot, for ticks and labels."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A line through points, points alone, or both."""

    name: str
    colour: str
    """A CSS colour."""
    points: Sequence[Point]
    line: str = "straight"
    """`straight`, `step` (a value holds until the next point) or `none`."""
    dashes: str = "none"
    """SVG's stroke-dasharray."""
    markers: bool = False
    width: float = 1.8

    def above(self, low: float) -> "Series":
        """Without the points below `low`."""
        return replace(self, points=[point for point in self.points if point[1] >= low])


def figure(picture: Element, caption: str, legend: Sequence[Series] = ()) -> Element:
    """A picture with its legend and caption."""
    keys = [element("span", _swatch(series), series.name, class_="key") for series in legend]
    below = [element("div", *keys, class_="legend")] if keys else []
    return element("figure", picture, *below, element("figcaption", caption))


def line_chart(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> Element:
    """Series over two axes."""
    marks = [mark for each in series for mark in _marks(x, y, each)]
    return _picture(title, HEIGHT, *_frame(x, y), *marks)


def reliability_diagram(title: str, x: Axis, y: Axis, points: Sequence[Point]) -> Element:
    """Points (probability, fraction that is true), and the diagonal of perfect calibration."""
    diagonal = Series("perfect", "var(--muted)", [(x.low, x.low), (x.high, x.high)], dashes="2 4", width=1.4)
    return line_chart(title, x, y, [diagonal, Series("measured", "var(--accent)", points, markers=True)])


def stacked_bars(title: str, rows: Sequence[tuple[str, Sequence[tuple[str, float, str]]]]) -> Element:
    """One bar per row, made of (name, fraction of 1, colour) parts. Row labels are on the left."""
    thickness, left = 14, 62
    step = thickness + 5
    marks: list[Element] = []
    for index, (label, parts) in enumerate(rows):
        top, start = 4 + index * step, float(left)
        marks.append(_text(label, left - 6, top + thickness - 3, "end"))
        for name, fraction, colour in parts:
            length = fraction * (WIDTH - left - 4)
            hint = element("title", f"{label}: {name} {fraction:.0%}")
            style = f"fill:{colour}"
            marks.append(
                element("rect", hint, x=start, y=top, width=length, height=thickness, style=style, class_="part")
            )
            start += length
    return _picture(title, 8 + len(rows) * step, *marks)


def bar(value: float, largest: float, colour: str = "var(--accent)") -> Element:
    """A bar for a table's cell."""
    return _cell_bar(0, value / largest * 90, colour)


def signed_bar(value: float, largest: float) -> Element:
    """A bar for a table's cell: from the middle to the right for a gain, to the left for a loss."""
    length = abs(value) / (largest or 1.0) * 45
    return _cell_bar(45, length, "var(--gain)") if value >= 0 else _cell_bar(45, -length, "var(--loss)")


def _cell_bar(zero: float, length: float, colour: str) -> Element:
    return element(
        "svg",
        element("line", x1=zero, x2=zero, y1=0, y2=12, class_="axis"),
        element("rect", x=min(zero, zero + length), y=2, width=abs(length), height=8, style=f"fill:{colour}"),
        viewBox="-1 0 92 12",
        preserveAspectRatio="none",
        class_="bar",
        aria_hidden="true",
    )


def _picture(title: str, height: float, *marks: Element) -> Element:
    return element(
        "svg",
        element("title", title),
        *marks,
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        aria_label=title,
        class_="plot",
    )


def _across(x: Axis, value: float) -> float:
    return LEFT + x.place(value) * (WIDTH - LEFT - RIGHT)


def _down(y: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM)


def _frame(x: Axis, y: Axis) -> list[Element]:
    """Grid, ticks and axis labels. The y label is above its ticks, so it needs no rotation."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    marks = []
    for value in y.ticks():
        at = _down(y, value)
        marks += [element("line", x1=LEFT, x2=right, y1=at, y2=at, class_="grid")]
        marks += [_text(y.write(value), LEFT - 6, at + 3.5, "end")]
    for value in x.ticks():
        at = _across(x, value)
        marks += [element("line", x1=at, x2=at, y1=bottom, y2=bottom + 4, class_="axis")]
        marks += [_text(x.write(value), at, bottom + 16, "middle")]
    marks += [element("line", x1=LEFT, x2=right, y1=bottom, y2=bottom, class_="axis")]
    marks += [_text(y.label, 4, 13, "start", "name"), _text(x.label, right, HEIGHT - 6, "end", "name")]
    return marks


def _marks(x: Axis, y: Axis, series: Series) -> list[Element]:
    points = [(_across(x, across), _down(y, up)) for across, up in series.points]
    marks: list[Element] = []
    if series.line != "none" and points:
        corners = points[:1]
        for (_, before), (across, up) in pairwise(points):
            corners += [(across, before), (across, up)] if series.line == "step" else [(across, up)]
        path = "M" + "L".join(f"{across:.2f} {up:.2f}" for across, up in corners)
        style = f"stroke:{series.colour};stroke-width:{series.width};stroke-dasharray:{series.dashes}"
        marks.append(element("path", element("title", series.name), d=path, style=style, class_="line"))
    if series.markers:
        for (across, up), values in zip(points, series.points, strict=True):
            hint = element("title", f"{series.name}: {x.write(values[0])}, {y.write(values[1])}")
            marks.append(element("circle", hint, cx=across, cy=up, r=3, style=f"fill:{series.colour}"))
    return marks


def _text(text: str, x: float, y: float, anchor: str, class_: str = "tick") -> Element:
    return element("text", text, x=x, y=y, text_anchor=anchor, class_=class_)


def _swatch(series: Series) -> Element:
    """The line and marker of a series, for the legend."""
    style = f"stroke:{series.colour};stroke-width:2.5;stroke-dasharray:{series.dashes}"
    marks: list[Child] = [] if series.line == "none" else [element("line", x1=0, x2=22, y1=6, y2=6, style=style)]
    if series.markers:
        marks.append(element("circle", cx=11, cy=6, r=3.5, style=f"fill:{series.colour}"))
    return element("svg", *marks, viewBox="0 0 22 12", class_="swatch", aria_hidden="true")
