"""The large operators of the original's training step under TensorFlow, each timed alone: a floor under its time.

Matrix products forward and backward, batch norm and softmax of assignments to clusters, clipping and Adam as the 2018
graphs of `training.py`'s families have them, at competition size (300 frames, 3,862 labels); sums, maxima, gates and
everything else between them are left out. Large tensors lie in huge pages and memory is never given back, so that
nothing but the operators counts. Run as `original_operators.py BATCH`, by a Python that has TensorFlow; prints CPU
seconds by family on one core.

Source: Miech et al. 2017, Skalic & Austin 2018. An LSTM's or GRU's matrix product is one a frame, on the concatenated
input and state, and its gradients are added up frame by frame.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

FRAMES, CLASSES = 300, 3862
TUNING = "hugetlb=1 mmap_max=0 mmap_threshold=17179869184 trim_threshold=17179869184"


def seconds(operator: Callable[[], Any]) -> float:
    """CPU seconds of the fastest of three calls."""
    operator()
    taken = []
    for _ in range(3):
        begun = time.process_time()
        operator()
        taken.append(time.process_time() - begun)
    return min(taken)


def matmul(rows: int, inputs: int, outputs: int, *, needs_input: bool = True) -> float:
    """Forward and both gradients."""
    import tensorflow as tf

    x, dy, weights = (tf.random.normal(shape) for shape in ((rows, inputs), (rows, outputs), (inputs, outputs)))
    return (
        seconds(lambda: tf.matmul(x, weights))
        + seconds(lambda: tf.matmul(x, dy, transpose_a=True))
        + (seconds(lambda: tf.matmul(dy, weights, transpose_b=True)) if needs_input else 0)
    )


def assignment(frames: int, clusters: int) -> float:
    """Batch norm and softmax over clusters, forward and backward; TensorFlow's fused batch norm, the fastest it has."""
    import tensorflow as tf

    x, dy = tf.random.normal((1, frames, 1, clusters)), tf.random.normal((1, frames, 1, clusters))
    scale, shift, nothing = tf.ones(clusters), tf.zeros(clusters), tf.zeros(0)
    normalised = tf.raw_ops.FusedBatchNormV3(x=x, scale=scale, offset=shift, mean=nothing, variance=nothing)
    saved = dict(zip(("reserve_space_1", "reserve_space_2", "reserve_space_3"), normalised[3:], strict=True))
    shares = tf.nn.softmax(x)
    return (
        seconds(lambda: tf.raw_ops.FusedBatchNormV3(x=x, scale=scale, offset=shift, mean=nothing, variance=nothing))
        + seconds(lambda: tf.raw_ops.FusedBatchNormGradV3(y_backprop=dy, x=x, scale=scale, **saved))
        + seconds(lambda: tf.nn.softmax(x))
        + seconds(lambda: (dy - tf.reduce_sum(dy * shares, -1, keepdims=True)) * shares)
    )


def update(inputs: int, outputs: int) -> float:
    """Clipping by norm, and Adam."""
    import tensorflow as tf

    gradient = tf.random.normal((inputs, outputs))
    weights, first, second = (tf.Variable(tf.zeros_like(gradient)) for _ in range(3))
    return seconds(lambda: tf.clip_by_norm(gradient, 1.0)) + seconds(
        lambda: tf.raw_ops.ResourceApplyAdam(
            var=weights.handle,
            m=first.handle,
            v=second.handle,
            beta1_power=0.9,
            beta2_power=0.999,
            lr=1e-5,
            beta1=0.9,
            beta2=0.999,
            epsilon=1e-8,
            grad=gradient,
        )
    )


def cell(batch: int, inputs: int, outputs: int) -> float:
    """One matrix of a recurrent cell over all frames, and its gradient's sum."""
    import tensorflow as tf

    gradient = tf.random.normal((inputs, outputs))
    return FRAMES * (matmul(batch, inputs, outputs) + seconds(lambda: gradient + gradient)) + update(inputs, outputs)


def pooled(batch: int, hidden: tuple[int, int], clusters: tuple[int, int], descriptors: int, *, gating: bool) -> float:
    """Assignment, sums over frames (`descriptors` of them), hidden layer, mixture of experts."""
    import tensorflow as tf

    total = 0.0
    for size, k in zip((1024, 128), clusters, strict=True):
        # The input's batch norm is trained, so the frames need a gradient.
        total += matmul(batch * FRAMES, size, k) + assignment(batch * FRAMES, k) + update(size, k)
        assign, frames, gradient = (tf.random.normal((batch, *it)) for it in ((k, FRAMES), (FRAMES, size), (k, size)))
        forward = seconds(lambda a=assign, b=frames: a @ b)
        by_assign = seconds(lambda a=gradient, b=frames: tf.matmul(a, b, transpose_b=True))
        by_frames = seconds(lambda a=assign, b=gradient: tf.matmul(a, b, transpose_a=True))
        total += descriptors * (forward + by_assign + by_frames)
    layers = [hidden, (hidden[1], 3 * CLASSES), (hidden[1], 2 * CLASSES)]
    layers += [(hidden[1], hidden[1]), (CLASSES, CLASSES)] if gating else [(4096, 1024), (1024, 4096)]
    return total + sum(matmul(batch, *it) + update(*it) for it in layers)


def main(batch: int) -> None:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    head = matmul(batch, 1024, CLASSES) + update(1024, CLASSES)
    floors = {
        "netvlad": pooled(batch, (278_528, 1024), (256, 128), 1, gating=True),
        "netfv": pooled(batch, (208_896, 1540), (96, 48), 2, gating=True),
        "dbof": pooled(batch, (4608, 1024), (4096, 512), 0, gating=False),
        "lstm": cell(batch, 2048, 4096) + 2 * cell(batch, 1664, 2048) + head,
        "gru": cell(batch, 2048, 2048)
        + cell(batch, 2048, 1024)
        + 2 * (cell(batch, 1664, 1024) + cell(batch, 1664, 512))
        + head,
    }
    print(json.dumps(floors))


if __name__ == "__main__":
    if "GLIBC_TUNABLES" not in os.environ:
        tunables = ":".join(f"glibc.malloc.{setting}" for setting in TUNING.split())
        tuned = {**os.environ, "GLIBC_TUNABLES": tunables, "TF_ENABLE_ONEDNN_OPTS": "1"}
        os.execve(sys.executable, [sys.executable, *sys.argv], tuned)
    main(int(sys.argv[1]))
