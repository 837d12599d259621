"""`RUN/report.html`: one page for phones and desktops, without scripts, fonts or any other outside resource."""

import re
from importlib.resources import files as package_files
from pathlib import Path
from xml.etree.ElementTree import Element

from vidfit.files import replacing
from vidfit.report.composition import composition
from vidfit.report.curves import curves
from vidfit.report.folder import RunFolder, read_run
from vidfit.report.frontier import frontier
from vidfit.report.html import Child, element, folded, to_html
from vidfit.report.labels import labels
from vidfit.report.levers import levers
from vidfit.report.reliability import reliability
from vidfit.report.result import result
from vidfit.report.thresholds import thresholds
from vidfit.report.tried import tried
from vidfit.report.widgets import Colours, colours_of

REPORT = "report.html"


def write_report(run: Path) -> Path:
    """Write a run's page from the files of its folder; returns its path.

    Raises:
        OutputError: it is not a run folder, one of its files cannot be read, or the page cannot be written.
        ModelFileError: the packed file cannot be read.
    """
    page = run / REPORT
    html = to_html(_page(read_run(run)))
    with replacing(page) as partial:
        # A folder's name need not be text.
        partial.write_text(f"<!DOCTYPE html>\n{html}\n", encoding="utf-8", errors="backslashreplace")
    return page


def _page(run: RunFolder) -> Element:
    title = f"vidfit: {run.path.resolve().name}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        # Without an icon, a browser asks the server for /favicon.ico.
        element("link", rel="icon", href="data:,"),
        element("style", (package_files("vidfit.report") / "style.css").read_text(encoding="utf-8")),
    )
    colours = colours_of(run.names)
    sections = {
        "The packed file": result,
        "What was tried": tried,
        "Training curves": curves,
        "What each method gained": levers,
        "Score by size": frontier,
        "What takes the bytes": composition,
        "Best and worst labels": labels,
        "Thresholds": thresholds,
        "Are the probabilities right?": reliability,
        "The recipe": _recipe,
    }
    contents = {title: make(run, colours) for title, make in sections.items()}
    made = [element("section", element("h2", title), *content) for title, content in contents.items() if content]
    body = element("body", element("header", element("h1", title)), element("main", *made))
    return element("html", head, body, lang="en")


def _recipe(run: RunFolder, _: Colours) -> list[Child]:
    return [folded("All settings, also those left at their defaults", element("pre", _rounded(run.recipe)))]


def _rounded(recipe: str) -> str:
    """YAML with floats of six digits, for people: sums of weights have rounding errors."""
    return re.sub(r"(?<=: )\d+\.\d{6,}(e[-+]\d+)?$", lambda it: str(float(f"{float(it[0]):.6g}")), recipe, flags=re.M)
