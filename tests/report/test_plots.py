"""Pictures have their points where the axes say."""

import re
from xml.etree.ElementTree import Element, fromstring, tostring

import pytest

from vidfit.report.axis import Axis
from vidfit.report.plots import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Series,
    bar,
    figure,
    line_chart,
    reliability_diagram,
    signed_bar,
    stacked_bars,
)

POINTS = [(0.0, 0.2), (5.0, 0.4), (10.0, 0.3)]
X, Y = Axis("step", 0, 10), Axis("GAP", 0.2, 0.6)


def place(x: float, y: float) -> tuple[float, float]:
    """By hand: x in 0..10, y in 0.2..0.6."""
    return LEFT + x / 10 * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - (y - 0.2) / 0.4 * (HEIGHT - TOP - BOTTOM)


def path(chart: Element) -> list[tuple[float, float]]:
    (line,) = chart.iter("path")
    numbers = [float(number) for number in re.findall(r"[\d.]+", line.attrib["d"])]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def close(found: list[tuple[float, float]], expected: list[tuple[float, float]]) -> bool:
    return [value for point in found for value in point] == pytest.approx(
        [value for point in expected for value in point], abs=0.006
    )


def test_a_line_goes_through_its_points():
    chart = line_chart("GAP over steps", X, Y, [Series("lstm", "red", POINTS, markers=True)])
    assert close(path(chart), [place(*point) for point in POINTS])
    circles = [(float(mark.attrib["cx"]), float(mark.attrib["cy"])) for mark in chart.iter("circle")]
    assert close(circles, [place(*point) for point in POINTS])


def test_a_step_holds_until_the_next_point():
    chart = line_chart("", X, Y, [Series("vidfit", "red", POINTS, "step")])
    corners = [(0, 0.2), (5, 0.2), (5, 0.4), (10, 0.4), (10, 0.3)]
    assert close(path(chart), [place(*point) for point in corners])


def test_points_alone_and_points_left_out():
    series = Series("a label", "red", POINTS, line="none", markers=True)
    assert not list(line_chart("", X, Y, [series]).iter("path"))
    assert series.above(0.3).points == POINTS[1:]


def test_ticks_stand_where_their_values_are():
    chart = line_chart("", X, Y, [])
    texts = {text.text: text.attrib for text in chart.iter("text")}
    assert {"step", "GAP", "0.2", "0.6", "0", "10"} <= texts.keys()
    assert float(texts["10"]["x"]) == pytest.approx(place(10, 0.2)[0], abs=0.006)
    assert float(texts["0.4"]["y"]) == pytest.approx(place(0, 0.4)[1] + 3.5, abs=0.006)


def test_a_reliability_diagram_has_its_diagonal():
    chart = reliability_diagram("", Axis("p", 0, 1), Axis("true", 0, 1), [(0.5, 0.25)])
    diagonal = next(iter(chart.iter("path"))).attrib["d"]
    assert diagonal == f"M{LEFT:.2f} {HEIGHT - BOTTOM:.2f}L{WIDTH - RIGHT:.2f} {TOP:.2f}"
    (circle,) = chart.iter("circle")
    assert float(circle.attrib["cy"]) == pytest.approx(HEIGHT - BOTTOM - 0.25 * (HEIGHT - TOP - BOTTOM), abs=0.006)


def test_stacked_parts_follow_each_other():
    chart = stacked_bars("", [("1 MB", [("vlad", 0.75, "red"), ("lstm", 0.25, "blue")])])
    first, second = chart.iter("rect")
    start, length = float(first.attrib["x"]), float(first.attrib["width"])
    assert float(second.attrib["x"]) == pytest.approx(start + length, abs=0.011)
    assert length == pytest.approx(3 * float(second.attrib["width"]), abs=0.02)
    assert "".join(first.itertext()) == "1 MB: vlad 75%"


def test_bars_are_as_long_as_their_values():
    def extent(picture: Element) -> tuple[float, float]:
        (rect,) = picture.iter("rect")
        return float(rect.attrib["x"]), float(rect.attrib["width"])

    assert extent(bar(0.5, 1)) == (0, 45)
    assert extent(signed_bar(0.02, 0.02)) == (45, 45)
    assert extent(signed_bar(-0.01, 0.02)) == (22.5, 22.5)
    assert extent(signed_bar(0.0, 0.0)) == (45, 0)


def test_a_figure_is_well_formed_and_says_what_it_shows():
    series = Series("a <b> & c", "red", POINTS, dashes="4 3", markers=True)
    tree = fromstring(tostring(figure(line_chart("GAP <over> steps", X, Y, [series]), "What it shows.", [series])))
    picture = tree.find("svg")
    assert picture is not None
    assert picture.findtext("title") == picture.attrib["aria-label"] == "GAP <over> steps"
    assert tree.findtext("figcaption") == "What it shows."
    assert "a <b> & c" in "".join(tree.itertext())
