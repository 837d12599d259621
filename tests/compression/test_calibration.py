"""Captured inputs are those that give a layer's outputs; compensation lowers the error of what members say."""

import pytest
import torch

from tests.corpus import videos as corpus_videos
from tests.packing.test_graph import CLASSIFIERS, float_member
from vidfit.compression.calibration import collect
from vidfit.compression.quantize import Grid
from vidfit.features.batches import Batch, collate


def batches(count: int = 3, size: int = 40) -> list[Batch]:
    return [collate(list(corpus_videos(size, seed))) for seed in range(count)]


@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name != "mean"])
def test_every_big_matrix_has_moments_of_its_inputs(name: str):
    member = float_member(name)
    moments = collect(member.classifier(), batches())
    big = {
        key: tensor
        for key, tensor in member.state.items()
        if isinstance(tensor, torch.Tensor) and tensor.numel() > 17_000
    }
    centres = {key for key in big if key.endswith(("centres", "deviations"))}
    assert moments.keys() == big.keys() - centres
    for key, found in moments.items():
        assert found.inputs.dtype == torch.float16
        assert found.inputs.shape == (120, len(big[key]))
        assert sum(features * blocks for features, blocks in found.parts) == len(big[key])
    member.quantized(Grid(bits=3, granularity=32), moments).classifier()
