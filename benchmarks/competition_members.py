"""Members at competition size with random weights, and their files in every form that `runtime.py` measures."""

from pathlib import Path
from typing import Any

import numpy as np
import openvino_forms

ROOT = Path(__file__).parents[1]
RECIPE, NEWER = ROOT / "recipes" / "yt8m-1gb.yaml", ROOT / "recipes" / "yt8m-best.yaml"
MEMBERS = {"netvlad": "netvlad-256", "netfv": "netfv-96", "dbof": "dbof-4096", "lstm": "lstm-a", "gru": "gru"}
MEMBERS |= {"nextvlad": "nextvlad-112", "attention": "attention", "frame-classifier": "frames"}
FRAMES = 300
CLASSES = 3862


def spec():
    from vidfit.features.spec import FeatureSpec, Modality

    return FeatureSpec(modalities=(Modality(name="rgb", size=1024), Modality(name="audio", size=128)))


def member(name: str):
    """A member of the two recipes. Their shards need not exist."""
    from vidfit.recipe import load_recipe

    return {**load_recipe(NEWER).members, **load_recipe(RECIPE).members}[name]


def info(name: str):
    """What a checkpoint of such a member says about it."""
    from vidfit.models.classifier import ClassifierConfig
    from vidfit.training.checkpoint import MemberInfo

    config = member(name)
    return MemberInfo(
        name=name,
        classifier=ClassifierConfig(encoder=config.encoder, family=config.family, head=config.head),
        spec=spec(),
        vocabulary=tuple(f"label {place}" for place in range(CLASSES)),
        step=0,
        gap_validation=0,
    )


def write(family: str, form: str, path: Path) -> None:
    """The family's file in one form."""
    import torch

    from vidfit.export.graph import PROTOBUF_LIMIT, PackedMember, write_graph
    from vidfit.quantization.member import Member
    from vidfit.quantization.uniform import QuantScheme

    torch.manual_seed(0)
    about = info(MEMBERS[family])
    written = Member(about, dict(about.build().state_dict()))
    if form == "8 bits":
        written = written.quantized(QuantScheme(bits=8))
    elif form.startswith("4 bits"):
        written = written.quantized(QuantScheme(bits=4, granularity="channel"))
    floats = path.with_suffix(".floats") if form in openvino_forms.WEIGHTS else path
    write_graph(floats, [PackedMember(written, 1.0)], PROTOBUF_LIMIT)
    if form == "Gather":
        look_up_weights(path)
    elif form in openvino_forms.WEIGHTS:
        openvino_forms.write(floats, form, path)
        floats.unlink()


def recurrent_flops(inputs: Any, input_weights: Any, state_weights: Any, *_: Any, **__: Any) -> int:
    """Of a forward pass of oneDNN's LSTM: `[T, B, D]` by `[G, D]` and `[G, H]`."""
    frames, batch, _ = inputs
    return 2 * frames * batch * (np.prod(input_weights) + np.prod(state_weights)).item()


def multiplications(family: str) -> int:
    """How many a video takes."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = info(MEMBERS[family]).build().eval()
    frames, num_frames = videos(1)
    inputs = {name: torch.from_numpy(array) for name, array in frames.items()}
    formulas = {torch.ops.aten.mkldnn_rnn_layer: recurrent_flops}
    with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        model(inputs, torch.from_numpy(num_frames))
    return counter.get_total_flops() // 2


def look_up_weights(path: Path) -> None:
    """Replace each big float weight of a file by 8-bit codes that a codebook is looked up with at each run."""
    import onnx
    import torch
    from onnx import TensorProto, helper, numpy_helper

    from vidfit.quantization.state import MIN_ELEMENTS
    from vidfit.quantization.uniform import INT8, quantize

    model = onnx.load(path)
    weights, nodes = [numpy_helper.from_array(np.array(1, np.float32), "one")], []
    for tensor in model.graph.initializer:
        values, name = numpy_helper.to_array(tensor), tensor.name
        if values.dtype != np.float32 or values.size <= MIN_ELEMENTS:
            weights.append(tensor)
            continue
        quantized = quantize(torch.from_numpy(values.copy()), INT8)
        codes = (quantized.codes.int() + 128).to(torch.uint8)
        levels = (torch.arange(256) - 128) * quantized.scale + quantized.offset
        weights.append(numpy_helper.from_array(codes.numpy(), f"{name}.codes"))
        weights.append(numpy_helper.from_array(levels.float().numpy(), f"{name}.codebook"))
        # DequantizeLinear comes first: without it, ONNX Runtime looks up once and keeps the floats.
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}.codes", "one"], [f"{name}.floats"]))
        nodes.append(helper.make_node("Cast", [f"{name}.floats"], [f"{name}.places"], to=TensorProto.INT32))
        nodes.append(helper.make_node("Gather", [f"{name}.codebook", f"{name}.places"], [name]))
    graph = helper.make_graph(
        [*nodes, *model.graph.node], "looked_up", model.graph.input, model.graph.output, initializer=weights
    )
    model.graph.CopyFrom(graph)
    onnx.save(model, path)


def write_ensemble(path: Path) -> None:
    """All members of the recipe in less than 1 GB: 8 bits, and 6 for the hidden layers of the two NetVLADs."""
    import torch

    from vidfit.export.graph import PackedMember, write_graph
    from vidfit.quantization.member import Member
    from vidfit.quantization.state import is_big
    from vidfit.quantization.uniform import QuantScheme
    from vidfit.recipe import load_recipe

    torch.manual_seed(0)
    members: list[PackedMember] = []
    for name in load_recipe(RECIPE).members:
        about = info(name)
        state = dict(about.build().state_dict())
        schemes = {key: QuantScheme(bits=8) for key, tensor in state.items() if is_big(tensor)}
        if about.classifier.family.type == "netvlad":
            schemes["family.hidden.weights"] = QuantScheme(bits=6, granularity="channel")
        members.append(PackedMember(Member(about, state).quantized(schemes), 1.0))
    write_graph(path, members, 10**9)


def videos(batch: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Random bytes, all frames real."""
    random = np.random.default_rng(0)
    frames = {it.name: random.integers(0, 256, (batch, FRAMES, it.size), dtype=np.uint8) for it in spec().modalities}
    return frames, np.full(batch, FRAMES)
