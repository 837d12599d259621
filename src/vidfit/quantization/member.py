"""A member with its weights, float or quantised, read from and written to one safetensors file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from vidfit.errors import ModelFileError, VidfitError, reason
from vidfit.models.classifier import FrameClassifier
from vidfit.quantization import Codebook
from vidfit.quantization.codebook import CodebookTensor
from vidfit.quantization.gptq import Moments
from vidfit.quantization.state import (
    Form,
    Quantized,
    dequantize_state,
    flatten_state,
    grids_of,
    is_big,
    quantize_state,
    unflatten_state,
)
from vidfit.quantization.uniform import REFERENCE, QuantizedTensor
from vidfit.training.checkpoint import BEST, TRAINING_ONLY, MemberInfo, member_file, read_member, save_member

QUANTIZED = "quantized.safetensors"
_GRIDS = TypeAdapter(dict[str, str])


@dataclass
class Member:
    """A trained classifier as it is stored: what it is, and its tensors by name."""

    info: MemberInfo
    state: dict[str, Tensor | Quantized]

    @property
    def bits(self) -> float:
        """Average width of the big weights, 32 where none is quantised; scales and offsets are not counted."""
        widths: list[tuple[int, int]] = []
        for value in self.state.values():
            match value:
                case QuantizedTensor(codes, grid):
                    widths.append((codes.numel(), grid.bits))
                case CodebookTensor(codes):
                    widths.append((codes.numel(), 8))
                case Tensor() if is_big(value):
                    widths.append((value.numel(), 32))
        return sum(count * bits for count, bits in widths) / sum(count for count, _ in widths) if widths else 32

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as they are stored."""
        return sum(value.nbytes for value in self.state.values())

    def classifier(self) -> FrameClassifier:
        """The member as a module in evaluation mode, its weights in float32; those that are it already are shared."""
        with torch.device("meta"):  # drawing initial weights would take longer than all the rest
            module = self.info.build()
        module.load_state_dict(dequantize_state(self.state), assign=True)
        return module.eval()

    def quantized(self, form: Form = REFERENCE, moments: Mapping[str, Moments] | None = None) -> "Member":
        """The same member with its big tensors quantised; those that are quantised already stay as they are.

        Arguments:
            form: a grid for all, grids by name (big tensors that are not named stay float32), or a codebook's method.
            moments: what `calibration.collect` returned; matrices that have them are rounded with compensation.

        Raises:
            ModelFileError: such a tensor holds NaN or infinity or does not fit its grid; the message names it.
        """
        return Member(self.info, quantize_state(self.state, form, moments))

    def save(self, path: Path) -> None:
        """Write the member as one safetensors file.

        Raises:
            OutputError: the file cannot be written.
        """
        save_member(path, self.info, flatten_state(self.state), grids=grids_of(self.state))

    def check(self) -> None:
        """Raises ModelFileError where the tensors are not those of the architecture that the member names."""
        expected = {name: (tensor.shape, tensor.dtype) for name, tensor in architecture(self.info).items()}
        found = {
            name: (value.shape, value.dtype) if isinstance(value, Tensor) else (value.codes.shape, torch.float32)
            for name, value in self.state.items()
        }
        if differing := sorted({name for name, _ in expected.items() ^ found.items()}):
            raise ModelFileError(f"its tensors are not those of its architecture: {', '.join(differing[:3])}")


def architecture(info: MemberInfo) -> dict[str, Tensor]:
    """The tensors of a member by name, without storage."""
    with torch.device("meta"):
        return dict(info.build().state_dict())


def load_member(path: Path | str) -> Member:
    """Read a member: its folder in a run (the best checkpoint) or a `.safetensors` file, float or quantised.

    Raises:
        ModelFileError: the file is missing, damaged or no member.
    """
    info, tensors, extra = read_member(path)
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(TRAINING_ONLY)}
    try:
        shapes = {name: tensor.shape for name, tensor in architecture(info).items()}
        member = Member(info, unflatten_state(weights, _GRIDS.validate_python(extra.get("grids", {})), shapes))
        member.check()
    # PyTorch's are of sizes that no tensor can have.
    except (VidfitError, RuntimeError, ValidationError) as error:
        raise ModelFileError(f"{member_file(path)}: {reason(error)}; train it again or copy it anew") from error
    return member


def quantize_member(path: Path | str, output: Path | None = None, codebook: Codebook = "uniform") -> Path:
    """Write the quantised form of a member, by default as `quantized.safetensors` beside it.

    Raises:
        ModelFileError: the member cannot be read, a weight is not a finite number, or a codebook other than uniform is
            asked for of weights that have lost their values to 8 bits already.
        OutputError: the file cannot be written.
    """
    output = output or member_file(path).with_name(QUANTIZED)
    member = load_member(path)
    if member.bits <= 8 and codebook != "uniform":
        raise ModelFileError(f"{member_file(path)}: is quantised already; give the float32 member, {BEST}")
    member.quantized(REFERENCE if codebook == "uniform" else codebook).save(output)
    return output
