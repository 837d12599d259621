"""The TensorFlow counterpart of each ONNX operator in a packed file: a dict from name to function.

A function takes the node's inputs, and the attributes that it supports under their ONNX names. Any other attribute is a
TypeError or ValueError, and `tensorflow.py` refuses the file. Integer constants arrive as NumPy arrays, everything else
as tensors. Only operators that occur in vidfit's files are here.

Source: the ONNX operator schemas (opset 23) and, for `com.microsoft`, ONNX Runtime's ContribOperators.

Shapes: B videos, T frames, D features, H cells, G gates, R directions.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from importlib import import_module
from typing import Any

import numpy as np
import onnx

from vidfit.errors import VidfitError

try:
    # Not an import statement: the type checker's stubs cover only a part of TensorFlow.
    tf: Any = import_module("tensorflow")
except ModuleNotFoundError as error:
    raise VidfitError("TensorFlow is not installed: pip install 'vidfit[tensorflow]'") from error


def _cast(values, *, to: int):
    return tf.cast(values, onnx.helper.tensor_dtype_to_np_dtype(to))


def _clip(values, low=None, high=None):
    if low is not None:
        values = tf.maximum(values, low)
    return values if high is None else tf.minimum(values, high)


def _concat(*parts, axis: int):
    return tf.concat(parts, axis)


def _constant(*, value=None, value_float: float | None = None, value_ints: Sequence[int] | None = None):
    if value_float is not None:
        return tf.constant(value_float, tf.float32)
    return value if value_ints is None else np.array(value_ints)


def _dequantize_linear(codes, scale, zero=None, *, axis: int = 1):
    values = tf.cast(codes, scale.dtype)
    if zero is not None:
        values -= _along(axis, tf.cast(zero, scale.dtype), values)
    return values * _along(axis, scale, values)


def _quantize_linear(values, scale, zero, *, axis: int = 1, block_size: int = 0):
    if block_size and scale.shape[axis] not in (1, None):  # None: unknown before a run
        raise ValueError(f"QuantizeLinear with several blocks of {block_size}")
    if not block_size:
        scale, zero = _along(axis, scale, values), _along(axis, zero, values)
    levels = tf.round(values / scale) + tf.cast(zero, values.dtype)
    dtype = tf.as_dtype(zero.dtype)  # a constant has a NumPy dtype
    return tf.cast(tf.clip_by_value(levels, dtype.min, dtype.max), dtype)


def _along(axis: int, numbers, values):
    """Numbers along an axis (or a single one), reshaped to broadcast with the values."""
    if not len(numbers.shape):
        return numbers
    return tf.reshape(numbers, [-1 if place == axis else 1 for place in range(len(values.shape))])


def _gemm(a, b, c, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0):
    return alpha * tf.matmul(a, b, transpose_a=bool(transA), transpose_b=bool(transB)) + beta * c


def _expand(values, shape):
    return tf.broadcast_to(values, tf.broadcast_dynamic_shape(tf.shape(values, shape.dtype), shape))


def _pad(values, pads, fill=0, *, mode: str = "constant"):
    return tf.pad(values, np.reshape(pads, (2, -1)).T, mode, fill)


def _reduction(function: Callable) -> Callable:
    def reduced(values, axes=None, *, keepdims: int = 1, noop_with_empty_axes: int = 0):
        if axes is None and noop_with_empty_axes:
            return values
        return function(values, axes, keepdims=bool(keepdims))

    return reduced


def _reshape(values, shape, *, allowzero: int = 0):
    known = tf.get_static_value(shape)  # None: computed from sizes, and so without a 0 that keeps one
    if not allowzero and known is not None and 0 in known:
        sizes = tf.shape(values, shape.dtype)
        shape = tf.stack([sizes[axis] if size == 0 else size for axis, size in enumerate(known)])
    return tf.reshape(values, shape)


def _shape(values, *, start: int = 0, end: int | None = None):
    return tf.shape(values, tf.int64)[start:end]


def _slice(values, starts, ends, axes, steps=None):
    picked = [slice(None)] * len(values.shape)
    steps = np.ones_like(axes) if steps is None else steps
    for axis, *bounds in zip(axes, starts, np.minimum(ends, tf.int32.max), steps, strict=True):
        picked[axis] = slice(*map(int, bounds))
    return values[tuple(picked)]


def _split(values, sizes=None, *, axis: int = 0, num_outputs: int | None = None):
    return tf.split(values, num_outputs if sizes is None else sizes, axis)


def _unsqueeze(values, axes):
    for axis in sorted(axes):
        values = tf.expand_dims(values, axis)
    return values


def _bit_shift(values, by, *, direction: str):
    shift = tf.bitwise.left_shift if direction == "LEFT" else tf.bitwise.right_shift
    return shift(values, by)


def _matmul_integer(a, b, a_zero=None, b_zero=None):
    """In float32, for which TensorFlow has kernels. Sums beyond 2^24 are rounded to 24 bits."""
    a, b = tf.cast(a, tf.float32), tf.cast(b, tf.float32)
    if a_zero is not None:
        a -= tf.cast(a_zero, tf.float32)
    if b_zero is not None:
        b -= tf.cast(b_zero, tf.float32)
    return tf.cast(tf.round(tf.matmul(a, b)), tf.int32)


def _matmul_nbits(a, codes, scales, zeros=None, *, K: int, N: int, bits: int, block_size: int, accuracy_level: int = 0):
    """Codes are `[N, K / block_size, block_size * bits / 8]`, low bits first. Floats satisfy any `accuracy_level`."""

    def apart(packed):
        places = np.arange(0, 8, bits, dtype=np.uint8)
        digits = tf.bitwise.right_shift(packed[..., None], places)
        return tf.cast(tf.reshape(tf.bitwise.bitwise_and(digits, np.uint8(2**bits - 1)), (N, -1)), scales.dtype)

    blocks = -(-K // block_size)
    middle = 2 ** (bits - 1) if zeros is None else apart(tf.reshape(zeros, (N, -1)))[:, :blocks, None]
    values = (tf.reshape(apart(codes), (N, blocks, block_size)) - middle) * tf.reshape(scales, (N, blocks, 1))
    return tf.matmul(a, tf.reshape(values, (N, -1))[:, :K], transpose_b=True)


def _loop(step: Callable, states: Sequence[Any], sequences: Sequence[Any], dtypes: Sequence[Any]):
    """Run `step(t, states, slices) -> states, outputs` over the first axis of sequences. Outputs are stacked."""
    length = tf.shape(sequences[0])[0]
    states = [tf.convert_to_tensor(state) for state in states]

    def body(t, states, written):
        states, outputs = step(t, states, [sequence[t] for sequence in sequences])
        return t + 1, states, [array.write(t, output) for array, output in zip(written, outputs, strict=True)]

    arrays = [tf.TensorArray(dtype, length) for dtype in dtypes]
    # The first state may have known sizes, and later states not.
    shapes = [tf.TensorShape([None] * state.shape.rank) for state in states]
    _, states, written = tf.while_loop(
        lambda t, *_: t < length,
        body,
        (tf.constant(0), states, arrays),
        shape_invariants=(tf.TensorShape([]), shapes, [tf.TensorShape(None)] * len(arrays)),
    )
    return states, [array.stack() for array in written]


def _scan(*inputs, body, num_scan_inputs: int, scan_input_directions=None, scan_output_directions=None):
    states, sequences = inputs[:-num_scan_inputs], inputs[-num_scan_inputs:]

    def step(t, states, slices):
        values = body(*states, *slices)
        return values[: len(states)], values[len(states) :]

    turned = _turned(sequences, scan_input_directions)
    states, outputs = _loop(step, states, turned, body.dtypes[len(states) :])
    return [*states, *_turned(outputs, scan_output_directions)]


def _turned(sequences, directions):
    backwards = directions or [0] * len(sequences)
    return [tf.reverse(part, [0]) if back else part for part, back in zip(sequences, backwards, strict=True)]


def _lstm(inputs_TBD, weights, state_weights, biases, lengths_B, *, hidden_size: int, direction: str = "forward"):
    def cell(inputs_BG, state_BG, states):
        i, o, f, c = tf.split(inputs_BG + state_BG, 4, -1)
        memory_BH = tf.sigmoid(f) * states[1] + tf.sigmoid(i) * tf.tanh(c)
        return [tf.sigmoid(o) * tf.tanh(memory_BH), memory_BH]

    return _recurrent(cell, 2, inputs_TBD, weights, state_weights, biases, lengths_B, hidden_size, direction)


def _gru(
    inputs_TBD,
    weights,
    state_weights,
    biases,
    lengths_B,
    *,
    hidden_size: int,
    direction: str = "forward",
    linear_before_reset: int,
):
    if not linear_before_reset:
        raise ValueError("with the reset gate before the matmul")

    def cell(inputs_BG, state_BG, states):
        z, r, h = tf.split(inputs_BG, 3, -1)
        z_state, r_state, h_state = tf.split(state_BG, 3, -1)
        update_BH = tf.sigmoid(z + z_state)
        candidate_BH = tf.tanh(h + tf.sigmoid(r + r_state) * h_state)
        return [candidate_BH + update_BH * (states[0] - candidate_BH)]

    return _recurrent(cell, 1, inputs_TBD, weights, state_weights, biases, lengths_B, hidden_size, direction)


def _recurrent(cell, states: int, inputs_TBD, weights, state_weights, biases, lengths_B, cells: int, direction: str):
    """Outputs `[T, R, B, H]`, zero after a video's end, and final states `[R, B, H]`: the output, an LSTM's cell."""
    if direction == "reverse":
        raise ValueError("backwards alone")
    zeros_BH = tf.zeros((tf.shape(inputs_TBD)[1], cells))
    results = []
    for number in range(1 if direction == "forward" else 2):

        def turned(values, back=number == 1):
            return tf.reverse_sequence(values, lengths_B, seq_axis=0, batch_axis=1) if back else values

        input_biases, state_biases = tf.split(biases[number], 2)
        projected_TBG = tf.matmul(turned(inputs_TBD), weights[number], transpose_b=True) + input_biases

        def step(t, states, slices, matrix=state_weights[number], state_biases=state_biases):
            state_BG = tf.matmul(states[0], matrix, transpose_b=True) + state_biases
            later = cell(slices[0], state_BG, states)
            live_B1 = (t < lengths_B)[:, None]
            kept = [tf.where(live_B1, new, old) for new, old in zip(later, states, strict=True)]
            return kept, [tf.where(live_B1, later[0], zeros_BH)]

        final, (outputs_TBH,) = _loop(step, [zeros_BH] * states, [projected_TBG], [tf.float32])
        results.append((turned(outputs_TBH), *final))
    outputs, *final = zip(*results, strict=True)
    return [tf.stack(outputs, 1), *(tf.stack(directions) for directions in final)]


OPERATORS: dict[str, Callable] = {
    "Abs": tf.abs,
    "Add": tf.add,
    "BitShift": _bit_shift,
    "BitwiseAnd": tf.bitwise.bitwise_and,
    "BitwiseOr": tf.bitwise.bitwise_or,
    "BitwiseXor": tf.bitwise.bitwise_xor,
    "Cast": _cast,
    "Ceil": tf.math.ceil,
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": lambda shape, *, value=(0.0,): tf.fill(shape, value[0]),
    "DequantizeLinear": _dequantize_linear,
    "Div": lambda a, b: tf.raw_ops.Div(x=a, y=b),  # truncates integers, as ONNX does
    "Exp": tf.exp,
    "Expand": _expand,
    "Floor": tf.floor,
    "GRU": _gru,
    "Gather": lambda values, places, *, axis=0: tf.gather(values, places, axis=axis),
    "Gemm": _gemm,
    "Greater": tf.greater,
    "Identity": lambda values: values,
    "LSTM": _lstm,
    "Less": tf.less,
    "Log": tf.math.log,
    "MatMul": lambda a, b: tf.matmul(a, b) if len(a.shape) > 1 else tf.linalg.matvec(b, a, transpose_a=True),
    "MatMulInteger": _matmul_integer,
    "Max": lambda *parts: reduce(tf.maximum, parts),
    "Min": lambda *parts: reduce(tf.minimum, parts),
    "Mul": tf.multiply,
    "Neg": tf.negative,
    "Pad": _pad,
    "Pow": tf.pow,
    "QuantizeLinear": _quantize_linear,
    "Range": tf.range,
    "Reciprocal": tf.math.reciprocal,
    "ReduceL2": _reduction(tf.math.reduce_euclidean_norm),
    "ReduceMax": _reduction(tf.reduce_max),
    "ReduceMean": _reduction(tf.reduce_mean),
    "ReduceMin": _reduction(tf.reduce_min),
    "ReduceSum": _reduction(tf.reduce_sum),
    "Relu": tf.nn.relu,
    "Reshape": _reshape,
    "Round": tf.round,
    "Scan": _scan,
    "Shape": _shape,
    "Sigmoid": tf.sigmoid,
    "Slice": _slice,
    "Softmax": lambda values, *, axis=-1: tf.nn.softmax(values, axis),
    "Softplus": tf.math.softplus,
    "Split": _split,
    "Sqrt": tf.sqrt,
    "Squeeze": lambda values, axes=None: tf.squeeze(values, None if axes is None else list(axes)),
    "Sub": tf.subtract,
    "Tanh": tf.tanh,
    "Transpose": lambda values, *, perm: tf.transpose(values, perm),
    "Unsqueeze": _unsqueeze,
    "Where": tf.where,
    "com.microsoft.MatMulNBits": _matmul_nbits,
}
