"""Calibration: sample what each weight matrix of a classifier is multiplied with, while it predicts.

`INPUTS` has a function for each kind of layer that returns the inputs of its matrices. A forward hook calls it after
each batch. Layers that see frames keep as many random frames as there are videos: one sample per video and matrix.

Shapes: B videos, T frames, D features, K clusters, P descriptor, H hidden, N samples, I inputs of a matrix.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from vidfit.features.batch import Batch
from vidfit.models.attention import AttentionPooling
from vidfit.models.classifier import VideoClassifier
from vidfit.models.dbof import ClusterGate
from vidfit.models.encoder import FrameEncoder
from vidfit.models.frame_classifier import FrameClassifier
from vidfit.models.heads import ContextGating, Logistic, MixtureOfExperts
from vidfit.models.layers import Assignment, Hidden, inverse_norm
from vidfit.models.netfv import NetFV
from vidfit.models.netvlad import NetVLAD
from vidfit.models.nextvlad import NeXtVLADPool, SqueezeGate
from vidfit.models.recurrent import Layer
from vidfit.quantization.gptq import LayerInputs
from vidfit.quantization.state import is_big

_LARGEST = torch.finfo(torch.float16).max


@torch.inference_mode()
def collect(classifier: VideoClassifier, batches: Iterable[Batch]) -> dict[str, LayerInputs]:
    """Samples of the inputs of every big weight matrix while the classifier predicts these videos.

    Arguments:
        classifier: float32, in evaluation mode.
        batches: some thousand videos. Memory holds one float16 per video and input of each matrix.

    Returns:
        Tensor name -> inputs. Tensors that nothing is multiplied with, such as centres, have none.
    """
    big = {name for name, tensor in classifier.state_dict().items() if is_big(tensor)}
    captured: dict[str, list[Tensor]] = defaultdict(list)
    generator = torch.Generator().manual_seed(0)

    def hook(prefix: str, layer: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        for attribute, inputs_NI in INPUTS[type(layer)](layer, arguments, output).items():
            if f"{prefix}.{attribute}" in big:
                chosen = torch.randperm(len(inputs_NI), generator=generator)[:videos]
                captured[f"{prefix}.{attribute}"].append(inputs_NI[chosen].clamp(-_LARGEST, _LARGEST).half())

    handles = [
        module.register_forward_hook(lambda *call, prefix=prefix: hook(prefix, *call))
        for prefix, module in classifier.named_modules()
        if type(module) in INPUTS
    ]
    try:
        for batch in batches:
            videos = len(batch)
            classifier(batch.padded(), batch.num_frames)
    finally:
        for handle in handles:
            handle.remove()
    inputs = {}
    while captured:
        name, samples = captured.popitem()
        samples_NI = torch.cat(samples)
        inputs[name] = LayerInputs(samples_NI, _parts(classifier, name, samples_NI.shape[1]))
    return inputs


def _parts(classifier: VideoClassifier, name: str, inputs: int) -> tuple[tuple[int, int], ...]:
    """How the inputs of a matrix split into blocks: a long descriptor by cluster, everything else not at all."""
    family = classifier.family
    if name != "family.hidden.weights" or not isinstance(family, NetVLAD | NetFV):
        return ((1, inputs),)
    orders = 2 if isinstance(family, NetFV) else 1
    return tuple(tuple(pool.assignment.weights.T.shape) for pool in family.pools for _ in range(orders))  # type: ignore[union-attr]


def _real(frames_BTD: Tensor, weights_BT: Tensor | None) -> Tensor:
    return frames_BTD.flatten(0, 1) if weights_BT is None else frames_BTD[weights_BT > 0]


def _of_layer(layer: Layer, arguments: tuple[Any, ...], output: Any) -> dict[str, Tensor]:
    """Each frame, concatenated with the state before it; that state is zero at the first frame."""
    inputs, batch_sizes = arguments
    outputs = output[0]
    if batch_sizes is None:
        inputs_BTD, outputs_BTD = inputs, outputs
        mask_BT = None
    else:
        (inputs_BTD, lengths_B), (outputs_BTD, _) = (
            pad_packed_sequence(PackedSequence(data, batch_sizes), batch_first=True) for data in (inputs, outputs)
        )
        mask_BT = torch.arange(inputs_BTD.shape[1]) < lengths_B[:, None]
    ahead_BTH, back_BTH = outputs_BTD.split([layer.cells, outputs_BTD.shape[2] - layer.cells], dim=2)
    # Padded outputs are zero after a video's end, so the backward direction starts from zero as well.
    seen = {"ahead.weights": (inputs_BTD, nn.functional.pad(ahead_BTH[:, :-1], (0, 0, 1, 0)))}
    if layer.back is not None:
        seen["back.weights"] = (inputs_BTD, nn.functional.pad(back_BTH[:, 1:], (0, 0, 0, 1)))
    return {name: _real(torch.cat(pair, dim=2), mask_BT) for name, pair in seen.items()}


def _of_cluster_gate(gate: ClusterGate, arguments: tuple[Any, ...], output: Any) -> dict[str, Tensor]:
    (largest_BK,) = arguments
    normalised_BK = largest_BK * inverse_norm(largest_BK, dim=1)
    return {"reduction": normalised_BK, "weights": normalised_BK @ gate.reduction}


def _of_assignment(assignment: Assignment, arguments: tuple[Any, ...], output: Any) -> dict[str, Tensor]:
    (frames,) = arguments
    return {"weights": _real(frames.frames_BTD, frames.weights_BT) * frames.scale_D + frames.shift_D}


def _of_attention(pooling: AttentionPooling, arguments: tuple[Any, ...], output: Any) -> dict[str, Tensor]:
    return dict.fromkeys(("queries", "values"), pooling.input_norm(_real(*arguments)))


def _of_nextvlad(pool: NeXtVLADPool, arguments: tuple[Any, ...], output: Any) -> dict[str, Tensor]:
    frames_ND = _real(*arguments)
    wide_NW = pool.expanded(frames_ND)
    return {"expansion": frames_ND, "attention": wide_NW, "assignment": wide_NW}


def _of_squeeze_gate(gate: SqueezeGate, arguments: tuple[Any, ...], output: Any) -> dict[str, Tensor]:
    (hidden_BH,) = arguments
    return {"squeeze": hidden_BH, "excite": gate.squeezed(hidden_BH)}


# Kind of layer -> function of the layer, its arguments and its output. It returns the inputs of its matrices by name.
INPUTS: Mapping[type[nn.Module], Callable[[Any, tuple[Any, ...], Any], dict[str, Tensor]]] = {
    FrameEncoder: lambda layer, arguments, output: {"weights": _real(*arguments)},
    FrameClassifier: lambda layer, arguments, output: dict.fromkeys(
        ("weights", "attention_weights"), _real(*arguments)
    ),
    AttentionPooling: _of_attention,
    NeXtVLADPool: _of_nextvlad,
    SqueezeGate: _of_squeeze_gate,
    Assignment: _of_assignment,
    ClusterGate: _of_cluster_gate,
    Layer: _of_layer,
    Hidden: lambda layer, arguments, output: {"weights": arguments[0]},
    ContextGating: lambda layer, arguments, output: {"weights": arguments[0]},
    Logistic: lambda layer, arguments, output: {"weights": arguments[0]},
    MixtureOfExperts: lambda layer, arguments, output: dict.fromkeys(("gate_weights", "expert_weights"), arguments[0]),
}
