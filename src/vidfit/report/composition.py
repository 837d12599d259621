"""Section "Composition": the packed file's bytes by member and by tensor."""

from collections.abc import Sequence

from vidfit.report.folder import PackedSummary, RunFolder, TensorSummary
from vidfit.report.html import Child, element, folded, table
from vidfit.report.plots import bar, figure, stacked_bars
from vidfit.report.widgets import Colours, colour_key, fractions_of_bytes, member_label, missing
from vidfit.sizes import format_size


def composition(run: RunFolder, colours: Colours) -> list[Child]:
    if run.summary is None:
        return missing("Nothing is packed yet", "vidfit run", "packs the members")
    packed = run.summary.packed
    rows = (
        (
            member_label(member.name, colours[member.name]),
            member.family or "",
            f"{member.weight:.3f}",
            f"{member.bits:.3g}",
            "" if member.bytes is None else format_size(member.bytes),
            "" if member.bytes is None else f"{member.bytes / packed.bytes:.1%}",
        )
        for member in packed.members
    )
    members = table(("member", "family", "weight", "bits", "bytes", "of the file"), rows, words=("member", "family"))
    if any(member.tensors is None for member in packed.members):
        note = missing("This run's summary has no sizes by tensor", "vidfit run", "writes them when it packs again")
        return [members, *note]
    largest = max((tensor.bytes for member in packed.members for tensor in member.tensors or ()), default=0)
    tensors = [
        _tensors(member.name, member.tensors, colours[member.name], largest)
        for member in packed.members
        if member.tensors
    ]
    return [_whole(packed, colours), members, *tensors]


def _whole(packed: PackedSummary, colours: Colours) -> Child:
    rest = packed.bytes - sum(member.bytes or 0 for member in packed.members)
    parts = fractions_of_bytes(packed.members, colours, packed.bytes)
    parts.append(("graph and metadata", rest / packed.bytes, "var(--muted)"))
    return figure(
        stacked_bars("Bytes of the file by member", [(format_size(packed.bytes), parts)]),
        f"The file by member; the graph and its metadata take {format_size(rest)}.",
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
    return folded(f"{member}: {len(tensors)} tensors", table(head, rows, words=("tensor", "shape", "scheme")))
