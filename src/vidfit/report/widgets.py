"""Pieces that several sections use: missing data, labels and colours of members, their fractions of bytes."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from vidfit.report.folder import PackedMemberSummary
from vidfit.report.html import Child, element
from vidfit.report.plots import Series

Colours = dict[str, str]
"""CSS colour by member, the same in all sections."""

COLOURS = 10
"""Number of member colours in the style sheet."""


def colours_of(names: Sequence[str]) -> Colours:
    return {name: f"var(--m{index % COLOURS})" for index, name in enumerate(names)}


def missing(what: str, command: str, does: str) -> list[Child]:
    """Content of a section without data: what is missing, and the command that creates it."""
    return [element("p", f"{what}: ", element("code", command), f" {does}.", class_="missing")]


def member_label(name: str, colour: str) -> Element:
    return element("span", element("i", class_="dot", style=f"background:{colour}"), name, class_="member")


def colour_key(name: str, colour: str) -> Series:
    """A legend entry for something that is drawn as an area."""
    return Series(name, colour, [], line="none", markers=True)


def fractions_of_bytes(
    members: Sequence[PackedMemberSummary], colours: Colours, whole: int | None = None
) -> list[tuple[str, float, str]]:
    """Name, fraction and colour of each member's bytes. Fractions are of `whole`, or of the members' sum."""
    total = whole or sum(member.bytes or 0 for member in members) or 1
    return [(member.name, (member.bytes or 0) / total, colours[member.name]) for member in members]
