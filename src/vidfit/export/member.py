"""A member in a graph: from stored frames to probabilities, by its family and head."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from vidfit.export.attention import attention
from vidfit.export.dbof import dbof
from vidfit.export.frame_classifier import frame_classifier
from vidfit.export.frames import FloatFrames, Frames, byte_frames, float_frames
from vidfit.export.graph_writer import Value
from vidfit.export.layers import head
from vidfit.export.netfv import netfv
from vidfit.export.netvlad import netvlad
from vidfit.export.nextvlad import nextvlad
from vidfit.export.recurrent import recurrent, recurrent_layer
from vidfit.export.slots import Slots
from vidfit.export.tensors import Tensors
from vidfit.models.attention import AttentionPooling
from vidfit.models.classifier import VideoClassifier
from vidfit.models.dbof import DBoF
from vidfit.models.encoder import FrameEncoder, FrameGRU
from vidfit.models.mean import MeanPooling
from vidfit.models.netfv import NetFV
from vidfit.models.netvlad import NetVLAD
from vidfit.models.nextvlad import NeXtVLAD
from vidfit.models.recurrent import Recurrent
from vidfit.quantization.member import Member
from vidfit.quantization.uniform import QuantizedTensor


def mean(family: MeanPooling, tensors: Tensors, frames: Frames) -> Value:
    """The average frame, float32 `[B, D]`; with `max` the largest values beside it, `[B, 2 D]`."""
    slots, values_BTD = frames.slots, frames.values()
    mean_BD = slots.mean(values_BTD)
    if not family.max:
        return mean_BD
    return slots.graph.concat([mean_BD, slots.max(values_BTD, family.output_size // 2)], axis=1)


# From the frames `[B, T, D]` to the head's input `[B, H]`.
FAMILY_GRAPHS: dict[type, Callable[[Any, Tensors, Frames], Value]] = {
    MeanPooling: mean,
    NetVLAD: netvlad,
    NetFV: netfv,
    DBoF: dbof,
    Recurrent: recurrent,
    AttentionPooling: attention,
    NeXtVLAD: nextvlad,
}


def write_member(
    member: Member, stored: Mapping[str, Value], slots: Slots, stored_as: str, portable: bool
) -> tuple[Value, Value | None]:
    """Add a member to the graph of `slots`.

    Arguments:
        member: its weights are stored as they are.
        stored: modality -> stored frames `[B, T, D_m]`.
        slots: which of them are real.
        stored_as: prefix of its tensors' names.
        portable: use only standard ONNX operators.

    Returns:
        Probabilities of the videos, float32 `[B, C]`, and of frames, float32 `[B, T, C]`; None if there are none.
    """
    with torch.device("meta"):
        module = member.info.build()
    tensors = Tensors(slots.graph, member.state, stored_as, portable)
    frames = _frames(member, module, stored, slots)
    if module.encoder is not None:
        assert isinstance(frames, FloatFrames)
        frames = _encoded(module.encoder, tensors.within("encoder"), frames)
    if module.head is None:
        return frame_classifier(module.family, tensors.within("family"), frames)
    values_BH = FAMILY_GRAPHS[type(module.family)](module.family, tensors.within("family"), frames)
    return head(module.head, tensors.within("head"), values_BH), None


def _frames(member: Member, module: VideoClassifier, stored: Mapping[str, Value], slots: Slots) -> Frames:
    """Byte frames for a quantised NetVLAD or NetFV that reads stored bytes without an encoder, else float frames."""
    quantized = any(isinstance(tensor, QuantizedTensor) for tensor in member.state.values())
    of_bytes = all(modality.dtype == "uint8" for modality in module.spec.modalities)
    sums_frames = isinstance(module.family, NetVLAD | NetFV) and module.encoder is None
    return (byte_frames if quantized and of_bytes and sums_frames else float_frames)(stored, module.spec, slots)


def _encoded(encoder: FrameEncoder, tensors: Tensors, frames: FloatFrames) -> FloatFrames:
    """`ReLU(BN(x W))` of each frame, layer by layer; then the GRU, if there is one."""
    hidden_BTH = frames.times(tensors.weight("weights"), None, *tensors.batch_norm("norm")).relu()
    frames = FloatFrames(hidden_BTH, encoder.weights.shape[1], frames.slots)
    if isinstance(encoder.deeper, FrameGRU):
        layer, inputs_TBD = encoder.deeper.layer, frames.values().permute(1, 0, 2)
        outputs_TBH, _ = recurrent_layer(layer, tensors.within("deeper.layer"), inputs_TBD, frames.slots)
        return FloatFrames(outputs_TBH.permute(1, 0, 2), 2 * layer.cells, frames.slots)
    return frames if encoder.deeper is None else _encoded(encoder.deeper, tensors.within("deeper"), frames)
