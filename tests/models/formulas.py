"""The formulas of families and heads in float64 NumPy, written for clarity: videos of their own length, no padding.

`Formulas(state)` reads the weights of a `VideoClassifier` by the names of its state dict. Batch norm sees the frames of
all videos one after another; everything that follows is done video by video, residuals included.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Cell = Callable[[Array, Array, Array], tuple[Array, Array]]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def normalise(x: Array, axis: int | None = None) -> Array:
    return x / np.sqrt(np.maximum((x * x).sum(axis, keepdims=axis is not None), 1e-12))


def relu6(x: Array) -> Array:
    return np.clip(x, 0, 6)


def model_input(codes: list[Array]) -> list[Array]:
    """Bytes `[T, D]` of each video -> dequantised frames of L2 norm 1."""
    return [normalise(video.astype(np.float64) * 4 / 255 + 4 / 512 - 2, axis=1) for video in codes]


def log_sum_exp(logits: Array, temperature: float) -> Array:
    """`[T, C]` -> `[C]`, in mean form."""
    return temperature * np.log(np.mean(np.exp(logits / temperature), axis=0))


def vlad(frames: Array, assign: Array, centres: Array | None) -> Array:
    """`[T, D]`, `[T, K]`, `[D, K]` -> `[K * D]`, cluster by cluster."""
    points = np.broadcast_to(frames[:, :, None], (*frames.shape, assign.shape[1]))
    residuals = points if centres is None else points - centres
    return normalise(normalise((assign[:, None, :] * residuals).sum(0), axis=0).T.ravel())


def fisher_vector(frames: Array, assign: Array, centres: Array, deviations: Array) -> Array:
    """`[T, D]`, `[T, K]`, `[D, K]`, `[D, K]` -> `[2 * K * D]`, first order before second."""
    covariance = deviations**2 + 1e-6
    residuals = frames[:, :, None] - centres
    first = (assign[:, None, :] * residuals).sum(0) / covariance
    second = (assign[:, None, :] * (residuals**2 / covariance**2 - 1)).sum(0)
    return np.concatenate([normalise(normalise(first, axis=0).T.ravel()), normalise(normalise(second.T.ravel()))])


def lstm(inputs: Array, weights: Array, biases: Array) -> tuple[Array, Array]:
    """`[T, D]`; gates i, f, g, o -> outputs `[T, H]`, final cell state `[H]`."""
    output = cell = np.zeros(len(biases) // 4)
    outputs = []
    for frame in inputs:
        enter, forget, new, leave = np.split(np.concatenate([frame, output]) @ weights + biases, 4)
        cell = sigmoid(forget) * cell + sigmoid(enter) * np.tanh(new)
        output = sigmoid(leave) * np.tanh(cell)
        outputs.append(output)
    return np.stack(outputs), cell


def gru(inputs: Array, weights: Array, biases: Array, *, reset_after: bool = True) -> tuple[Array, Array]:
    """`[T, D]`; gates r, z, n -> outputs `[T, H]`, final output `[H]`.

    `reset_after`: the reset gate acts on the candidate's product with the state (PyTorch); else on the state.
    """
    cells = len(biases) // 3
    gate_weights, candidate_weights = weights[:, : 2 * cells], weights[:, 2 * cells :]
    candidate_input, candidate_state = np.split(candidate_weights, [inputs.shape[1]])
    output = np.zeros(cells)
    outputs = []
    for frame in inputs:
        reset, keep = np.split(sigmoid(np.concatenate([frame, output]) @ gate_weights + biases[: 2 * cells]), 2)
        recalled = reset * (output @ candidate_state) if reset_after else (reset * output) @ candidate_state
        new = np.tanh(frame @ candidate_input + recalled + biases[2 * cells :])
        output = keep * output + (1 - keep) * new
        outputs.append(output)
    return np.stack(outputs), output


@dataclass
class Formulas:
    """The formulas with the weights of one classifier.

    Attributes:
        state: its state dict as float64.
        training: batch norms use the batch's own statistics.
    """

    state: dict[str, Array]
    training: bool = False

    def batch_norm(self, x: Array, name: str) -> Array:
        mean = x.mean(0) if self.training else self.state[f"{name}.running_mean"]
        variance = x.var(0) if self.training else self.state[f"{name}.running_var"]
        return (x - mean) / np.sqrt(variance + 1e-3) * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def gating(self, x: Array, name: str) -> Array:
        gates = x @ self.state[f"{name}.weights"]
        if f"{name}.biases" in self.state:
            return x * sigmoid(gates + self.state[f"{name}.biases"])
        return x * sigmoid(self.batch_norm(gates, f"{name}.norm"))

    def hidden(self, x: Array) -> Array:
        hidden = x @ self.state["family.hidden.weights"]
        if "family.hidden.biases" in self.state:
            hidden = hidden + self.state["family.hidden.biases"]
        else:
            hidden = relu6(self.batch_norm(hidden, "family.hidden.norm"))
        return self.gating(hidden, "family.gating") if "family.gating.weights" in self.state else hidden

    def mean(self, videos: list[Array]) -> Array:
        return np.stack([video.mean(0) for video in videos])

    def mean_and_max(self, videos: list[Array]) -> Array:
        return np.stack([np.concatenate([video.mean(0), video.max(0)]) for video in videos])

    def _pooled(
        self,
        videos: list[Array],
        slices: list[slice],
        activation: Callable[[Array], Array],
        pool: Callable[[str, list[Array], list[Array]], Array],
    ) -> Array:
        """Each modality's assignment and `pool(prefix, frames of each video, assignment of each video)`, joined."""
        ends = np.cumsum([len(video) for video in videos])[:-1]
        frames = self.batch_norm(np.concatenate(videos), "family.input_norm")
        pools = []
        for index, columns in enumerate(slices):
            prefix = f"family.pools.{index}"
            logits = frames[:, columns] @ self.state[f"{prefix}.assignment.weights"]
            assign = activation(self.batch_norm(logits, f"{prefix}.assignment.norm"))
            pools.append(pool(prefix, np.split(frames[:, columns], ends), np.split(assign, ends)))
        return np.concatenate(pools, axis=1)

    def netvlad(self, videos: list[Array], slices: list[slice]) -> Array:
        def pool(prefix: str, frames: list[Array], assign: list[Array]) -> Array:
            centres = self.state.get(f"{prefix}.centres")
            return np.stack([vlad(f, a, centres) for f, a in zip(frames, assign, strict=True)])

        return self._pooled(videos, slices, softmax, pool)

    def netfv(self, videos: list[Array], slices: list[slice]) -> Array:
        def pool(prefix: str, frames: list[Array], assign: list[Array]) -> Array:
            centres, deviations = self.state[f"{prefix}.centres"], self.state[f"{prefix}.deviations"]
            return np.stack([fisher_vector(f, a, centres, deviations) for f, a in zip(frames, assign, strict=True)])

        return self._pooled(videos, slices, softmax, pool)

    def dbof(self, videos: list[Array], slices: list[slice], *, largest: bool = False) -> Array:
        """Soft, gated where a pool has a gate; `largest`: the form `max`."""

        def pool(prefix: str, frames: list[Array], assign: list[Array]) -> Array:
            maxima = np.stack([a.max(0) for a in assign])
            if largest:
                return maxima
            bags = np.stack([a.sum(0) for a in assign])
            if f"{prefix}.gate.weights" in self.state:
                gate = normalise(maxima, axis=1) @ self.state[f"{prefix}.gate.reduction"]
                gate = gate @ self.state[f"{prefix}.gate.weights"]
                bags = bags * sigmoid(self.batch_norm(gate, f"{prefix}.gate.norm"))
            return normalise(bags, axis=1)

        return self._pooled(videos, slices, relu6 if largest else softmax, pool)

    def run(self, name: str, inputs: Array, cell: Cell) -> tuple[Array, Array]:
        """Outputs `[T, H]` and final state `[H]` of one direction of a layer."""
        return cell(inputs, self.state[f"{name}.weights"], self.state[f"{name}.biases"])

    def both_ways(self, name: str, video: Array, cell: Cell) -> Array:
        """Outputs of a bidirectional layer, `[T, 2 H]`."""
        back = self.run(f"{name}.back", video[::-1], cell)[0][::-1]
        return np.concatenate([self.run(f"{name}.ahead", video, cell)[0], back], axis=1)

    def recurrent(self, videos: list[Array], cell: Cell) -> Array:
        bottom = [self.both_ways("family.bottom", video, cell) for video in videos]
        state = np.stack([self.run("family.top.ahead", outputs, cell)[1] for outputs in bottom])
        return self.gating(state, "family.gating") if "family.gating.weights" in self.state else state

    def frame_probabilities(self, video: Array) -> Array:
        return sigmoid(video @ self.state["family.weights"] + self.state["family.biases"])

    def frame_classifier(self, videos: list[Array], pooling: str) -> Array:
        pooled = []
        for video in videos:
            decided = self.frame_probabilities(video)
            logits = np.log(decided / (1 - decided))
            match pooling:
                case "max":
                    pooled.append(decided.max(0))
                case "log-sum-exp":
                    pooled.append(sigmoid(log_sum_exp(logits, 0.7)))
                case "attention":
                    shares = softmax((video @ self.state["family.attention_weights"]).T).T
                    pooled.append((shares * decided).sum(0))
                case "mean":
                    pooled.append(decided.mean(0))
                case "noisy-or":
                    pooled.append(1 - np.prod(1 - decided, axis=0))
        return np.stack(pooled)

    def attention(self, videos: list[Array]) -> Array:
        """Head by head: softmax over frames of its scores, then the mean of its part of the values."""
        ends = np.cumsum([len(video) for video in videos])[:-1]
        frames = np.split(self.batch_norm(np.concatenate(videos), "family.input_norm"), ends)
        queries, values = self.state["family.queries"], self.state["family.values"]
        heads = np.split(values, queries.shape[1], axis=1)
        averages = [
            np.concatenate([softmax(x @ query) @ (x @ own) for query, own in zip(queries.T, heads, strict=True)])
            for x in frames
        ]
        return self.hidden(np.stack(averages))

    def nextvlad(self, videos: list[Array], slices: list[slice], groups: list[int]) -> Array:
        """Point by point: each group of each frame adds its residuals."""
        ends, descriptors = np.cumsum([len(video) for video in videos])[:-1], []
        for index, (columns, parts) in enumerate(zip(slices, groups, strict=True)):
            prefix, centres = f"family.pools.{index}", self.state[f"family.pools.{index}.centres"]
            wide = np.concatenate(videos)[:, columns] @ self.state[f"{prefix}.expansion"]
            wide = wide + self.state[f"{prefix}.expansion_biases"]
            attention = sigmoid(wide @ self.state[f"{prefix}.attention"] + self.state[f"{prefix}.attention_biases"])
            logits = self.batch_norm(wide @ self.state[f"{prefix}.assignment"], f"{prefix}.assignment_norm")
            rows = []
            for x, counts, scores in zip(*(np.split(it, ends) for it in (wide, attention, logits)), strict=True):
                sums = np.zeros_like(centres)
                for t in range(len(x)):
                    pairs = zip(np.split(x[t], parts), np.split(scores[t], parts), strict=True)
                    for count, (point, score) in zip(counts[t], pairs, strict=True):
                        sums += count * softmax(score) * (point[:, None] - centres)
                rows.append(normalise(sums, axis=0).ravel())
            descriptors.append(self.batch_norm(np.stack(rows), f"{prefix}.output_norm"))
        hidden = self.batch_norm(
            np.concatenate(descriptors, axis=1) @ self.state["family.hidden.weights"], "family.hidden.norm"
        )
        squeezed = self.batch_norm(hidden @ self.state["family.gate.squeeze"], "family.gate.norm")
        return hidden * sigmoid(np.maximum(squeezed, 0) @ self.state["family.gate.excite"])

    def logistic(self, x: Array) -> Array:
        return sigmoid(x @ self.state["head.classifier.weights"] + self.state["head.classifier.biases"])

    def mixture_of_experts(self, x: Array, classes: int) -> Array:
        """One class at a time: E + 1 gates, E experts, and 0 from the last mixture."""
        gate_weights = np.split(self.state["head.classifier.gate_weights"], classes, axis=1)
        expert_weights = np.split(self.state["head.classifier.expert_weights"], classes, axis=1)
        expert_biases = np.split(self.state["head.classifier.expert_biases"], classes)
        return np.stack(
            [
                (softmax(x @ gate)[:, :-1] * sigmoid(x @ expert + bias)).sum(1)
                for gate, expert, bias in zip(gate_weights, expert_weights, expert_biases, strict=True)
            ],
            axis=1,
        )
