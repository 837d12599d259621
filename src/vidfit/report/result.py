"""Section "The packed file": its size and scores, the data and time of the run, and what to do next."""

from vidfit.progress import format_seconds
from vidfit.report.folder import FitSummary, RunFolder, Summary
from vidfit.report.html import Child, element
from vidfit.report.widgets import Colours, missing
from vidfit.sizes import format_size

Figure = tuple[str, str, str]
"""A name, a number and a note."""


def result(run: RunFolder, _: Colours) -> list[Child]:
    if run.summary is None:
        return missing("The run is not finished", run.command, "resumes it")
    figures = [*_size(run.summary), *_scores(run, run.summary), *_data(run.summary), *_time(run.fit)]
    tiles = [
        element("div", element("dt", name), element("dd", value, element("small", note)), class_="tile")
        for name, value, note in figures
    ]
    path = element("code", run.summary.packed.path)
    measured = [] if run.lacks_eval else [" Its scores are those on the eval videos."]
    return [
        element("p", path, " is the model, in one file.", *measured),
        element("dl", *tiles, class_="tiles"),
        *_without_eval(run),
        *_next(run, run.summary),
    ]


def _size(summary: Summary) -> list[Figure]:
    packed = summary.packed
    return [
        ("size", format_size(packed.bytes), f"of {format_size(packed.budget)}" if packed.budget else "no budget"),
        ("members", str(len(packed.members)), f"of {len(summary.members)} trained"),
    ]


def _scores(run: RunFolder, summary: Summary) -> list[Figure]:
    packed = summary.packed
    scores = [
        ("GAP@20", packed.gap, "global average precision, 1 is best"),
        ("mAP", packed.map, "mean over labels"),
        ("Hit@1", packed.hit_at_1, "best label is true"),
        ("PERR", packed.perr, "precision at equal recall"),
        ("accuracy", packed.accuracy, "best label is the one"),
        ("top-5 accuracy", packed.top_5_accuracy, "it is among the best five"),
        ("micro F1", packed.micro_f1, "decisions at the file's thresholds"),
        ("macro F1", packed.macro_f1, "the same, mean over labels"),
    ]
    if packed.gap is None and run.fit:
        scores.append(("GAP@20", run.fit.gap, "score from 0 to 1, on videos its models had not seen"))
    return [(name, f"{score:.4f}", note) for name, score, note in scores if score is not None]


def _data(summary: Summary) -> list[Figure]:
    if summary.data is None:
        return []
    others = [f"{count:,} for {name}" for name, count in summary.data.videos.items() if count and name != "train"]
    few = f"{summary.data.rare:,} with fewer than 10 videos" if summary.data.rare else "each with 10 videos or more"
    return [
        ("videos", f"{summary.data.videos['train']:,}", ", ".join(["to learn from", *others])),
        ("labels", f"{summary.data.labels:,}", few),
    ]


def _time(fit: FitSummary | None) -> list[Figure]:
    if fit is None or not fit.seconds:
        return []
    return [
        (
            "time used",
            format_seconds(fit.seconds),
            f"of {format_seconds(fit.limit)}" if fit.limit else "to try and pack",
        )
    ]


def _without_eval(run: RunFolder) -> list[Child]:
    """Why scores are missing."""
    if not run.lacks_eval:
        return []
    if run.fit is None:
        how: list[Child] = ["Name some under ", element("code", "data.eval"), " in the recipe. "]
    else:
        how = ["Mark some in the column ", element("code", "split"), " of your table (or use "]
        how += [element("code", "--eval"), "). "]
    shows = "Then this page shows scores, of the file and of each label."
    return [element("p", "No eval videos were given. ", *how, shows)]


def _next(run: RunFolder, summary: Summary) -> list[Child]:
    """What would make the model of a fit better."""
    if run.fit is None:
        return []
    some = [f"more time (--time; {len(run.fit.untried)} members were not tried)"] if run.fit.untried else ["more time"]
    data = summary.data
    few = f" of the {data.rare} labels with fewer than 10 videos" if data and data.rare else ""
    some.append(f"more videos{few}")
    return [element("p", element("strong", "To get a better model: "), f"{' and '.join(some)}.")]
