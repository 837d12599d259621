"""Section "The packed file": its size and scores."""

from vidfit.report.folder import RunFolder
from vidfit.report.html import Child, element
from vidfit.report.widgets import Colours, missing
from vidfit.sizes import format_size


def result(run: RunFolder, _: Colours) -> list[Child]:
    if run.summary is None:
        return missing("The run is not finished", "vidfit run", "resumes it")
    packed = run.summary.packed
    scores = [
        ("GAP@20", packed.gap, "global average precision"),
        ("mAP", packed.map, "mean over labels"),
        ("Hit@1", packed.hit_at_1, "best label is true"),
        ("PERR", packed.perr, "precision at equal recall"),
        ("accuracy", packed.accuracy, "best label is the one"),
        ("top-5 accuracy", packed.top_5_accuracy, "it is among the best five"),
        ("micro F1", packed.micro_f1, "decisions at the file's thresholds"),
        ("macro F1", packed.macro_f1, "the same, mean over labels"),
    ]
    if packed.gap is None and run.fit:
        scores.append(("GAP@20", run.fit.gap, "of the float32 members, see “What was tried”"))
    figures = [
        ("size", format_size(packed.bytes), f"of {format_size(packed.budget)}" if packed.budget else "no budget"),
        ("members", str(len(packed.members)), f"of {len(run.summary.members)} trained"),
        *((name, f"{score:.4f}", note) for name, score, note in scores if score is not None),
    ]
    tiles = [
        element("div", element("dt", name), element("dd", value, element("small", note)), class_="tile")
        for name, value, note in figures
    ]
    measured = (
        "not measured, because the recipe has no eval shards"
        if run.lacks_eval
        else "measured on the eval shards from the file"
    )
    return [
        element("p", element("code", packed.path), f", {measured}:"),
        element("dl", *tiles, class_="tiles"),
    ]
