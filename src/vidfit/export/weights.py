"""A member's module with its stored weights in the place of float ones, ready to be exported.

The formulas stay those of `models/`: a weight is replaced by a `StoredWeight`, which answers `x @ W` and
`addmm` by its form's multiplication (`forms.py`) and anything else by its values.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vidfit.export.descriptor import StoredDescriptor
from vidfit.export.frames import StoredFrames
from vidfit.export.recurrent import StoredLayer
from vidfit.export.weight_formats import FEW_INPUTS, Blocks, Bytes, Form, form_of
from vidfit.models.classifier import FrameClassifier
from vidfit.models.layers import Hidden
from vidfit.models.netfv import FisherVector, NetFV
from vidfit.models.netvlad import VLAD, NetVLAD
from vidfit.models.recurrent import Layer
from vidfit.quantization.member import Member
from vidfit.quantization.uniform import QuantizedTensor


def with_codes(member: Member, *, portable: bool) -> FrameClassifier:
    """The member's module with codes where its weights are quantised; on the meta device but for its tensors."""
    with torch.device("meta"):
        module = member.info.build()
    module.eval()
    floats = {name: tensor for name, tensor in member.state.items() if isinstance(tensor, Tensor)}
    module.load_state_dict(floats, strict=False, assign=True)
    quantized = {name: tensor for name, tensor in member.state.items() if not isinstance(tensor, Tensor)}
    layers = {path: layer for path, layer in module.named_modules() if isinstance(layer, Layer)}
    for path, layer in layers.items():
        names = [f"{path}.{name}" for name, _ in layer.named_parameters() if name.endswith("weights")]
        stored = StoredLayer.of(layer, [quantized.get(name) for name in names])
        if stored is not None:
            owner, attribute = _owner(module, path)
            setattr(owner, attribute, stored)
            for name in names:
                del quantized[name]
    # Members of floats or codebooks alone keep float activations.
    has_grid = any(isinstance(tensor, QuantizedTensor) for tensor in quantized.values())
    if has_grid and isinstance(module.family, NetVLAD | NetFV):
        for pool in module.family.pools:
            assert isinstance(pool, VLAD | FisherVector)
            pool.flatten_scaled = StoredDescriptor.flatten_scaled
        if module.encoder is None and all(modality.dtype == "uint8" for modality in module.spec.modalities):
            module.prepare = StoredFrames.prepare
    for name, tensor in quantized.items():
        owner, attribute = _owner(module, name)
        form = form_of(tensor, blocks=isinstance(owner, Hidden) and not portable)
        delattr(owner, attribute)
        owner.add_module(f"stored_{attribute}", form)
        setattr(owner, attribute, StoredWeight(form))
    return module


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, attribute = name.rpartition(".")
    return module.get_submodule(path), attribute


class StoredWeight:
    """A weight of a module that is exported.

    Arguments:
        form: how it is stored.
        column_I1: what its rows are multiplied with.
        row_O: what its columns are multiplied with.
    """

    def __init__(self, form: Form, column_I1: Tensor | None = None, row_O: Tensor | None = None) -> None:
        self.form, self.column_I1, self.row_O = form, column_I1, row_O

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Sequence[type], arguments: Sequence[Any], options: dict[str, Any] | None = None
    ) -> Any:
        match function.__name__.strip("_").removeprefix("r"), arguments:
            case "matmul", (Tensor() as values, StoredWeight(form=Bytes() | Blocks()) as weight):
                rows_MI, frames = values.reshape(-1, values.shape[-1]), values.dim() == 3
                return weight.multiplied(rows_MI, frames).view(*values.shape[:-1], -1)
            case "addmm", (Tensor() as biases_O, Tensor() as frames, StoredWeight(form=Bytes() | Blocks()) as weight):
                return weight.multiplied(frames, True, biases_O)
            case "mul", (Tensor(shape=(_, 1)) as column_I1, StoredWeight(column_I1=None, row_O=None) as weight):
                return cls(weight.form, column_I1)
            case "mul", (Tensor(shape=(_,)) as row_O, StoredWeight(row_O=None) as weight):
                return cls(weight.form, weight.column_I1, row_O)
        expanded = [it.values() if isinstance(it, cls) else it for it in arguments]
        return function(*expanded, **(options or {}))

    def __rmatmul__(self, descriptor: StoredDescriptor) -> Tensor:
        """A descriptor in its parts where these are rounded with one term, else of its values."""
        assert self.column_I1 is None
        if isinstance(self.form, Bytes) and descriptor.shape[1] > FEW_INPUTS:
            return self.form.multiply(descriptor, 1, self.row_O)
        return descriptor.values() @ self  # type: ignore[operator]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.values(), name)

    def values(self) -> Tensor:
        """float32, the weight's shape."""
        assert not isinstance(self.form, Blocks)
        weights = self.form.expand()
        if self.column_I1 is not None:
            weights = self.column_I1 * weights
        return weights if self.row_O is None else weights * self.row_O

    def multiplied(self, values_MI: Tensor, frames: bool, biases_O: Tensor | None = None) -> Tensor:
        """float32 `[M, I]` -> `values @ W + biases`, `[M, O]`; rows are frames, or videos."""
        assert isinstance(self.form, Bytes | Blocks)
        if self.column_I1 is not None:
            values_MI = values_MI * self.column_I1[:, 0]
        if frames and isinstance(self.form, Bytes):
            return self.form.multiply_frames(values_MI, self.row_O, biases_O)
        # Frames come straight from bytes, and a pooling follows: one term is enough.
        few = not frames and values_MI.shape[1] <= FEW_INPUTS
        return self.form.multiply(values_MI, 2 if few else 1, self.row_O, biases_O)
