"""A member's tensors as its graph stores them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vidfit.export.graph_writer import GraphWriter
from vidfit.export.weight_formats import FloatWeight, PackedWeight, WeightFormat, weight_format
from vidfit.models.batch_norm import EPSILON
from vidfit.quantization.uniform import QuantizedTensor


class Tensors:
    """The tensors of a member, or of one of its modules.

    Arguments:
        graph: the graph that stores them.
        state: tensors by the member's names.
        stored_as: what their names in the graph begin with.
        portable: allow only standard ONNX operators.
        module: path of the module, with a dot at its end.
    """

    def __init__(
        self,
        graph: GraphWriter,
        state: Mapping[str, Tensor | QuantizedTensor],
        stored_as: str,
        portable: bool,
        module: str = "",
    ) -> None:
        self.graph = graph
        self._state, self._stored_as, self._portable, self._module = state, stored_as, portable, module

    def within(self, path: str) -> "Tensors":
        """Those of a module of this one."""
        return Tensors(self.graph, self._state, self._stored_as, self._portable, f"{self._module}{path}.")

    def __getitem__(self, name: str) -> Tensor | QuantizedTensor:
        return self._state[self._module + name]

    def __contains__(self, name: str) -> bool:
        return self._module + name in self._state

    def floats(self, name: str) -> Tensor:
        """A tensor in float32, dequantised."""
        tensor = self[name]
        return tensor if isinstance(tensor, Tensor) else tensor.dequantize()

    def vector(self, name: str) -> Any:
        """Numbers to calculate with: a tensor, or a value of the graph that expands a quantised one at each run."""
        tensor = self[name]
        return tensor if isinstance(tensor, Tensor) else PackedWeight(self.graph, self.name(name), tensor).folded()

    def weight(self, name: str, *, nbits: bool = False) -> WeightFormat:
        """A matrix to multiply with.

        Arguments:
            name: of the tensor.
            nbits: allow `NBitsWeight`.
        """
        tensor = self[name]
        if isinstance(tensor, Tensor):
            return FloatWeight(self.graph, self.name(name), tensor)
        return weight_format(tensor, nbits=nbits and not self._portable)(self.graph, self.name(name), tensor)

    def batch_norm(self, path: str) -> tuple[Any, Any]:
        """A batch norm of this module as `x * scale + shift`, both `[D]`, each as `vector` gives it."""
        norm = self.within(path)
        scale_D = norm.vector("weight") / (norm.vector("running_var") + EPSILON).sqrt()
        return scale_D, norm.vector("bias") - norm.vector("running_mean") * scale_D

    def name(self, name: str) -> str:
        """The name in the graph."""
        return f"{self._stored_as}{self._module}{name}"
