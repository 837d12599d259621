"""One ONNX file: all members with their quantised weights, the weighted average, vocabulary and feature spec.

Each family writes its formula in operators of ONNX (`member.py` and the files that it names). Quantised weights are
multiplied as they are stored (`weight_formats.py`). docs/reference/file-formats.md has the format.
"""

import mmap
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf.message import EncodeError
from onnx import StringStringEntryProto, helper

from vidfit.checksum import write_checksum
from vidfit.errors import BudgetError, ModelFileError
from vidfit.evaluation.thresholds import encode, not_chosen
from vidfit.export.extractor import CarriedExtractor, write_extractor
from vidfit.export.graph_writer import GraphWriter, Value
from vidfit.export.member import write_member
from vidfit.export.metadata import CHECKSUM, properties
from vidfit.export.slots import Slots
from vidfit.features.spec import FeatureSpec
from vidfit.files import replacing
from vidfit.quantization.member import Member
from vidfit.quantization.uniform import QuantizedTensor
from vidfit.sizes import format_size

PROTOBUF_LIMIT = 2**31 - 1


@dataclass
class PackedMember:
    """A member and its weight in the average."""

    member: Member
    weight: float


def write_graph(
    path: Path,
    members: Sequence[PackedMember],
    budget: int,
    *,
    portable: bool = False,
    frame_probabilities: bool = False,
    odds: float = 1.0,
    carried: CarriedExtractor | None = None,
) -> list[dict[str, object]]:
    """Write the ensemble as one ONNX file of at most `budget` bytes.

    Arguments:
        path: the file. It appears under this name when it is complete.
        members: the members and their weights. All must have the same features and labels.
        budget: most bytes the finished file may take.
        portable: use only standard ONNX operators. Loading then expands all codes to bytes.
        frame_probabilities: add a second output, float32 `[B, T, C]`: the weighted mean over the frame classifiers.
            Values of slots after a video's end are undefined.
        odds: factor of the odds `p / (1 - p)` of all probabilities. It changes no ranking.
        carried: the extractor to put into the file. Its inputs are then pictures and sound instead of frames.

    Returns:
        The file's metadata of each member: name, family, weight, bits, bytes, tensors.

    Raises:
        BudgetError: the file would be larger than the budget or than ONNX's 2 GiB. No file is left.
        ModelFileError: members have different features or labels, or none has frame probabilities.
        OutputError: the file cannot be written.
    """
    _check_same_data(members)
    if frame_probabilities and not any(packed.member.info.classifier.has_frame_probabilities for packed in members):
        raise ModelFileError(
            "frame_probabilities: none of the packed members is a frame-classifier; pack one, or leave the key out"
        )
    info = members[0].member.info
    total = sum(packed.weight for packed in members)
    described = [_describe(packed, packed.weight / total) for packed in members]
    graph = _write(members, [packed.weight / total for packed in members], portable, frame_probabilities, odds, carried)
    _check_budget(graph.weight_bytes, budget, "the weights alone take")
    if graph.weight_bytes > PROTOBUF_LIMIT:
        raise _beyond_onnx(f"the weights alone take {graph.weight_bytes:,} bytes")
    extractor, models = carried.metadata() if carried else (info.extractor, None)
    written = properties(info.spec, info.vocabulary, described, extractor, frame_probabilities, models)
    helper.set_model_props(graph.model, written)
    try:
        content = graph.serialise()
    except (EncodeError, ValueError) as error:
        raise _beyond_onnx(
            f"the weights take {graph.weight_bytes:,} bytes and there is no room for the graph"
        ) from error
    _check_budget(len(content), budget, "the finished file takes")
    with replacing(path) as partial:
        partial.write_bytes(content)
        write_checksum(partial, CHECKSUM)
    return described


def write_thresholds(path: Path, levels_C: np.ndarray) -> None:
    """Write chosen thresholds into a packed file, in the room that `write_graph` left. Its size stays the same.

    Arguments:
        path: the file; it is replaced as a whole.
        levels_C: level of each label, uint8, as `evaluation/thresholds.py` chooses them.

    Raises:
        OutputError: the file cannot be written.
    """
    room, chosen = (
        StringStringEntryProto(key="vidfit.thresholds", value=text).SerializeToString()
        for text in (not_chosen(len(levels_C)), encode(levels_C))
    )
    with replacing(path) as partial:
        shutil.copyfile(path, partial)
        with partial.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
            place = content.rfind(room)
            assert place >= 0
            content[place : place + len(room)] = chosen
        write_checksum(partial, CHECKSUM)


def _check_same_data(members: Sequence[PackedMember]) -> None:
    first, *others = (packed.member.info for packed in members)
    for info in others:
        if info.data != first.data:
            raise ModelFileError(
                f"member {info.name} was trained on other features or labels than {first.name}; "
                "pack members of the same run or data"
            )


def _write(
    members: Sequence[PackedMember],
    shares: Sequence[float],
    portable: bool,
    frame_probabilities: bool,
    odds: float,
    carried: CarriedExtractor | None,
) -> GraphWriter:
    """The ensemble as a graph: the weighted averages over the members, and their odds times a factor."""
    graph, info = GraphWriter(), members[0].member.info
    stored, num_frames = _frames(graph, info.spec) if carried is None else write_extractor(graph, carried, info.spec)
    slots = Slots(graph, next(iter(stored.values())), num_frames)
    videos, frames, total = [], [], 0.0
    for place, (packed, share) in enumerate(zip(members, shares, strict=True)):
        # Names of nodes begin with their member's name, so that a profile shows what each member costs.
        graph.scope = f"{packed.member.info.name}/"
        of_videos, of_frames = write_member(packed.member, stored, slots, f"members.{place}.", portable)
        videos.append(of_videos * share)
        if frame_probabilities and of_frames is not None:
            frames.append(of_frames * share)
            total += share
    graph.scope = ""
    classes = len(info.vocabulary)
    graph.output(_scaled(sum(videos[1:], videos[0]), odds), "probabilities", ["videos", classes])
    if frame_probabilities:
        of_frames = _scaled(sum(frames[1:], frames[0]) / total, odds)
        graph.output(of_frames, "frame_probabilities", ["videos", "frames", classes])
    return graph


def _scaled(probabilities: Value, odds: float) -> Value:
    """`f p / (1 + (f - 1) p)`, which has f times the odds of p."""
    return probabilities if odds == 1 else probabilities * odds / (probabilities * (odds - 1) + 1.0)


def _frames(graph: GraphWriter, spec: FeatureSpec) -> tuple[dict[str, Value], Value]:
    """Inputs: frames by modality, `[B, T, D]`, and how many of each video are real, int64 `[B]`."""
    stored = {
        modality.name: graph.input(modality.name, modality.dtype, ["videos", "frames", modality.size])
        for modality in spec.modalities
    }
    return stored, graph.input("num_frames", "int64", ["videos"])


def _check_budget(size: int, budget: int, what: str) -> None:
    if size > budget:
        raise BudgetError(
            f"{what} {size:,} bytes, {size - budget:,} over the budget of {budget:,} ({format_size(budget)}): "
            "leave a member out, make one smaller or raise the budget"
        )


def _beyond_onnx(what: str) -> BudgetError:
    return BudgetError(f"{what}; an ONNX file holds at most 2 GiB: leave a member out or make one smaller")


def _describe(packed: PackedMember, weight: float) -> dict[str, object]:
    return {
        "name": packed.member.info.name,
        "family": packed.member.info.classifier.family.type,
        "weight": weight,
        "bits": packed.member.bits,
        "bytes": packed.member.nbytes,
        "tensors": [
            {
                "name": name,
                "shape": list(value.codes.shape),
                "scheme": str(value.scheme),
                "bytes": value.nbytes,
            }
            for name, value in packed.member.state.items()
            if isinstance(value, QuantizedTensor)
        ],
    }
