"""Captured inputs are those that give a layer's outputs, whatever the layer; matrices without a layer have none."""

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from tests.corpus import videos
from tests.export.members import CLASSIFIERS, float_member
from vidfit.features.batch import Batch, collate
from vidfit.models.dbof import ClusterGate
from vidfit.models.encoder import FrameEncoder
from vidfit.models.heads import ContextGating, Logistic, MixtureOfExperts, MixtureOfExpertsConfig
from vidfit.models.layers import Assignment, Hidden
from vidfit.models.recurrent import Direction, Layer
from vidfit.quantization.calibration import INPUTS, collect
from vidfit.quantization.state import is_big

MEANS = [name for name in CLASSIFIERS if name.endswith("mean")]
every_classifier = pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name not in MEANS])


def batches() -> list[Batch]:
    return [collate(list(videos(40, seed))) for seed in range(3)]


@every_classifier
def test_every_big_matrix_has_its_inputs(name: str):
    member = float_member(name)
    inputs = collect(member.classifier(), batches())
    big = {key: value for key, value in member.state.items() if is_big(value)}
    assert inputs.keys() == {key for key in big if not key.endswith(("centres", "deviations"))}
    for key, found in inputs.items():
        matrix = big[key]
        assert isinstance(matrix, torch.Tensor)
        assert found.samples.dtype == torch.float16
        assert found.samples.shape == (120, len(matrix))
        assert sum(blocks * features for blocks, features in found.parts) == len(matrix)


def test_blocks_of_a_descriptor_are_its_clusters():
    parts = {
        name: collect(float_member(name).classifier(), batches()[:1])["family.hidden.weights"].parts
        for name in ("netvlad", "netfv", "gated")
    }
    # rgb has 24 features, audio 8; a Fisher vector has two orders of each.
    assert parts == {
        "netvlad": ((32, 24), (32, 8)),
        "netfv": ((16, 24), (16, 24), (16, 8), (16, 8)),
        "gated": ((1, 2048),),
    }


# Kind of layer -> its output, from its own matrices and the inputs that were captured for them.
FORMULAS = {
    FrameEncoder: lambda layer, inputs: encoded(layer, inputs["weights"]),
    Assignment: lambda layer, inputs: layer.norm(inputs["weights"] @ layer.weights),
    ClusterGate: lambda layer, inputs: torch.sigmoid(layer.norm(inputs["weights"] @ layer.weights)),
    Hidden: lambda layer, inputs: hidden(layer, inputs["weights"] @ layer.weights),
    Logistic: lambda layer, inputs: torch.sigmoid(inputs["weights"] @ layer.weights + layer.biases),
    ContextGating: lambda layer, inputs: (
        inputs["weights"] * torch.sigmoid(affine(layer, inputs["weights"] @ layer.weights))
    ),
}


def encoded(layer: FrameEncoder, values: torch.Tensor) -> torch.Tensor:
    values = torch.relu(layer.norm(values @ layer.weights))
    return encoded(layer.deeper, values) if isinstance(layer.deeper, FrameEncoder) else values


def hidden(layer: Hidden, values: torch.Tensor) -> torch.Tensor:
    if layer.norm is not None:
        values = layer.norm(values)
    if layer.biases is not None:
        values = values + layer.biases
    return torch.nn.functional.relu6(values) if layer.relu else values


def affine(gating: ContextGating, gates: torch.Tensor) -> torch.Tensor:
    if gating.norm is not None:
        return gating.norm(gates)
    assert gating.biases is not None
    return gates + gating.biases


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name not in (*MEANS, "recurrent frames")])
@torch.inference_mode()
def test_inputs_give_the_outputs_of_their_layer(name: str):
    seen = set()

    def check(layer, arguments, output):
        seen.add(type(layer))
        of_frames = isinstance(layer, FrameEncoder | Assignment)
        weights_BT = arguments[0].weights_BT if isinstance(layer, Assignment) else arguments[-1]
        expected = output[weights_BT > 0] if of_frames else output
        found = FORMULAS[type(layer)](layer, INPUTS[type(layer)](layer, arguments, output))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    classifier = float_member(name).classifier()
    for module in classifier.modules():
        if type(module) in FORMULAS:
            module.register_forward_hook(check)
    batch = collate(list(videos(30, 0)))
    classifier(batch.padded(), batch.num_frames)
    assert seen


@pytest.mark.parametrize("equally_long", [False, True])
@pytest.mark.parametrize("name", ["lstm", "gru", "recurrent frames"])
@torch.inference_mode()
def test_a_recurrent_matrix_sees_each_frame_and_the_state_before_it(name: str, equally_long: bool):
    def check(layer: Layer, arguments, output):
        inputs, batch_sizes = arguments
        found = INPUTS[Layer](layer, arguments, output)
        if batch_sizes is None:
            sequences = list(inputs)
        else:
            padded, lengths = pad_packed_sequence(PackedSequence(inputs, batch_sizes), batch_first=True)
            sequences = [sequence[:length] for sequence, length in zip(padded, lengths, strict=True)]
        for direction, weights in zip(("ahead", "back"), layer.directions, strict=False):
            expected = torch.cat([states(layer, weights, sequence, direction) for sequence in sequences])
            torch.testing.assert_close(found[f"{direction}.weights"], expected, rtol=1e-4, atol=1e-5)

    classifier = float_member(name).classifier()
    layers = [module for module in classifier.modules() if isinstance(module, Layer)]
    assert len(layers) == (1 if name == "recurrent frames" else 2)
    for layer in layers:
        layer.register_forward_hook(check)
    batch = collate(list(videos(30, 0)))
    frames = batch.padded()
    if equally_long:
        classifier({key: values[:, :3] for key, values in frames.items()})
    else:
        classifier(frames, batch.num_frames)


def states(layer: Layer, direction: Direction, sequence_TD: torch.Tensor, name: str) -> torch.Tensor:
    """Each frame and the state before it, by PyTorch's cells one step at a time."""
    input_weights, state_weights, biases = direction.parts()
    hidden = cell = torch.zeros(1, layer.cells)
    rows = []
    for frame in sequence_TD.flip(0) if name == "back" else sequence_TD:
        rows.append(torch.cat([frame, hidden[0]]))
        weights = (input_weights.T, state_weights.T, biases, torch.zeros_like(biases))
        if layer.cell == "lstm":
            hidden, cell = torch.lstm_cell(frame[None], (hidden, cell), *weights)
        else:
            hidden = torch.gru_cell(frame[None], hidden, *weights)
    return torch.stack(rows[::-1] if name == "back" else rows)


def test_a_mixture_of_experts_has_two_matrices_of_the_same_inputs():
    head = MixtureOfExperts(MixtureOfExpertsConfig(), 4, 3)
    inputs = torch.randn(2, 4)
    assert INPUTS[MixtureOfExperts](head, (inputs,), None) == {"gate_weights": inputs, "expert_weights": inputs}
