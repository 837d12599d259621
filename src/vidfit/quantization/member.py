"""A member with its weights, float or quantised, read from and written to one safetensors file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from vidfit.errors import ModelFileError, VidfitError, reason
from vidfit.models.classifier import VideoClassifier
from vidfit.quantization.gptq import LayerInputs
from vidfit.quantization.state import (
    Schemes,
    dequantize_state,
    flatten_state,
    is_big,
    quantize_state,
    schemes_of,
    unflatten_state,
)
from vidfit.quantization.uniform import INT8, QuantizedTensor
from vidfit.training.checkpoint import TRAINING_ONLY, MemberInfo, member_file, read_member, save_member

QUANTIZED = "quantized.safetensors"
_SCHEMES = TypeAdapter(dict[str, str])


@dataclass
class Member:
    """A trained classifier as it is stored: what it is, and its tensors by name."""

    info: MemberInfo
    state: dict[str, Tensor | QuantizedTensor]

    @property
    def bits(self) -> float:
        """Average bit width of the big weights; 32 if none is quantised. Scales and offsets do not count."""
        sizes: list[tuple[int, int]] = []
        for value in self.state.values():
            if isinstance(value, QuantizedTensor):
                sizes.append((value.codes.numel(), value.scheme.bits))
            elif is_big(value):
                sizes.append((value.numel(), 32))
        return sum(count * bits for count, bits in sizes) / sum(count for count, _ in sizes) if sizes else 32

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as they are stored."""
        return sum(value.nbytes for value in self.state.values())

    def classifier(self) -> VideoClassifier:
        """The member as a module in evaluation mode, with float32 weights. Float tensors are shared, not copied."""
        with torch.device("meta"):  # drawing initial weights would take longer than everything else
            module = self.info.build()
        module.load_state_dict(dequantize_state(self.state), assign=True)
        return module.eval()

    def quantized(self, schemes: Schemes = INT8, inputs: Mapping[str, LayerInputs] | None = None) -> "Member":
        """The member with its big tensors quantised. Tensors that are quantised already stay unchanged.

        Arguments:
            schemes: one scheme for all, or schemes by name. Big tensors without a name stay float32.
            inputs: what `calibration.collect` returned. GPTQ rounds the matrices that have inputs.

        Raises:
            ModelFileError: a big tensor holds NaN or infinity or does not fit its scheme. The message names it.
        """
        return Member(self.info, quantize_state(self.state, schemes, inputs))

    def save(self, path: Path) -> None:
        """Write the member as one safetensors file.

        Raises:
            OutputError: the file cannot be written.
        """
        save_member(path, self.info, flatten_state(self.state), schemes=schemes_of(self.state))

    def check(self) -> None:
        """Raises ModelFileError if the tensors are not those of the member's architecture."""
        expected = {name: (tensor.shape, tensor.dtype) for name, tensor in architecture(self.info).items()}
        found = {
            name: (value.shape, value.dtype) if isinstance(value, Tensor) else (value.codes.shape, torch.float32)
            for name, value in self.state.items()
        }
        if differing := sorted({name for name, _ in expected.items() ^ found.items()}):
            raise ModelFileError(f"its tensors do not fit its architecture: {', '.join(differing[:3])}")


def architecture(info: MemberInfo) -> dict[str, Tensor]:
    """A member's tensors by name, on the meta device (no memory)."""
    with torch.device("meta"):
        return dict(info.build().state_dict())


def load_member(path: Path | str) -> Member:
    """Read a member, float or quantised: its folder in a run (the best checkpoint) or a `.safetensors` file.

    Raises:
        ModelFileError: the file is missing, damaged or not a member.
    """
    info, tensors, extra = read_member(path)
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(TRAINING_ONLY)}
    try:
        shapes = {name: tensor.shape for name, tensor in architecture(info).items()}
        # vidfit 0.1 called schemes "grids".
        schemes = _SCHEMES.validate_python(extra.get("schemes", extra.get("grids", {})))
        member = Member(info, unflatten_state(weights, schemes, shapes))
        member.check()
    # PyTorch raises RuntimeError for sizes that no tensor can have.
    except (VidfitError, RuntimeError, ValidationError) as error:
        raise ModelFileError(
            f"{member_file(path)}: {reason(error)}; quantise or train the member again, or copy the file again"
        ) from error
    return member


def quantize_member(path: Path | str, output: Path | None = None) -> Path:
    """Write a member with its big tensors at 8 bits, by default as `quantized.safetensors` in its folder.

    Raises:
        ModelFileError: the member cannot be read, or a weight is NaN or infinite.
        OutputError: the file cannot be written.
    """
    output = output or member_file(path).with_name(QUANTIZED)
    load_member(path).quantized().save(output)
    return output
