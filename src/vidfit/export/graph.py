"""One ONNX file: all members with their quantised weights, the weighted average, vocabulary and feature spec.

PyTorch's exporter writes the members from the trained modules, so each formula has one definition. Quantised weights
are multiplied as they are stored (`weights.py`, `weight_formats.py`). docs/reference/file-formats.md has the format.
"""

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import onnxscript.optimizer
import torch
from google.protobuf.message import EncodeError
from torch import Tensor, nn

from vidfit.checksum import write_checksum
from vidfit.errors import BudgetError, ModelFileError
from vidfit.export.metadata import CHECKSUM, output_names, properties
from vidfit.export.recurrent import expand_placeholders
from vidfit.export.weight_formats import OPSET
from vidfit.export.weights import with_stored_weights
from vidfit.features.spec import FeatureSpec
from vidfit.files import replacing
from vidfit.models.classifier import VideoClassifier
from vidfit.quantization.member import Member
from vidfit.quantization.uniform import QuantizedTensor
from vidfit.sizes import format_size

PROTOBUF_LIMIT = 2**31 - 1
# The exporter computes constants up to this many elements: shapes yes, scales no.
_LARGEST_FOLDED = 64


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
) -> list[dict[str, object]]:
    """Write the ensemble as one ONNX file of at most `budget` bytes.

    Arguments:
        path: the file. It appears under this name when it is complete.
        members: the members and their weights. All must have the same features and labels.
        budget: most bytes the finished file may take.
        portable: use only standard ONNX operators. Each run then expands hidden layers that have less than 8 bits and
            more than 8,192 inputs.
        frame_probabilities: add a second output, float32 `[B, T, C]`: the weighted mean over the frame classifiers.
            Values of slots after a video's end are undefined.

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
    ensemble = _Ensemble(
        [with_stored_weights(packed.member, portable=portable) for packed in members],
        [packed.weight / total for packed in members],
        frame_probabilities,
    )
    stored = sum(tensor.nbytes for tensor in ensemble.state_dict().values())
    # Exporting a gigabyte takes minutes, so check first whether the weights fit.
    _check_budget(stored, budget, "the weights alone take")
    if stored > PROTOBUF_LIMIT:
        raise _beyond_onnx(f"the weights alone take {stored:,} bytes")
    program = _export(ensemble, info.spec, output_names(frame_probabilities))
    _name_nodes(program, [packed.member.info.name for packed in members])
    program.model.producer_name = "vidfit"
    program.model.producer_version = version("vidfit")
    program.model.metadata_props.update(
        properties(info.spec, info.vocabulary, described, info.extractor, frame_probabilities)
    )
    # Not `program.save`: above 1.5 GiB it moves weights to a second file.
    try:
        proto = program.model_proto
        expand_placeholders(proto)
        # Shapes and the exporter's notes on every value take more bytes than a small member's weights.
        proto.graph.ClearField("value_info")
        content = proto.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise _beyond_onnx(f"the weights take {stored:,} bytes and there is no room for the graph") from error
    _check_budget(len(content), budget, "the finished file takes")
    with replacing(path) as partial:
        partial.write_bytes(content)
        write_checksum(partial, CHECKSUM)
    return described


def _check_same_data(members: Sequence[PackedMember]) -> None:
    first, *others = (packed.member.info for packed in members)
    for info in others:
        if info.data != first.data:
            raise ModelFileError(
                f"member {info.name} was trained on other features or labels than {first.name}; "
                "pack members of the same run or data"
            )


class _WithFrames(nn.Module):
    """A member as a module to call: the exporter notes on a node which modules were called, not which methods."""

    def __init__(self, classifier: VideoClassifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, frames: dict[str, Tensor], num_frames: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.classifier.with_frames(frames, num_frames)


class _Ensemble(nn.Module):
    def __init__(self, members: list[VideoClassifier], weights: list[float], frame_probabilities: bool):
        super().__init__()
        self.members = nn.ModuleList(_WithFrames(member) for member in members)
        self.weights = weights
        self.frame_probabilities = frame_probabilities

    def forward(self, frames: dict[str, Tensor], num_frames: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        videos, of_frames, total = [], [], 0.0
        for weight, member in zip(self.weights, self.members, strict=True):
            probabilities_BC, probabilities_BTC = member(frames, num_frames)
            videos.append(weight * probabilities_BC)
            if probabilities_BTC is not None:
                of_frames.append(weight * probabilities_BTC)
                total += weight
        mean_BC = torch.stack(videos).sum(0)
        return (mean_BC, torch.stack(of_frames).sum(0) / total) if self.frame_probabilities else mean_BC


def _export(ensemble: nn.Module, spec: FeatureSpec, outputs: list[str]) -> torch.onnx.ONNXProgram:
    # Two videos of three frames: the exporter treats sizes of 0 and 1 as constants.
    frames = {
        modality.name: torch.zeros(2, 3, modality.size, dtype=getattr(torch, modality.dtype))
        for modality in spec.modalities
    }
    videos, longest = torch.export.Dim("videos"), torch.export.Dim("frames")
    with _quiet():
        program = torch.onnx.export(
            ensemble,
            (frames, torch.tensor([3, 2])),
            dynamo=True,
            dynamic_shapes=({name: {0: videos, 1: longest} for name in frames}, {0: videos}),
            input_names=[*frames, "num_frames"],
            output_names=outputs,
            opset_version=OPSET,
            verbose=False,
            optimize=False,
        )
        assert program is not None
        # The exporter would call this itself, but store half-precision scales in single precision.
        onnxscript.optimizer.optimize(
            program.model, input_size_limit=_LARGEST_FOLDED, output_size_limit=_LARGEST_FOLDED
        )
    return program


def _name_nodes(program: torch.onnx.ONNXProgram, members: Sequence[str]) -> None:
    """Begin each node's name with its member's name, so that a profile shows what each member costs.

    The exporter's notes on a node name the member. They are removed afterwards.
    """
    for node in program.model.graph.all_nodes():
        scopes = node.metadata_props.get("pkg.torch.onnx.name_scopes", "")
        if within := re.search(r"'members\.(\d+)'", scopes):
            node.name = f"{members[int(within[1])]}/{node.name}"
        # They hold stack traces, which take more bytes than a small member's weights.
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings and log. Its errors are exceptions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


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
