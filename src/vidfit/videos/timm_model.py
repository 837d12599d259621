"""Models of timm as backbones: pictures to the values that its classifier would get.

timm downloads the weights when a model is first named. The model becomes an ONNX file once, which stays in the cache:
from then on, only `vidfit extract --image-model timm:NAME` itself needs timm. Needs `pip install 'vidfit[timm]'`.
"""

import hashlib
import re
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import nn

from vidfit.errors import DataError, VidfitError, reason
from vidfit.videos.backbone import TIMM, Backbone
from vidfit.videos.conversion import gives


def find_timm_model(name: str) -> Backbone:
    """The description of a model, by its name in timm after `timm:`, with or without a tag of weights.

    Raises:
        DataError: timm has no such model or no weights for it, cannot download them, or it takes no square pictures.
        VidfitError: timm is not installed.
    """
    return _described(name, _load(name))


def build_timm_graph(backbone: Backbone) -> bytes:
    """The ONNX graph of a model: float32 `[B, 3, size, size]` to `embeddings`, float32 `[B, embedding_size]`.

    Raises:
        DataError: timm has other weights than those of the checksum, or the model cannot be exported.
    """
    network = _load(backbone.name)
    if _digest(network) != backbone.sha256:
        raise DataError(
            f"{backbone.name}: timm gives other weights than those with sha256 {backbone.sha256}; copy the model's "
            "file from the cache of the machine that made the features"
        )
    pictures = torch.rand(3, 3, backbone.size, backbone.size)
    with torch.inference_mode():
        expected = network(pictures).numpy()
    try:
        content = _exported(network, pictures[:2])
        same = gives(content, pictures.numpy(), expected)
    except Exception as error:  # those of the exporter and of ONNX Runtime share no other base class
        raise DataError(f"{backbone.name}: cannot become an ONNX file ({reason(error)}); choose another") from error
    if not same:
        raise DataError(f"{backbone.name}: its ONNX file gives other values than timm; choose another model")
    return content


def _timm() -> ModuleType:
    try:
        import onnxscript  # noqa: F401  PyTorch's exporter needs it
        import timm  # type: ignore[reportMissingImports]
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that does not fit PyTorch
        raise VidfitError(
            f"models of timm cannot be used ({reason(error)}); install timm with: pip install 'vidfit[timm]'"
        ) from error
    return timm


def _load(name: str) -> nn.Module:
    # Names of folders and of the hub's users have other characters. A packed file must not make vidfit fetch those.
    if not re.fullmatch(r"[\w.-]+", name.removeprefix(TIMM)):
        raise DataError(f"{name}: is no name of a model in timm; give one of timm.list_models(pretrained=True)")
    timm = _timm()
    try:
        return timm.create_model(name.removeprefix(TIMM), pretrained=True, num_classes=0).eval()
    except OSError as error:
        raise DataError(
            f"{name}: its weights cannot be downloaded ({reason(error)}); try again where timm's hub can be reached"
        ) from error
    except Exception as error:  # timm raises what its models raise
        raise DataError(
            f"{name}: timm cannot make it ({reason(error)}); give one of timm.list_models(pretrained=True)"
        ) from error


def _described(name: str, network: Any) -> Backbone:
    config = _timm().data.resolve_model_data_config(network)
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise DataError(f"{name}: takes pictures of {channels} x {height} x {width}, not RGB squares; choose another")
    with torch.inference_mode():
        shape = network(torch.zeros(1, 3, height, width)).shape
    if len(shape) != 2:
        raise DataError(f"{name}: gives {len(shape) - 1} dimensions for a picture, not one; choose another")
    # With its tag, for the default tag of a name may change from one timm to the next.
    full = ".".join(filter(None, (network.pretrained_cfg["architecture"], network.pretrained_cfg.get("tag"))))
    return Backbone(
        name=TIMM + full,
        modality="rgb",
        sha256=_digest(network),
        embedding_size=shape[1],
        output="embeddings",
        size=height,
        channels="first",
        mean=tuple(255 * value for value in config["mean"]),
        deviation=tuple(255 * value for value in config["std"]),
    )


def _digest(network: nn.Module) -> str:
    """SHA-256 of the weights: unlike an exported file, the same for every version of the exporter."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _exported(network: nn.Module, pictures: torch.Tensor) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (pictures,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("B")},),
            input_names=["pictures"],
            output_names=["embeddings"],
            verbose=False,
        )
    assert program is not None
    return program.model_proto.SerializeToString()
