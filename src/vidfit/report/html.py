"""HTML and SVG as trees: text and attributes are escaped when the tree is written, so no name can break the page."""

from collections.abc import Collection, Iterable, Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

Child = Element | str


def element(tag: str, *children: Child, **attributes: object) -> Element:
    """An element with its children in order.

    Attributes are named as in HTML or SVG, with `_` for `-` and `class_` for `class`; floats get two decimals.
    """
    parent = Element(tag, {_name(key): _value(value) for key, value in attributes.items()})
    last: Element | None = None
    for child in children:
        if isinstance(child, Element):
            parent.append(child)
            last = child
        elif last is None:
            parent.text = (parent.text or "") + child
        else:
            last.tail = (last.tail or "") + child
    return parent


def table(head: Sequence[str], rows: Iterable[Sequence[Child]], words: Collection[str] = ()) -> Element:
    """A table that scrolls by itself where the screen is narrow; the columns named in `words` are no numbers."""
    classes = [{"class_": "word" if title in words else "number"} for title in head]

    def row(tag: str, cells: Sequence[Child]) -> Element:
        return element("tr", *(element(tag, cell, **look) for cell, look in zip(cells, classes, strict=True)))

    content = element("table", element("thead", row("th", head)), element("tbody", *(row("td", each) for each in rows)))
    # What scrolls has to be reachable with the keyboard, and what is reachable needs a name.
    return element("div", content, class_="scroll", tabindex="0", role="region", aria_label="table")


def folded(summary: str, *children: Child) -> Element:
    """Details that the reader may open."""
    return element("details", element("summary", summary), *children)


def to_html(tree: Element) -> str:
    return ElementTree.tostring(tree, encoding="unicode", method="html")


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _value(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
