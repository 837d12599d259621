"""Section "What was tried": the members of a `vidfit fit`, in order, and what each gave."""

from vidfit.progress import format_seconds
from vidfit.report.folder import FitSummary, RunFolder
from vidfit.report.html import Child, element, table
from vidfit.report.widgets import Colours


def tried(run: RunFolder, _: Colours) -> list[Child]:
    """Nothing for a run that no fit made."""
    if run.fit is None:
        return []
    head = ("member", "family", "trainings", "steps", "seconds", "best GAP", "gain")
    return [
        element("p", _explained(run.fit)),
        table(head, _rows(run.fit), words=("member", "family")),
        *(
            [element("p", _time(run.fit, carries=bool(run.packed and run.packed.extractor_bytes)))]
            if run.fit.seconds
            else []
        ),
        *_untried(run.fit),
    ]


def _explained(fit: FitSummary) -> str:
    """What the columns mean."""
    said = ["A member is a model that may go into the file.", "“Best GAP” is the score of the best combination so far,"]
    if fit.cross_validated:
        said.append("on videos its models had not seen.")
        said.append("Each training leaves out a part of the videos, to measure on.")
    else:
        said.append("on validation videos that did not choose it.")
    if len(fit.tried) > 1:
        said.append("“Gain” is what the member added to it.")
    sizes = {it.member.training.batch_size for it in fit.tried.values()}
    batch = f"{sizes.pop()} videos" if len(sizes) == 1 and None not in sizes else "a batch of videos"
    said.append(f"“Steps” are those of one training. Each learns from {batch}.")
    return " ".join(said)


def _rows(fit: FitSummary) -> list[tuple[str, ...]]:
    rows, before = [], None
    for name, it in fit.tried.items():
        gap = it.gap_of_best
        rows.append(
            (
                name,
                it.member.family.type,
                str(it.trainings) if fit.cross_validated else "",
                f"{it.member.training.steps:,}",
                f"{it.seconds:,.0f}",
                "-" if gap is None else f"{gap:.4f}",
                "" if gap is None or before is None else f"{gap - before:+.4f}",
            )
        )
        before = before if gap is None else gap
    return rows


def _time(fit: FitSummary, carries: bool) -> str:
    """Where the time went; `carries` if the file holds its extractor."""
    of_members = sum(it.seconds for it in fit.tried.values())
    rest = fit.seconds - of_members
    extractor = "preparing the models for pictures and sounds, " if carries else ""
    final = "training the chosen members on all videos, " if fit.cross_validated else ""
    limit = f" of {format_seconds(fit.limit)}" if fit.limit else ""
    said = f"Time used: {format_seconds(fit.seconds)}{limit}. Trying these members took {format_seconds(of_members)}."
    if rest < 1:
        return said
    return (
        f"{said} The other {format_seconds(rest)} went to reading videos, {extractor}timing steps, {final}and packing."
    )


def _untried(fit: FitSummary) -> list[Child]:
    if not fit.untried:
        return []
    names = ", ".join(fit.untried)
    again = "The same command with a longer "
    return [element("p", f"No time was left for {names}. {again}", element("code", "--time"), " tries them.")]
