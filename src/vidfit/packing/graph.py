"""The one ONNX file: every member, its quantised weights, the weighted average, vocabulary and feature spec.

The members are written by PyTorch's exporter from the very modules that were trained, so that there is one definition
of each formula. A quantised weight stays in its 2 to 8 bits in the file and after loading: its place in the module is
taken by a parametrization that begins with DequantizeLinear, which ONNX Runtime does not fold into a float matrix; one
with a codebook is looked up with Gather. What this trades away is speed: each run expands each matrix for a moment.
`docs/format.md` specifies the file.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import onnxscript.optimizer
import torch
import torch.nn.functional as F
from google.protobuf.message import EncodeError
from torch import nn
from torch.nn.utils import parametrize

from vidfit.compression.bits import unpack
from vidfit.compression.codebook import CodebookTensor
from vidfit.compression.member import Member
from vidfit.compression.quantize import QuantizedTensor, as_matrix
from vidfit.compression.state import stored_codes
from vidfit.errors import BudgetError, ModelFileError
from vidfit.features.spec import FeatureSpec
from vidfit.files import replacing
from vidfit.models.classifier import FrameClassifier
from vidfit.packing.checksum import write_checksum
from vidfit.packing.metadata import properties
from vidfit.packing.size import format_size

OPSET = 23
PROTOBUF_LIMIT = 2**31 - 1
# Elements of constants that are computed at export: shapes are, scales are not.
_LARGEST_FOLDED = 64
_INT32 = 6  # ONNX's number for the type


@dataclass
class PackedMember:
    """A member and its weight in the average."""

    member: Member
    weight: float


def write_graph(path: Path, members: Sequence[PackedMember], budget: int) -> list[dict[str, object]]:
    """Write the ensemble as one ONNX file of at most `budget` bytes.

    Arguments:
        path: the file; written beside and renamed, so that nothing half-written is ever left.
        members: who takes part. All must read the same features and know the same labels.
        budget: bytes the finished file may take.

    Returns:
        What the file's metadata says of each member: name, family, weight, bits, tensors.

    Raises:
        BudgetError: the finished file is larger than the budget (none is left) or than ONNX's 2 GiB.
        ModelFileError: members differ in features or labels.
        OutputError: the file cannot be written.
    """
    spec, vocabulary = members[0].member.info.spec, members[0].member.info.vocabulary
    for packed in members:
        if (packed.member.info.spec, packed.member.info.vocabulary) != (spec, vocabulary):
            raise ModelFileError(
                f"member {packed.member.info.name} was trained on other features or labels than "
                f"{members[0].member.info.name}; pack only members of the same run or data"
            )
    total = sum(packed.weight for packed in members)
    described = [_describe(packed, packed.weight / total) for packed in members]
    ensemble = _Ensemble(
        [_with_codes(packed.member) for packed in members],
        [packed.weight / total for packed in members],
    )
    stored = sum(tensor.nbytes for tensor in ensemble.state_dict().values())
    # Exporting a gigabyte takes minutes: do not begin where the weights alone do not fit.
    _check_budget(stored, budget, "the weights alone take")
    if stored > PROTOBUF_LIMIT:
        raise _beyond_onnx(f"the weights alone take {stored:,} bytes")
    program = _export(ensemble, spec)
    program.model.producer_name = "vidfit"
    program.model.producer_version = version("vidfit")
    program.model.metadata_props.update(properties(spec, vocabulary, described))
    # Not `program.save`: above 1.5 GiB it moves the weights to a second file.
    try:
        content = program.model_proto.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise _beyond_onnx(f"the weights take {stored:,} bytes and the graph does not fit beside them") from error
    _check_budget(len(content), budget, "the finished file takes")
    with replacing(path) as partial:
        partial.write_bytes(content)
        write_checksum(partial)
    return described


class _Ensemble(nn.Module):
    def __init__(self, members: list[FrameClassifier], weights: list[float]):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.weights = weights

    def forward(self, frames: dict[str, torch.Tensor], num_frames: torch.Tensor) -> torch.Tensor:
        probabilities = [
            weight * member(frames, num_frames) for weight, member in zip(self.weights, self.members, strict=True)
        ]
        return torch.stack(probabilities).sum(0)


class _Dequantize(nn.Module):
    """Stored codes -> float32 weights; as ONNX operators when exporting.

    Less than 8 bits a weight are packed (`compression/bits.py`) and unpacked by shifts of bytes at each run.
    """

    one: torch.Tensor
    scale: torch.Tensor
    offset: torch.Tensor | None

    def __init__(self, tensor: QuantizedTensor):
        super().__init__()
        self.grid, self.shape = tensor.grid, tensor.codes.shape
        self.register_buffer("one", torch.tensor(1.0))
        # ONNX Runtime computes in float32; half-precision numbers are stored as they are.
        dtype = torch.float32 if tensor.scale.dtype == torch.float64 else tensor.scale.dtype
        self.register_buffer("scale", tensor.scale.to(dtype))
        self.register_buffer("offset", None if tensor.offset is None else tensor.offset.to(dtype))

    def forward(self, stored: torch.Tensor) -> torch.Tensor:
        codes_IO = as_matrix(self._codes(stored))
        scale = self.scale.float()
        offset = scale / 2 if self.offset is None else self.offset.float()
        if scale.dim() == 0:
            return (codes_IO * scale + offset).view(self.shape)
        inputs, size = len(codes_IO), self.grid.rows(self.shape)
        padded_IO = F.pad(codes_IO, (0, 0, 0, len(scale) * size - inputs))
        values_GSO = padded_IO.unflatten(0, (len(scale), size)) * scale[:, None] + offset[:, None]
        return values_GSO.flatten(0, 1)[:inputs].view(self.shape)

    def _codes(self, stored: torch.Tensor) -> torch.Tensor:
        """float32 codes, the shape of the weights."""
        if torch.compiler.is_exporting():
            # Not a cast: ONNX Runtime would fold it, and all that follows, into a float matrix when it loads the file.
            stored = torch.onnx.ops.symbolic(
                "DequantizeLinear", [stored, self.one], dtype=torch.float32, shape=stored.shape, version=OPSET
            )
        if self.grid.bits == 8:
            return stored.float()
        levels = unpack(stored.to(torch.uint8), self.shape.numel(), self.grid.bits)
        return levels.view(self.shape).float() + self.grid.lowest


class _LookUp(nn.Module):
    """uint8 codes -> float32 weights, the codebook's; as ONNX operators when exporting."""

    codebook: torch.Tensor
    one: torch.Tensor

    def __init__(self, tensor: CodebookTensor):
        super().__init__()
        self.register_buffer("codebook", tensor.codebook)
        self.register_buffer("one", torch.tensor(1.0))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_exporting():
            return self.codebook[codes.int()]
        # Not Cast alone: ONNX Runtime would fold Cast and Gather into a float matrix when it loads the file.
        floats = torch.onnx.ops.symbolic(
            "DequantizeLinear", [codes, self.one], dtype=torch.float32, shape=codes.shape, version=OPSET
        )
        places = torch.onnx.ops.symbolic(
            "Cast", [floats], {"to": _INT32}, dtype=torch.int32, shape=codes.shape, version=OPSET
        )
        return torch.onnx.ops.symbolic(
            "Gather", [self.codebook, places], dtype=torch.float32, shape=codes.shape, version=OPSET
        )


# What takes the codes' place in the module, by the kind of the tensor.
_PARAMETRIZATIONS = {QuantizedTensor: _Dequantize, CodebookTensor: _LookUp}


def _with_codes(member: Member) -> FrameClassifier:
    """The member's module with 8-bit codes where its weights are quantised."""
    with torch.device("meta"):
        module = member.info.build()
    module.eval()
    floats = {name: tensor for name, tensor in member.state.items() if isinstance(tensor, torch.Tensor)}
    module.load_state_dict(floats, strict=False, assign=True)
    for name, tensor in member.state.items():
        if not isinstance(tensor, torch.Tensor):
            owner_name, _, attribute = name.rpartition(".")
            owner = module.get_submodule(owner_name)
            stored = stored_codes(tensor)
            setattr(owner, attribute, nn.Parameter(stored, requires_grad=False))
            parametrize.register_parametrization(owner, attribute, _PARAMETRIZATIONS[type(tensor)](tensor), unsafe=True)
    return module


def _export(ensemble: nn.Module, spec: FeatureSpec) -> torch.onnx.ONNXProgram:
    # Two videos of three frames: the exporter takes sizes of 0 and 1 for constants.
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
            output_names=["probabilities"],
            opset_version=OPSET,
            verbose=False,
            optimize=False,
        )
        assert program is not None
        # What the exporter itself calls, but it would also store scales of half precision in single.
        onnxscript.optimizer.optimize(program.model, input_size_limit=_LARGEST_FOLDED)
    # Stack traces of this very code, more bytes than a small member's weights.
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    return program


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its own workings; what goes wrong it raises."""
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
    return BudgetError(f"{what}; ONNX files hold at most 2 GiB: leave a member out or make one smaller")


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
                "grid": str(value.grid) if isinstance(value, QuantizedTensor) else "codebook",
                "bytes": value.nbytes,
            }
            for name, value in packed.member.state.items()
            if not isinstance(value, torch.Tensor)
        ],
    }
