"""Section "The packed file": its size and scores."""

from vidfit.report.folder import RunFolder
from vidfit.report.html import Child, element
from vidfit.report.widgets import Colours, missing
from vidfit.sizes import format_size


def result(run: RunFolder, _: Colours) -> list[Child]:
    if run.summary is None:
        return missing("The run is not finished", "vidfit run", "resumes it")
    packed = run.summary.packed
    figures = [
        ("GAP@20", f"{packed.gap:.4f}", "global average precision"),
        ("size", format_size(packed.bytes), f"of {format_size(packed.budget)}" if packed.budget else "no budget"),
        ("mAP", f"{packed.map:.4f}", "mean over labels"),
        ("Hit@1", f"{packed.hit_at_1:.4f}", "best label is true"),
        ("PERR", f"{packed.perr:.4f}", "precision at equal recall"),
        ("members", str(len(packed.members)), f"of {len(run.summary.members)} trained"),
    ]
    tiles = [
        element("div", element("dt", name), element("dd", value, element("small", note)), class_="tile")
        for name, value, note in figures
    ]
    return [
        element("p", element("code", packed.path), ", measured on the eval shards from the file itself:"),
        element("dl", *tiles, class_="tiles"),
    ]
