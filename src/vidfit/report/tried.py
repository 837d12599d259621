"""Section "What was tried": the members of a `vidfit fit`, in order, and what each gave."""

from vidfit.report.folder import FitSummary, RunFolder
from vidfit.report.html import Child, element, table
from vidfit.report.widgets import Colours


def tried(run: RunFolder, _: Colours) -> list[Child]:
    """Nothing for a run that no fit made."""
    if run.fit is None:
        return []
    head = ("member", "family", "steps", "seconds", "best average", "added")
    return [element("p", _explained(run.fit)), table(head, _rows(run.fit), words=("member", "family"))]


def _explained(fit: FitSummary) -> str:
    if fit.cross_validated:
        measured = "over all videos, each predicted by members that were trained without it"
    else:
        measured = "on the half of the validation videos that did not choose it"
    return (
        f"“Best average” is the GAP of the best choice within the budget among the members so far, {measured}. "
        "“Seconds” are those of training and measuring."
    )


def _rows(fit: FitSummary) -> list[tuple[str, ...]]:
    rows, before = [], None
    for name, it in fit.tried.items():
        gap = it.gap_of_best
        rows.append(
            (
                name,
                it.member.family.type,
                f"{it.member.training.steps:,}",
                f"{it.seconds:,.0f}",
                "-" if gap is None else f"{gap:.4f}",
                "" if gap is None or before is None else f"{gap - before:+.4f}",
            )
        )
        before = before if gap is None else gap
    return rows
