"""EfficientNet-Lite's graph against the same network in PyTorch, with small random weights."""

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from vidfit.videos.efficientnet_lite import build_graph

SIZE = 37
# Tan and Le 2019, table 1, and the coefficients of the Lite variants: blocks per stage, for depths 1.0, 1.1 and 1.2.
BLOCKS = {1.0: (1, 2, 2, 3, 3, 4, 1), 1.1: (1, 3, 3, 4, 4, 5, 1), 1.2: (1, 3, 3, 4, 4, 5, 1)}
KERNELS, STRIDES = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1)


class Network:
    """The network by its definition, with weights drawn as they are first used; few channels."""

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}
        self._random = torch.Generator().manual_seed(0)

    def _weight(self, name: str, shape: tuple[int, ...], low: float, high: float) -> torch.Tensor:
        drawn = torch.rand(shape, generator=self._random) * (high - low) + low
        return self.weights.setdefault(name, drawn)

    def convolution(self, x: torch.Tensor, name: str, norm: str, channels: int, kernel: int, stride: int, groups: int):
        weight = self._weight(f"{name}.weight", (channels, x.shape[1] // groups, kernel, kernel), -0.5, 0.5)
        total = max((-(-x.shape[2] // stride) - 1) * stride + kernel - x.shape[2], 0)
        x = F.conv2d(F.pad(x, (total // 2, total - total // 2) * 2), weight, stride=stride, groups=groups)
        bounds = {"running_mean": (-1, 1), "running_var": (0.5, 2), "weight": (0.5, 1.5), "bias": (-0.5, 0.5)}
        mean, variance, scale, bias = (self._weight(f"{norm}.{part}", (channels,), *it) for part, it in bounds.items())
        return F.batch_norm(x, mean, variance, scale, bias, eps=1e-3)

    def __call__(self, pictures: np.ndarray, blocks: tuple[int, ...]) -> np.ndarray:
        x = (torch.from_numpy(pictures).float().permute(0, 3, 1, 2) - 127) / 128
        x = F.relu6(self.convolution(x, "_conv_stem", "_bn0", 4, 3, 2, 1))
        number = 0
        for stage, repeats in enumerate(blocks):
            for repeat in range(repeats):
                x, number = self.block(x, f"_blocks.{number}", stage, repeat), number + 1
        return F.relu6(self.convolution(x, "_conv_head", "_bn1", 1280, 1, 1, 1)).mean((2, 3)).numpy()

    def block(self, x: torch.Tensor, name: str, stage: int, repeat: int) -> torch.Tensor:
        start, wide = x, 4 * (stage + 1)
        if stage:
            x = F.relu6(self.convolution(x, f"{name}._expand_conv", f"{name}._bn0", wide, 1, 1, 1))
        stride = 1 if repeat else STRIDES[stage]
        kernel, channels = KERNELS[stage], x.shape[1]
        x = F.relu6(self.convolution(x, f"{name}._depthwise_conv", f"{name}._bn1", channels, kernel, stride, channels))
        x = self.convolution(x, f"{name}._project_conv", f"{name}._bn2", 4 + stage, 1, 1, 1)
        return x + start if repeat else x


@pytest.mark.parametrize("depth", BLOCKS)
def test_the_graph_is_the_network(depth: float):
    pictures = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    network = Network()
    expected = network(pictures, BLOCKS[depth])
    weights = {name: tensor.numpy() for name, tensor in network.weights.items()}
    session = onnxruntime.InferenceSession(build_graph("small", weights, SIZE, depth))
    (found,) = session.run(None, {"pictures": pictures})
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.01
