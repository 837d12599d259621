"""A member with its weights, float or quantised, read from and written to one safetensors file."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vidfit.compression import Codebook
from vidfit.compression.state import Quantized, dequantize_state, flatten_state, quantize_state, unflatten_state
from vidfit.errors import ModelFileError, VidfitError, reason
from vidfit.models.classifier import FrameClassifier
from vidfit.training.checkpoint import BEST, TRAINING_ONLY, MemberInfo, member_file, read_member, save_member

QUANTIZED = "quantized.safetensors"


@dataclass
class Member:
    """A trained classifier as it is stored: what it is, and its tensors by name."""

    info: MemberInfo
    state: dict[str, Tensor | Quantized]

    @property
    def bits(self) -> int:
        """Width of the big weights: 8 where any is quantised, else 32."""
        return 32 if all(isinstance(tensor, Tensor) for tensor in self.state.values()) else 8

    def classifier(self) -> FrameClassifier:
        """The member as a module in evaluation mode, its weights in float32."""
        module = self.info.build()
        module.load_state_dict(dequantize_state(self.state))
        return module.eval()

    def quantized(self, codebook: Codebook = "uniform") -> "Member":
        """The same member with its big tensors at 8 bits; itself where they are, whatever their codebook."""
        return self if self.bits == 8 else Member(self.info, quantize_state(dequantize_state(self.state), codebook))

    def check(self) -> None:
        """Raises ModelFileError where the tensors are not those of the architecture that the member names."""
        with torch.device("meta"):
            module = self.info.build()
        expected = {name: (tensor.shape, tensor.dtype) for name, tensor in module.state_dict().items()}
        found = {
            name: (value.shape, value.dtype) if isinstance(value, Tensor) else (value.codes.shape, torch.float32)
            for name, value in self.state.items()
        }
        if differing := sorted({name for name, _ in expected.items() ^ found.items()}):
            raise ModelFileError(f"its tensors are not those of its architecture: {', '.join(differing[:3])}")


def load_member(path: Path | str) -> Member:
    """Read a member: its folder in a run (the best checkpoint) or a `.safetensors` file, float or quantised.

    Raises:
        ModelFileError: the file is missing, damaged or no member.
    """
    info, tensors, _ = read_member(path)
    weights = {name: tensor for name, tensor in tensors.items() if not name.startswith(TRAINING_ONLY)}
    try:
        member = Member(info, unflatten_state(weights))
        member.check()
    except (VidfitError, RuntimeError) as error:  # PyTorch's are of sizes that no tensor can have
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
    if member.bits == 8 and codebook != "uniform":
        raise ModelFileError(f"{member_file(path)}: is quantised already; give the float32 member, {BEST}")
    member = member.quantized(codebook)
    save_member(output, member.info, flatten_state(member.state))
    return output
