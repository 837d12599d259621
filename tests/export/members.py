"""Small members of every family with random weights, and what their packed files must do."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from tests.corpus import LABELS
from vidfit.export.graph import PackedMember
from vidfit.features.spec import FeatureSpec, Modality
from vidfit.models.classifier import ClassifierConfig
from vidfit.quantization.member import Member
from vidfit.quantization.state import Schemes
from vidfit.quantization.uniform import INT8, QuantScheme
from vidfit.training.checkpoint import MemberInfo

SPEC = FeatureSpec(modalities=(Modality(name="rgb", size=24), Modality(name="audio", size=8)))
RGB = FeatureSpec(modalities=(Modality(name="rgb", size=24),))
VIDEO_LEVEL = FeatureSpec(
    modalities=(
        Modality(name="mean_rgb", size=24, dtype="float32"),
        Modality(name="mean_audio", size=8, dtype="float32"),
    )
)
SCHEMES = [
    QuantScheme(bits=bits, granularity=granularity) for bits in range(2, 9) for granularity in ("tensor", "channel")
]
LOGISTIC = {"type": "logistic"}
ENCODER = {"hidden": 40, "dropout": 0.1}
CLASSIFIERS: dict[str, dict[str, Any]] = {
    "mean": {"family": {"type": "mean"}, "head": LOGISTIC},
    "max and mean": {"family": {"type": "mean", "max": True}, "head": LOGISTIC},
    "netvlad": {"family": {"type": "netvlad", "clusters": 32, "hidden": 64}, "head": {"type": "moe", "experts": 2}},
    "light": {"family": {"type": "netvlad", "clusters": 32, "hidden": 64, "light": True}, "head": LOGISTIC},
    "netfv": {"family": {"type": "netfv", "clusters": 16, "hidden": 64}, "head": {**LOGISTIC, "label_gating": True}},
    "gated": {"family": {"type": "dbof", "clusters": 1024, "hidden": 32}, "head": LOGISTIC},
    "soft": {"family": {"type": "dbof", "clusters": 1024, "hidden": 32, "pooling": "soft"}, "head": LOGISTIC},
    # Large enough that assignment weights and centres of rgb are quantised; those of audio are not.
    "wide": {
        "family": {"type": "netvlad", "clusters": {"rgb": 720, "audio": 8}, "hidden": 16},
        "head": LOGISTIC,
    },
    "lstm": {"family": {"type": "lstm", "cells": 160}, "head": LOGISTIC},
    "gru": {"family": {"type": "gru", "cells": 160, "gating": True}, "head": LOGISTIC},
}
DECIDING = {
    f"frames {pooling}": {
        "encoder": {"hidden": [120, 150]},
        "family": {"type": "frame-classifier", "pooling": pooling},
    }
    for pooling in ("max", "attention", "log-sum-exp", "mean", "noisy-or")
}
CLASSIFIERS |= {
    "attention": {"family": {"type": "attention", "values": 720, "hidden": 64}, "head": LOGISTIC},
    "nextvlad": {
        "family": {
            "type": "nextvlad",
            "clusters": {"rgb": 50, "audio": 8},
            "groups": {"rgb": 8, "audio": 4},
            "hidden": 64,
            "reduction": 4,
        },
        "head": LOGISTIC,
    },
    **{name: DECIDING[name] for name in ("frames max", "frames attention")},
    "recurrent frames": {
        "encoder": {"hidden": 120, "cells": 80},
        "family": {"type": "frame-classifier", "pooling": "max"},
    },
}
FAMILY_NAMES = list(CLASSIFIERS)
CLASSIFIERS |= {
    f"encoded {name}": {**CLASSIFIERS[name], "encoder": ENCODER}
    for name in ("mean", "max and mean", "netvlad", "gated", "gru")
}
CLASSIFIERS |= DECIDING


def member(name: str, spec: FeatureSpec = SPEC, schemes: Schemes = INT8) -> Member:
    """A member with random weights and batch-norm statistics; its big tensors are quantised."""
    return float_member(name, spec).quantized(schemes)


def classifier(name: str, spec: FeatureSpec) -> dict[str, Any]:
    """Its options, those of a modality only where `spec` has it."""
    names = {modality.name for modality in spec.modalities}
    family = {
        option: {key: it for key, it in value.items() if key in names} if isinstance(value, dict) else value
        for option, value in CLASSIFIERS[name]["family"].items()
    }
    return {**CLASSIFIERS[name], "family": family}


def float_member(name: str, spec: FeatureSpec = SPEC) -> Member:
    torch.manual_seed(sum(name.encode()))
    info = MemberInfo(
        name=name,
        classifier=ClassifierConfig.model_validate(classifier(name, spec)),
        spec=spec,
        vocabulary=LABELS,
        step=1,
        gap_validation=0.5,
    )
    model = info.build()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return Member(info, dict(model.state_dict()))


def arrays(videos: int, longest: int, seed: int = 0, spec: FeatureSpec = SPEC) -> dict[str, np.ndarray]:
    """The inputs of a packed file: frames of bytes, and how many are real."""
    random = np.random.default_rng(seed)
    frames = {it.name: random.integers(0, 256, (videos, longest, it.size), dtype=np.uint8) for it in spec.modalities}
    return {**frames, "num_frames": random.integers(1, longest + 1, videos)}


def torch_average(members: list[PackedMember], inputs: dict[str, np.ndarray]) -> np.ndarray:
    frames = {name: torch.from_numpy(values) for name, values in inputs.items() if name != "num_frames"}
    total = sum(packed.weight for packed in members)
    with torch.inference_mode():
        return np.sum(
            [
                packed.weight
                / total
                * packed.member.classifier()(frames, torch.from_numpy(inputs["num_frames"])).numpy()
                for packed in members
            ],
            axis=0,
        )


def opened(model: Path | onnxruntime.InferenceSession) -> onnxruntime.InferenceSession:
    """The session of a file, or the session itself."""
    return onnxruntime.InferenceSession(model) if isinstance(model, Path) else model


def run(model: Path | onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Probabilities `[B, C]` of a file or its session."""
    return np.asarray(opened(model).run(["probabilities"], inputs)[0])


def assert_videos_do_not_depend_on_their_batch(
    model: Path | onnxruntime.InferenceSession, spec: FeatureSpec = SPEC
) -> None:
    """Nor on the padding that a batch gives them."""
    session, inputs = opened(model), arrays(8, 11, spec=spec)
    (together,) = session.run(["probabilities"], inputs)
    for video, frames in enumerate(inputs["num_frames"]):
        alone = {it.name: inputs[it.name][video : video + 1, :frames] for it in spec.modalities}
        (found,) = session.run(["probabilities"], {**alone, "num_frames": inputs["num_frames"][video : video + 1]})
        np.testing.assert_allclose(np.asarray(found)[0], np.asarray(together)[video], atol=1e-5)


def assert_padding_changes_nothing(model: Path | onnxruntime.InferenceSession, spec: FeatureSpec = SPEC) -> None:
    session, inputs, noise = opened(model), arrays(4, 6, spec=spec), arrays(4, 5, 1, spec)
    padded = {it.name: np.concatenate([inputs[it.name], noise[it.name]], axis=1) for it in spec.modalities}
    (short,) = session.run(["probabilities"], inputs)
    (long,) = session.run(["probabilities"], {**padded, "num_frames": inputs["num_frames"]})
    np.testing.assert_allclose(np.asarray(short), np.asarray(long), atol=1e-6)


def loaded_graph(path: Path) -> onnx.GraphProto:
    """What ONNX Runtime makes of a file when it loads it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_name("optimised.onnx"))
    options.log_severity_level = 3
    onnxruntime.InferenceSession(path, options)
    return onnx.load(path.with_name("optimised.onnx")).graph


def assert_loading_keeps_codes(path: Path, kind: int, unpacked: int = 0) -> None:
    """ONNX Runtime must not fold codes into float matrices: they would take four times the memory.

    `unpacked` bytes of packed codes may become one byte per code.
    """
    before, after = onnx.load(path).graph, loaded_graph(path)
    assert len(after.node) < len(before.node), "nothing was optimised"
    assert_nothing_large_is_float(after.initializer)
    sizes = [
        [int(np.prod(tensor.dims)) for tensor in graph.initializer if tensor.data_type == kind]
        for graph in (before, after)
    ]
    # Not the numbers of bits that codes are shifted by.
    elements = [sum(size for size in of_graph if size > 8) for of_graph in sizes]
    assert elements[0] - unpacked == elements[1] > 17_000


def assert_nothing_large_is_float(initializers: Iterable[onnx.TensorProto]) -> None:
    for tensor in initializers:
        in_8_bits = tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
        # Centres of `wide`, floats once the file is loaded, are 17,280.
        assert in_8_bits or int(np.prod(tensor.dims)) <= 17_280, tensor.name
