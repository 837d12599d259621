"""Section "What was tried": the members of a `vidfit fit`, in order, what each gave, and which are in the file."""

from collections.abc import Iterator

from vidfit.progress import format_seconds
from vidfit.report.folder import FitSummary, RunFolder, TriedTraining
from vidfit.report.html import Child, element, table
from vidfit.report.widgets import Colours
from vidfit.sizes import format_gain


def tried(run: RunFolder, _: Colours) -> list[Child]:
    """Nothing for a run that no fit made."""
    if run.fit is None:
        return []
    weights = run.fit.weights(run.summary.packed.members) if run.summary else {}
    content: list[Child] = []
    if run.fit.tried:
        head = ("member", "in the file", "trainings", "steps", "seconds", "best GAP", "gain")
        content = [element("p", _explained(run.fit, weights)), table(head, _rows(run.fit, weights), words=("member",))]
    if run.summary and run.fit.seconds:
        carries = bool(run.packed and run.packed.extractor_bytes)
        content.append(element("p", _time(run.fit, carries)))
    return [*content, *_untried(run)]


def _explained(fit: FitSummary, weights: dict[str, float]) -> str:
    """What the columns mean."""
    said = ["A member is a model that may go into the file, which averages its members."]
    if weights:
        said.append("“In the file” is a member's weight.")
        if len(weights) < len(fit.tried):
            said.append("Those without one add too little, or take too many bytes.")
    said.append("“Best GAP” is the score of the best average so far,")
    if fit.parts:
        said.append("on videos its models had not seen. The file may score higher, for it learns from all videos.")
        if any(1 < it.trainings < fit.parts for it in fit.tried.values()):
            said.append("A member that adds nothing after two trainings is given up.")
    else:
        said.append("on validation videos that did not choose it. Other videos give another GAP.")
    if len(fit.tried) > 1:
        said.append("“Gain” is what the member added to it.")
    said += _steps([it.member.training for it in fit.tried.values()])
    if set(fit.rounds) & fit.tried.keys():
        said.append("A name with a number, such as dbof-2, is a variation of that member.")
    return " ".join(said)


def _steps(trainings: list[TriedTraining]) -> Iterator[str]:
    """What a step is."""
    in_batches = [it for it in trainings if it.solver != "lbfgs"]
    if in_batches:
        sizes = {it.batch_size for it in in_batches}
        batch = f"{sizes.pop()} videos" if len(sizes) == 1 and None not in sizes else "a batch of videos"
        fewer = ", fewer where time was short" if len({it.steps for it in in_batches}) > 1 else ""
        yield f"A training learns from {batch} in each of its “steps”{fewer}."
    if len(in_batches) < len(trainings):
        yield "Linear models, such as mean-c10, see all videos in each. The larger their c, the weaker their penalty."


def _rows(fit: FitSummary, weights: dict[str, float]) -> list[tuple[str, ...]]:
    rows, before = [], None
    for name, it in fit.tried.items():
        gap = it.gap_of_best
        rows.append(
            (
                name,
                f"{weights[name]:.0%}" if name in weights else "",
                f"{it.trainings} of {fit.parts}" if fit.parts else "",
                f"{it.member.training.steps:,}",
                f"{it.seconds:,.0f}",
                "-" if gap is None else f"{gap:.4f}",
                "" if gap is None or before is None else format_gain(before, gap),
            )
        )
        before = before if gap is None else gap
    return rows


def _time(fit: FitSummary, carries: bool) -> str:
    """Where the time went; `carries` if the file holds its extractor."""
    # Rounded before they are subtracted, so that the shown parts have the shown sum.
    whole, of_members = round(fit.seconds), round(sum(it.seconds for it in fit.tried.values()))
    extractor = "preparing the models for pictures and sounds, " if carries else ""
    final = "training the chosen members on all videos, " if fit.parts else ""
    limit = f" of {format_seconds(fit.limit)}" if fit.limit else ""
    said = f"Time used: {format_seconds(whole)}{limit}. Trying these members took {format_seconds(of_members)}."
    if whole <= of_members:
        return said
    rest = format_seconds(whole - of_members)
    return f"{said} The other {rest} went to reading videos, {extractor}timing steps, {final}and packing."


def _untried(run: RunFolder) -> list[Child]:
    assert run.fit is not None
    if not run.fit.untried:
        return []
    names = ", ".join(run.fit.untried)
    if run.summary is None:
        return [element("p", f"Not tried yet: {names}.")]
    why = "A member needs time for a quarter of its steps at least, and for finishing the file."
    again = " The same command with a longer "
    return [
        element("p", f"Too little time was left for {names}. {why}{again}", element("code", "--time"), " tries them.")
    ]
