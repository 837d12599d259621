"""What several sections say in the same way: that something is missing, who a member is, what its bytes are."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from vidfit.report.folder import PackedMember
from vidfit.report.html import Child, element
from vidfit.report.plots import Series

Colours = dict[str, str]
"""The CSS colour of each member, the same in all sections."""

COLOURS = 10
"""Of members, in the style sheet."""


def colours_of(names: Sequence[str]) -> Colours:
    return {name: f"var(--m{index % COLOURS})" for index, name in enumerate(names)}


def missing(what: str, command: str, does: str) -> list[Child]:
    """In place of a section's content: what is not there, and the command that makes it."""
    return [element("p", f"{what}: ", element("code", command), f" {does}.", class_="missing")]


def member_label(name: str, colour: str) -> Element:
    return element("span", element("i", class_="dot", style=f"background:{colour}"), name, class_="member")


def colour_key(name: str, colour: str) -> Series:
    """A legend's entry for something that is drawn as an area."""
    return Series(name, colour, [], line="none", markers=True)


def shares_of_bytes(
    members: Sequence[PackedMember], colours: Colours, whole: int | None = None
) -> list[tuple[str, float, str]]:
    """Name, share and colour of each member's bytes, of `whole` or of their sum."""
    total = whole or sum(member.bytes or 0 for member in members) or 1
    return [(member.name, (member.bytes or 0) / total, colours[member.name]) for member in members]
