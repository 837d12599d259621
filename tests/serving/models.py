"""A packed file that labels videos, made in a moment."""

from pathlib import Path

import numpy as np
import onnx

from tests.export.members import float_member
from tests.videos.making import small_model
from vidfit.export.extractor import CarriedExtractor, CarriedModel
from vidfit.export.graph import PackedMember, write_graph
from vidfit.quantization.member import Member
from vidfit.videos.backbones import find_backbone
from vidfit.videos.extractor import Extractor, Settings
from vidfit.videos.transform import fit_transform


def write_video_model(folder: Path, *, with_extractor: bool = False) -> Path:
    """`videos.onnx`: random weights on the features of two tiny backbones, which lie beside it or are in the file."""
    names = {"rgb": "colours", "audio": "bands"}
    backbones = tuple(find_backbone(small_model(folder, name, it), it) for it, name in names.items())  # type: ignore[arg-type]
    random = np.random.default_rng(0)
    transforms = {
        it.modality: fit_transform([random.normal(size=(50, it.embedding_size)).astype(np.float32)], 3)
        for it in backbones
    }
    extractor = Extractor(settings=Settings(backbones=backbones), transforms=transforms)
    floats = float_member("mean", extractor.spec)
    info = floats.info.model_copy(update={"extractor": extractor.model_dump_json()})
    packed = PackedMember(Member(info, floats.state).quantized(), 1.0)
    carried = None
    if with_extractor:
        models = {it.modality: CarriedModel(onnx.load(folder / f"{it.name}.onnx"), 32) for it in backbones}
        carried = CarriedExtractor(extractor, models)
        for name in names.values():
            (folder / f"{name}.onnx").unlink()
    write_graph(folder / "videos.onnx", [packed], 10**6, carried=carried)
    return folder / "videos.onnx"
