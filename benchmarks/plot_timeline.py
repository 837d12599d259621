"""Draw the timeline of a video: `vidfit label`'s JSON to an SVG, beside the true intervals if they are known.

vidfit label model.onnx clip.mp4 -o clip.json
python benchmarks/plot_timeline.py clip.json clip.svg --segments segments.csv
"""

import argparse
import csv
import json
from pathlib import Path
from xml.etree.ElementTree import Element

from vidfit.report.html import element, to_html

LEFT, WIDTH, ROW, BAR, BOTTOM = 130, 600, 30, 16, 34
BLUE, GREY = "#3b76c4", "#808891"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path, help="JSON of `vidfit label`; its first video is drawn")
    parser.add_argument("picture", type=Path, help="the .svg file to write")
    parser.add_argument("--segments", type=Path, help="a table with the true intervals: path,label,start,end")
    arguments = parser.parse_args()
    video = json.loads(arguments.labels.read_text())[0]
    truth = true_intervals(arguments.segments, Path(video["path"]).name) if arguments.segments else {}
    arguments.picture.write_text(to_html(drawn(video, truth)) + "\n")


def true_intervals(table: Path, name: str) -> dict[str, list[tuple[float, float]]]:
    """Intervals of a video by label."""
    found: dict[str, list[tuple[float, float]]] = {}
    with table.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            if Path(row["path"]).name == name:
                found.setdefault(row["label"], []).append((float(row["start"]), float(row["end"])))
    return found


def drawn(video: dict, truth: dict[str, list[tuple[float, float]]]) -> Element:
    """A row per label: found intervals as bars, the darker the surer; true ones as lines below them."""
    found = {label["label"]: label["segments"] for label in video["labels"]}
    names = [*found, *(name for name in truth if name not in found)]
    scale, bottom = (WIDTH - LEFT - 12) / video["duration"], ROW * len(names) + 8
    marks = []
    for second in range(0, int(video["duration"]) + 1, 2):
        x = LEFT + second * scale
        marks.append(element("line", x1=x, x2=x, y1=4, y2=bottom, stroke=GREY, stroke_opacity=0.3))
        marks.append(text(f"{second} s", x, bottom + 16, "middle"))
    for row, name in enumerate(names):
        y = 8 + row * ROW
        marks.append(text(name, LEFT - 10, y + BAR - 3, "end"))
        for span in found.get(name, []):
            hint = element("title", f"{name}: {span['start']:g} to {span['end']:g} s, {span['confidence']:.0%}")
            place = {"x": LEFT + span["start"] * scale, "width": (span["end"] - span["start"]) * scale}
            opacity = 0.35 + 0.65 * span["confidence"]
            marks.append(element("rect", hint, **place, y=y, height=BAR, rx=3, fill=BLUE, fill_opacity=opacity))
        for start, end in truth.get(name, []):
            place = {"x1": LEFT + start * scale, "x2": LEFT + end * scale, "y1": y + BAR + 4, "y2": y + BAR + 4}
            marks.append(element("line", **place, stroke=GREY, stroke_width=3))
    size = {"viewBox": f"0 0 {WIDTH} {bottom + BOTTOM - 8}", "font_family": "sans-serif", "font_size": 13}
    return element("svg", *marks, xmlns="http://www.w3.org/2000/svg", role="img", **size)


def text(content: str, x: float, y: float, anchor: str) -> Element:
    return element("text", content, x=x, y=y, text_anchor=anchor, fill=GREY)


if __name__ == "__main__":
    main()
