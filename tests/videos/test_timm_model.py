"""Models of timm as backbones. A small module stands in for timm where it is not what is tested."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import Call
from tests.videos.making import RED, write_labelled_clips
from vidfit.errors import DataError, VidfitError
from vidfit.videos.backbones import find_backbone, model_file
from vidfit.videos.embed import Embedder
from vidfit.videos.extractor import FILE, Settings, read_extractor

pytest.importorskip("onnxscript")

MEAN, DEVIATION = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


class Tiny(nn.Module):
    """The mean colour through a matrix, `[B, 3, 32, 32]` to `[B, 5]`."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.pretrained_cfg = {"architecture": "tiny", "tag": "v1"}
        self.config = {"input_size": (3, 32, 32), "mean": MEAN, "std": DEVIATION}
        weight = torch.from_numpy(np.random.default_rng(seed).normal(size=(3, 5)).astype(np.float32))
        self.weight = nn.Parameter(weight)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return pictures.mean((2, 3)) @ self.weight


class Timm(SimpleNamespace):
    """What vidfit uses of timm; `made` counts the models."""

    def __init__(self) -> None:
        self.made = 0
        self.network: Any = Tiny()
        self.error: Exception | None = None
        self.data = SimpleNamespace(resolve_model_data_config=lambda network: network.config)

    def create_model(self, name: str, pretrained: bool, num_classes: int) -> nn.Module:
        assert (pretrained, num_classes) == (True, 0)
        self.made += 1
        if self.error:
            raise self.error
        return self.network


@pytest.fixture
def timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Timm:
    """Stands in for timm; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stand_in = Timm()
    monkeypatch.setitem(sys.modules, "timm", stand_in)  # type: ignore[arg-type]
    return stand_in


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    return write_labelled_clips(tmp_path / "clips")


def test_it_gets_pictures_as_timm_prepares_them(timm: Timm, clips: Path):
    embedder = Embedder(Settings(backbones=(find_backbone("timm:tiny", "rgb"),)))
    found = embedder.embed(clips / "red" / "1.mp4").embeddings["rgb"]
    colour = (np.array(RED) / 255 - MEAN) / DEVIATION
    # A codec changes a colour by some 2 of 255.
    np.testing.assert_allclose(found[0], colour @ timm.network.weight.detach().numpy(), atol=0.15)


def test_its_graph_gives_timms_values_for_any_batch(timm: Timm):
    import onnxruntime

    session = onnxruntime.InferenceSession(model_file(find_backbone("timm:tiny", "rgb")))
    for batch in (1, 3, 16):
        pictures = np.random.default_rng(batch).normal(size=(batch, 3, 32, 32)).astype(np.float32)
        expected = pictures.astype(np.float64).mean((2, 3)) @ timm.network.weight.detach().numpy()
        found = np.asarray(session.run(["embeddings"], {"pictures": pictures})[0])
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_its_name_says_which_weights_it_has(timm: Timm):
    backbone = find_backbone("timm:tiny", "rgb")
    assert backbone.name == "timm:tiny.v1"
    timm.network = Tiny(seed=1)
    assert find_backbone("timm:tiny", "rgb").sha256 != backbone.sha256


def test_it_is_exported_once_and_then_needs_no_timm(timm: Timm, monkeypatch: pytest.MonkeyPatch):
    backbone = find_backbone("timm:tiny", "rgb")
    path = model_file(backbone)
    monkeypatch.setitem(sys.modules, "timm", None)
    assert model_file(backbone) == path


def test_other_weights_are_refused(timm: Timm):
    backbone = find_backbone("timm:tiny", "rgb")
    timm.network = Tiny(seed=1)
    with pytest.raises(DataError, match=f"other weights than those with sha256 {backbone.sha256}"):
        model_file(backbone)


def test_without_timm_the_line_that_installs_it_is_named(timm: Timm, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(VidfitError, match=r"pip install 'vidfit\[timm\]'"):
        find_backbone("timm:tiny", "rgb")


def test_a_timm_that_breaks_on_import_is_told(tmp_path: Path, timm: Timm, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.delitem(sys.modules, "timm")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(VidfitError, match=r"torchvision::nms does not exist\); install timm"):
        find_backbone("timm:tiny", "rgb")


def test_videos_are_extracted_by_workers_without_timm(timm: Timm, clips: Path, vidfit: Call):
    options = ["--image-model", "timm:tiny", "--sound-model", "none", "--image-bytes", "3", "--split", "train=1"]
    code, _, err = vidfit("extract", clips, "-o", clips.parent / "features", *options, "--workers", "2")
    assert (code, err.splitlines()[-1]) == (0, "writing features")
    (backbone,) = read_extractor(clips.parent / "features" / FILE).settings.backbones
    assert (backbone.name, backbone.file) == ("timm:tiny.v1", None)


def test_a_failed_download_is_one_line(timm: Timm, clips: Path, vidfit: Call):
    timm.error = FileNotFoundError("An error happened while trying to locate the file\non the Hub")
    code, _, err = vidfit("extract", clips, "-o", clips.parent / "features", "--image-model", "timm:tiny")
    assert (code, err.count("\n")) == (2, 1)
    assert "timm:tiny: its weights cannot be downloaded" in err
    assert not (clips.parent / "features").exists()


def test_an_unknown_model_is_told_with_where_names_are(timm: Timm):
    timm.error = RuntimeError("Unknown model (tny)")
    with pytest.raises(DataError, match=r"Unknown model \(tny\)\); give one of timm.list_models"):
        find_backbone("timm:tny", "rgb")


@pytest.mark.parametrize("name", ["hf-hub:someone/tiny", "local-dir:/tmp/tiny", ""])
def test_names_beyond_timms_own_are_not_fetched(name: str, timm: Timm):
    with pytest.raises(DataError, match="is no name of a model in timm"):
        find_backbone(f"timm:{name}", "rgb")
    assert timm.made == 0


def test_it_is_no_model_for_sounds(timm: Timm):
    with pytest.raises(DataError, match=r"give yamnet, youtube8m or an \.onnx file"):
        find_backbone("timm:tiny", "audio")
    assert timm.made == 0


def test_a_model_for_oblong_pictures_is_refused(timm: Timm):
    timm.network.config["input_size"] = (3, 32, 16)
    with pytest.raises(DataError, match="takes pictures of 3 x 32 x 16"):
        find_backbone("timm:tiny", "rgb")


def test_a_model_that_gives_maps_is_refused(timm: Timm):
    timm.network.forward = lambda pictures: pictures
    with pytest.raises(DataError, match="gives 3 dimensions for a picture"):
        find_backbone("timm:tiny", "rgb")


def test_a_model_that_cannot_be_exported_is_told(timm: Timm):
    backbone = find_backbone("timm:tiny", "rgb")
    timm.network.forward = lambda pictures: torch.tensor(pictures.mean((2, 3)).tolist())
    with pytest.raises(DataError, match=r"timm:tiny.v1: cannot become an ONNX file .*; choose another"):
        model_file(backbone)


def test_a_file_that_gives_other_values_is_refused(timm: Timm, tmp_path: Path):
    backbone = find_backbone("timm:tiny", "rgb")
    timm.network.forward = lambda pictures: torch.rand_like(pictures.mean((2, 3)))
    with pytest.raises(DataError, match="gives other values than timm"):
        model_file(backbone)
    assert not list(tmp_path.rglob("*.onnx"))


@pytest.mark.parametrize(("name", "mean"), [("test_efficientnet", 0.485), ("test_vit", 0.5), ("test_resnet", 0.5)])
def test_models_of_timm_itself_become_files(name: str, mean: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    timm = pytest.importorskip("timm")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    create = timm.create_model

    def create_untrained(name: str, pretrained: bool, num_classes: int) -> nn.Module:
        torch.manual_seed(0)
        return create(name, pretrained=False, num_classes=num_classes)

    monkeypatch.setattr(timm, "create_model", create_untrained)
    backbone = find_backbone(f"timm:{name}", "rgb")
    assert backbone.size == 160
    assert backbone.mean[0] == 255 * mean
    assert model_file(backbone).is_file()
