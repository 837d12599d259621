"""Section "What each method gained": how distillation, averaging, 8 bits and the ensemble changed GAP."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple
from xml.etree.ElementTree import Element

from vidfit.report.folder import LogLine, RunFolder, Summary
from vidfit.report.html import Child, element, table
from vidfit.report.plots import signed_bar
from vidfit.report.widgets import Colours, member_label
from vidfit.sizes import format_gain


class _Change(NamedTuple):
    member: str
    before: float
    after: float

    @property
    def gain(self) -> float:
        return self.after - self.before


def levers(run: RunFolder, colours: Colours) -> list[Child]:
    """Nothing where no GAP was measured."""
    if run.summary is None:
        return []
    changes = {
        ("Distillation", "from one generation to the next; validation GAP"): list(_distillation(run.summary)),
        ("Averaging of weights", "over steps of one training; validation GAP"): list(_averaging(run.summary, run.logs)),
        ("Weights in 8 bits", "instead of 32, for a smaller file; eval GAP"): [
            _Change(member.name, member.gap, member.gap_quantized)
            for member in run.summary.members
            if member.gap is not None and member.gap_quantized is not None
        ],
        ("Averaging members", "the best of them alone, and the packed file; eval GAP"): list(_ensemble(run.summary)),
    }
    if not any(changes.values()):
        return []
    largest = max(abs(change.gain) for rows in changes.values() for change in rows)
    blocks = []
    for (lever, compared), rows in changes.items():
        title = element("h3", lever, element("small", f" {compared}"))
        if rows:
            blocks.append(element("div", title, _table(rows, largest, colours)))
    note = "GAP before and after. All bars have one scale: green is a gain, red a loss."
    return [element("p", note), element("div", *blocks, class_="pair")]


def _table(changes: list[_Change], largest: float, colours: Colours) -> Element:
    cells = (
        (
            member_label(change.member, colours[change.member]),
            f"{change.before:.4f}",
            f"{change.after:.4f}",
            format_gain(change.before, change.after),
            signed_bar(change.gain, largest),
        )
        for change in changes
    )
    return table(("member", "before", "after", "gain", ""), cells, words=("member",))


def _distillation(summary: Summary) -> Iterator[_Change]:
    """Each generation of a member and the one before it."""
    for member in summary.members:
        if member.gap_validation is not None:
            for before, after in pairwise([*summary.gaps_of_teachers(member.name), member.gap_validation]):
                yield _Change(member.name, before, after)


def _averaging(summary: Summary, logs: dict[str, list[LogLine]]) -> Iterator[_Change]:
    """The best checkpoint before averaging, and the one that was kept in the end."""
    for member in summary.members:
        log = logs.get(member.name, [])
        first_phase = [line.gap for line in log if not line.averaged and line.gap is not None]
        if first_phase and len(first_phase) < len(log) and member.gap_validation is not None:
            yield _Change(member.name, max(first_phase), member.gap_validation)


def _ensemble(summary: Summary) -> Iterator[_Change]:
    packed = {member.name for member in summary.packed.members}
    gaps = [(it.gap_quantized, it.name) for it in summary.members if it.name in packed and it.gap_quantized is not None]
    if gaps and summary.packed.gap is not None:
        gap, name = max(gaps)
        yield _Change(name, gap, summary.packed.gap)
