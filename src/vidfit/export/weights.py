"""A member's module with its stored weights in place of float ones, ready for export.

The formulas stay those of `models/`. A `StoredWeight` replaces each quantised weight. It answers `x @ W` and `addmm` by
its format's multiplication (`weight_formats.py`), and everything else with its float values.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vidfit.export.descriptor import StoredDescriptor
from vidfit.export.frames import StoredFrames
from vidfit.export.recurrent import StoredLayer
from vidfit.export.weight_formats import FEW_INPUTS, Int8Weight, NBitsWeight, WeightFormat, weight_format
from vidfit.models.classifier import VideoClassifier
from vidfit.models.layers import Hidden
from vidfit.models.netfv import FisherVector, NetFV
from vidfit.models.netvlad import VLAD, NetVLAD
from vidfit.models.recurrent import Layer
from vidfit.quantization.member import Member


def with_stored_weights(member: Member, *, portable: bool) -> VideoClassifier:
    """The member's module with stored weights where it is quantised. Parameters without a tensor stay on `meta`."""
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
    # Members of floats alone keep float activations.
    if quantized and isinstance(module.family, NetVLAD | NetFV):
        for pool in module.family.pools:
            assert isinstance(pool, VLAD | FisherVector)
            pool.flatten_scaled = StoredDescriptor.flatten_scaled
        if module.encoder is None and all(modality.dtype == "uint8" for modality in module.spec.modalities):
            module.prepare = StoredFrames.prepare
    for name, tensor in quantized.items():
        owner, attribute = _owner(module, name)
        stored = weight_format(tensor, nbits=isinstance(owner, Hidden) and not portable)(tensor)
        delattr(owner, attribute)
        owner.add_module(f"stored_{attribute}", stored)
        setattr(owner, attribute, StoredWeight(stored))
    return module


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, attribute = name.rpartition(".")
    return module.get_submodule(path), attribute


class StoredWeight:
    """A weight in a module that is exported: `column * stored * row`.

    Arguments:
        stored: the weight in its format.
        column_I1: factors of its rows; None means ones.
        row_O: factors of its columns; None means ones.
    """

    def __init__(self, stored: WeightFormat, column_I1: Tensor | None = None, row_O: Tensor | None = None) -> None:
        self.stored, self.column_I1, self.row_O = stored, column_I1, row_O

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Sequence[type], arguments: Sequence[Any], options: dict[str, Any] | None = None
    ) -> Any:
        match function.__name__.strip("_").removeprefix("r"), arguments:
            case "matmul", (Tensor() as values, StoredWeight(stored=Int8Weight() | NBitsWeight()) as weight):
                rows_MI, frames = values.reshape(-1, values.shape[-1]), values.dim() == 3
                return weight.multiplied(rows_MI, frames).view(*values.shape[:-1], -1)
            case "addmm", (
                Tensor() as biases_O,
                Tensor() as frames,
                StoredWeight(stored=Int8Weight() | NBitsWeight()) as weight,
            ):
                return weight.multiplied(frames, True, biases_O)
            case "mul", (Tensor(shape=(_, 1)) as column_I1, StoredWeight(column_I1=None, row_O=None) as weight):
                return cls(weight.stored, column_I1)
            case "mul", (Tensor(shape=(_,)) as row_O, StoredWeight(row_O=None) as weight):
                return cls(weight.stored, weight.column_I1, row_O)
        expanded = [it.values() if isinstance(it, cls) else it for it in arguments]
        return function(*expanded, **(options or {}))

    def __rmatmul__(self, descriptor: StoredDescriptor) -> Tensor:
        """A long descriptor is multiplied part by part, in 8-bit weights; others by their values."""
        assert self.column_I1 is None
        if isinstance(self.stored, Int8Weight) and descriptor.shape[1] > FEW_INPUTS:
            return self.stored.multiply(descriptor, 1, self.row_O)
        return descriptor.values() @ self  # type: ignore[operator]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.values(), name)

    def values(self) -> Tensor:
        """float32, the weight's shape."""
        assert not isinstance(self.stored, NBitsWeight)
        weights = self.stored.expand()
        if self.column_I1 is not None:
            weights = self.column_I1 * weights
        return weights if self.row_O is None else weights * self.row_O

    def multiplied(self, values_MI: Tensor, frames: bool, biases_O: Tensor | None = None) -> Tensor:
        """float32 `[M, I]` -> `values @ W + biases`, `[M, O]`. Rows are frames or, without `frames`, videos."""
        assert isinstance(self.stored, Int8Weight | NBitsWeight)
        if self.column_I1 is not None:
            values_MI = values_MI * self.column_I1[:, 0]
        if frames and isinstance(self.stored, Int8Weight):
            return self.stored.multiply_frames(values_MI, self.row_O, biases_O)
        # One term is enough for frames: they come from bytes, and pooling follows.
        few = not frames and values_MI.shape[1] <= FEW_INPUTS
        return self.stored.multiply(values_MI, 2 if few else 1, self.row_O, biases_O)
