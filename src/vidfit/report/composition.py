"""Section "What takes the bytes": the packed file by carried models, members and tensors."""

from collections.abc import Sequence

from vidfit.report.folder import PackedSummary, RunFolder, TensorSummary
from vidfit.report.html import Child, element, folded, table
from vidfit.report.plots import bar, figure, stacked_bars
from vidfit.report.widgets import Colours, colour_key, fractions_of_bytes, member_label, missing
from vidfit.sizes import count_of, format_size

_METADATA = "Metadata hold the names of labels, and how features are made of videos."

CARRIED_COLOURS = ("var(--b0)", "var(--b2)")
"""Of the models for pictures and sounds."""


def composition(run: RunFolder, colours: Colours) -> list[Child]:
    if run.summary is None:
        return []
    packed = run.summary.packed
    rows = (
        (
            member_label(member.name, colours[member.name]),
            member.family or "",
            f"{member.weight:.3f}" if len(packed.members) > 1 else "",
            f"{member.bits:.3g}",
            "" if member.bytes is None else format_size(member.bytes),
            "" if member.bytes is None else f"{member.bytes / packed.bytes:.1%}",
        )
        for member in packed.members
    )
    members = table(("member", "family", "weight", "bits", "bytes", "of the file"), rows, words=("member", "family"))
    if any(member.tensors is None for member in packed.members):
        note = missing("This run's summary has no sizes by tensor", run.command, "writes them when it packs again")
        return [members, *note]
    largest = max((tensor.bytes for member in packed.members for tensor in member.tensors or ()), default=0)
    tensors = [
        _tensors(member.name, member.tensors, colours[member.name], largest)
        for member in packed.members
        if member.tensors
    ]
    carried = run.packed.extractor_bytes if run.packed else {}
    return [_whole(packed, carried, colours), members, *tensors]


def _whole(packed: PackedSummary, carried: dict[str, int], colours: Colours) -> Child:
    """The bar of the whole file.

    Arguments:
        packed: the file.
        carried: bytes of the models for `pictures` and `sounds`.
        colours: of members.
    """
    of_members = sum(member.bytes or 0 for member in packed.members)
    rest = packed.bytes - of_members - sum(carried.values())
    models = [
        (f"model for {name}", size / packed.bytes, colour)
        for (name, size), colour in zip(carried.items(), CARRIED_COLOURS, strict=False)
    ]
    parts = [*models, *fractions_of_bytes(packed.members, colours, packed.bytes)]
    parts.append(("graph and metadata", rest / packed.bytes, "var(--muted)"))
    sizes = [*((f"for {name}", size) for name, size in carried.items()), ("members", of_members)]
    said = ", ".join(f"{name} {format_size(size)}" for name, size in [*sizes, ("graph and metadata", rest)])
    return figure(
        stacked_bars("Bytes of the file by part", [(format_size(packed.bytes), parts)]),
        f"{'Models ' if carried else ''}{said}. {_METADATA}",
        [colour_key(name, colour) for name, _, colour in parts],
    )


def _tensors(member: str, tensors: Sequence[TensorSummary], colour: str, largest: int) -> Child:
    rows = (
        (
            element("code", tensor.name),
            "\u00a0x\u00a0".join(map(str, tensor.shape)),
            tensor.scheme or "",
            format_size(tensor.bytes),
            bar(tensor.bytes, largest, colour),
        )
        for tensor in sorted(tensors, key=lambda tensor: -tensor.bytes)
    )
    head = ("tensor", "shape", "scheme", "bytes", "")
    title = f"{member}: {count_of(len(tensors), 'tensor')}"
    return folded(title, table(head, rows, words=("tensor", "shape", "scheme")))
