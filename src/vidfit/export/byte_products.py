"""Products of bytes in place of n-bits products, in a finished packed file.

`MatMulNBits` reads the fewest bytes of memory, so it is the fastest for one video. For many videos `MatMulInteger` is
faster, and WebAssembly has no fast kernel for `MatMulNBits`. Here n-bits codes become one byte each when ONNX Runtime
loads the file. The file itself keeps them packed, and its weights stay the same.

Activations get 128 levels per row, as for an `Int8Weight`. `MatMulNBits` gives them 256 per block of inputs. So
results differ by the rounding of activations.

Shapes: M rows, I inputs, O outputs, N blocks, S inputs of a block.
"""

import numpy as np
import onnx
from onnx import helper

from vidfit.export.graph_writer import GraphWriter, Value
from vidfit.export.weight_formats import FloatRows, row_levels


def use_byte_products(model: onnx.ModelProto) -> None:
    """Replace every `MatMulNBits` of a packed file. Without one, the file stays as it is."""
    nodes: list[onnx.NodeProto] = []
    graph = GraphWriter(model)
    for node in list(model.graph.node):
        if node.op_type != "MatMulNBits":
            nodes.append(node)
            continue
        written = len(model.graph.node)
        _byte_product(graph, node)
        new = list(model.graph.node)[written:]
        new[-1].output[:] = node.output
        nodes += new
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _byte_product(graph: GraphWriter, node: onnx.NodeProto) -> Value:
    """`x @ codes`, float32 `[M, O]`. Codes are levels less the middle one."""
    sizes = {it.name: helper.get_attribute_value(it) for it in node.attribute}
    levels_IO = _levels(Value(graph, node.input[1]), sizes["bits"], sizes["K"], sizes["N"])
    middle = np.int8(2 ** (sizes["bits"] - 1))

    def times_codes(bytes_MI: Value) -> Value:
        return graph.add("MatMulInteger", bytes_MI, levels_IO, None, middle).cast(np.float32)

    values = FloatRows(Value(graph, node.input[0]), sizes["K"])
    step_M1, zero_M1 = row_levels(values)
    products_MO = times_codes(values.quantized(step_M1, zero_M1)) * step_M1
    sums_1O = times_codes(graph.add("Expand", np.uint8(1), graph.integers(1, sizes["K"])))
    return products_MO - zero_M1 * step_M1 * sums_1O


def _levels(packed_ONS: Value, bits: int, inputs: int, outputs: int) -> Value:
    """Packed levels, the first in a byte's lowest bits -> int8 `[I, O]`. They are at most 15, so int8 holds them."""
    # The digits of a byte along the first axis: along the last one, ONNX Runtime would shift two at a time.
    places = np.arange(0, 8, bits, dtype=np.uint8)[:, None, None, None]
    digits = packed_ONS.graph.add("BitShift", packed_ONS.unsqueeze(0), places, direction="RIGHT")
    levels = digits.graph.add("BitwiseAnd", digits, np.uint8(2**bits - 1)).permute(2, 3, 0, 1).reshape(-1, outputs)
    return levels.part(0, 0, inputs).cast(np.int8)
