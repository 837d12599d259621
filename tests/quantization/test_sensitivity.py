"""Costs of bit widths against a member quantised by hand, and the divergence against its formula."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.corpus import LABELS
from vidfit.features.loader import Batches
from vidfit.features.shards import expand_shards
from vidfit.quantization.member import Member, load_member
from vidfit.quantization.sensitivity import divergence, sensitivity
from vidfit.quantization.uniform import INT8, QuantScheme
from vidfit.training.validation import predict

SCHEMES = [QuantScheme(bits=2), INT8]


@pytest.fixture(scope="module")
def member(finished: Path) -> Member:
    return load_member(finished / "members" / "vlad")


def test_each_tensor_is_measured_alone_and_the_member_is_left_as_it_was(member: Member, corpus: Path):
    shards = expand_shards([str(corpus / "validation")])
    batches = list(Batches(shards, member.info.spec, len(LABELS), 16))
    original = {name: tensor.clone() for name, tensor in member.state.items() if isinstance(tensor, torch.Tensor)}
    found = [cost for cost, _ in sensitivity(member, batches, SCHEMES, {})]
    big = [name for name, tensor in original.items() if tensor.numel() > 17_000]
    assert [(cost.tensor, cost.scheme) for cost in found] == [(name, scheme) for name in big for scheme in SCHEMES]

    def predictions(changed: Member) -> np.ndarray:
        classifier = changed.classifier()
        return np.concatenate([predict(classifier, batch) for batch in batches])

    for cost in found:
        alone = member.quantized({cost.tensor: cost.scheme})
        assert cost.divergence == pytest.approx(divergence(predictions(member), predictions(alone)), abs=1e-9)
    for name, tensor in original.items():
        assert torch.equal(member.state[name], tensor)  # type: ignore[arg-type]
    coarse, fine = (sum(cost.divergence for cost in found if cost.scheme == scheme) for scheme in SCHEMES)
    assert coarse > 100 * fine > 0


def test_divergence_is_that_of_bernoulli_variables():
    p, q = np.array([[0.2, 0.9], [0.5, 0.5]]), np.array([[0.3, 0.8], [0.5, 0.25]])
    expected = 0.0
    for a, b in zip(p.ravel(), q.ravel(), strict=True):
        expected += a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))
    assert divergence(p, q) == pytest.approx(expected / 2)
    assert divergence(p, p) == 0
    assert np.isfinite(divergence(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])))
