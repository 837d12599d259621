"""Section "The packed file": its size and scores, the data and time of the run, and what to do next."""

from vidfit.progress import format_seconds
from vidfit.report.folder import DataSummary, FitSummary, RunFolder, Summary
from vidfit.report.html import Child, element
from vidfit.report.widgets import Colours
from vidfit.sizes import count_of, format_size

Figure = tuple[str, str, str]
"""A name, a number and a note."""


def result(run: RunFolder, _: Colours) -> list[Child]:
    if run.summary is None:
        again = " command again, and it resumes."
        said = element("p", "The run is not finished. Give the same ", element("code", run.command), again)
        return [said]
    figures = [*_size(run, run.summary), *_scores(run, run.summary), *_data(run.summary), *_time(run.fit)]
    tiles = [
        element("div", element("dt", name), element("dd", value, element("small", note)), class_="tile")
        for name, value, note in figures
    ]
    path = element("code", run.summary.packed.path)
    measured = [] if run.lacks_eval else [" Its scores are those on the eval videos, from which nothing was learned."]
    return [
        element("p", path, " is the model, in one file.", *measured),
        element("dl", *tiles, class_="tiles"),
        *_without_eval(run),
        *_use(run, run.summary),
        *_next(run, run.summary),
    ]


def _size(run: RunFolder, summary: Summary) -> list[Figure]:
    packed = summary.packed
    size = ("size", format_size(packed.bytes), f"of {format_size(packed.budget)}" if packed.budget else "no budget")
    if run.fit is None:
        return [size, ("members", str(len(packed.members)), f"of {len(summary.members)} trained")]
    chosen, trainings = run.fit.weights(packed.members), len(packed.members)
    note = f"of {len(run.fit.tried)} tried"
    more = f", from {trainings} trainings" if trainings > len(chosen) else ""
    return [size, ("members", str(len(chosen)), note + more)]


def _scores(run: RunFolder, summary: Summary) -> list[Figure]:
    packed = summary.packed
    precision, recall, where = packed.micro_precision, packed.micro_recall, ""
    if packed.gap is None and run.fit:
        precision, recall = run.fit.decisions.precision, run.fit.decisions.recall
        where = ", on videos its models had not seen"
    decisions = [
        ("precision", precision, f"of the labels that it gives are right{where}"),
        ("recall", recall, f"of the true labels are given{where}"),
    ]
    scores = [
        ("GAP", packed.gap, "ranking of all labels of all videos, 1 is best"),
        ("mAP", packed.map, "ranking of videos for each label, mean"),
        ("Hit@1", packed.hit_at_1, "best label is true"),
        ("PERR", packed.perr, "true labels among as many best ones"),
        ("accuracy", packed.accuracy, "best label is the one"),
        ("top-5 accuracy", packed.top_5_accuracy, "it is among the best five"),
        ("micro F1", packed.micro_f1, "precision and recall in one"),
        ("macro F1", packed.macro_f1, "the same, mean over labels"),
    ]
    if packed.gap is None and run.fit:
        scores.append(("GAP", run.fit.gap, f"score from 0 to 1{where}"))
    return [
        *((name, f"{share:.0%}", note) for name, share, note in decisions if share is not None),
        *((name, f"{score:.4f}", note) for name, score, note in scores if score is not None),
    ]


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
    limit = f"of {format_seconds(fit.limit)}" if fit.limit else "to try and pack"
    return [("time used", format_seconds(fit.seconds), limit)]


def _without_eval(run: RunFolder) -> list[Child]:
    """Why scores are missing."""
    if not run.lacks_eval:
        return []
    if run.fit is None:
        how: list[Child] = ["Name some under ", element("code", "data.eval"), " in the recipe. "]
    elif run.packed and not run.packed.of_videos:
        how = ["Name shards with ", element("code", "--eval"), ". "]
    else:
        how = ["Sort videos into ", element("code", "train/LABEL"), " and ", element("code", "eval/LABEL")]
        how += [", or mark some in the column ", element("code", "split"), " of your table. Fit into a new folder. "]
    shows = "Then this page shows scores, of the file and of each label."
    return [element("p", "No eval videos were given. ", *how, shows)]


def _use(run: RunFolder, summary: Summary) -> list[Child]:
    """The command for new videos."""
    if run.packed is None:
        return []
    file = run.path / summary.packed.path
    if run.packed.of_videos:
        command = f"vidfit label {file} new.mp4"
    else:
        command = f"vidfit predict {file} SHARDS -o predictions.jsonl"
    return [element("p", element("strong", "To use it: "), element("code", command))]


def _next(run: RunFolder, summary: Summary) -> list[Child]:
    """What would make the model of a fit better."""
    if run.fit is None:
        return []
    untried = len(run.fit.untried)
    left = f" ({count_of(untried, 'member')} {'was' if untried == 1 else 'were'} not tried)"
    some = f"a longer --time{left if untried else ''}, or more videos{_of_labels(summary.data)}"
    fewer = [" For fewer wrong labels, repeat the command with ", element("code", "--precision 0.9"), "."]
    thresholds = fewer if run.packed and run.packed.thresholds else []
    return [element("p", element("strong", "To get a better model: "), f"{some}.", *thresholds)]


def _of_labels(data: DataSummary | None) -> str:
    """Which labels need videos."""
    if data is None or not data.rare:
        return ""
    which = f" of the {count_of(data.rare, 'label')} with fewer than 10"
    some = ", ".join(data.rare_labels)
    return f"{which} ({some}{', ...' if len(data.rare_labels) < data.rare else ''})" if some else which
