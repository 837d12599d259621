"""HTML and SVG as trees. Writing a tree escapes all text and attributes, so no name can break the page."""

from collections.abc import Collection, Iterable, Sequence
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

Child = Element | str


def element(tag: str, *children: Child, **attributes: object) -> Element:
    """An element with its children in order.

    Attributes have their HTML or SVG names, with `_` for `-` and `class_` for `class`. Floats get two decimals.
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
    """A table that scrolls on narrow screens. Columns without content are left out.

    Arguments:
        head: titles of the columns.
        rows: a cell for each column.
        words: titles of the columns with text; all others are numbers.
    """
    rows = list(rows)
    filled = [place for place in range(len(head)) if not rows or any(row[place] != "" for row in rows)]
    head, rows = [head[place] for place in filled], [[row[place] for place in filled] for row in rows]
    classes = [{"class_": "word" if title in words else "number"} for title in head]

    def row(tag: str, cells: Sequence[Child]) -> Element:
        return element("tr", *(element(tag, cell, **look) for cell, look in zip(cells, classes, strict=True)))

    content = element("table", element("thead", row("th", head)), element("tbody", *(row("td", each) for each in rows)))
    # Accessibility: a scrolling area must be reachable with the keyboard, and then needs a name.
    return element("div", content, class_="scroll", tabindex="0", role="region", aria_label="table")


def folded(summary: str, *children: Child) -> Element:
    """Details that you can open."""
    return element("details", element("summary", summary), *children)


def to_html(tree: Element) -> str:
    """The tree as HTML text."""
    return ElementTree.tostring(tree, encoding="unicode", method="html")


def _name(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def _value(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
