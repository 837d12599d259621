"""Push to the Hub and load from it, against a stand-in of its API."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import constants

import vidfit as library
from tests.conftest import Call
from tests.export.members import arrays, member
from tests.hub.stand_in import Hub, hub
from tests.inference.test_predictor import edited
from tests.serving.models import write_video_model
from tests.videos.making import BLUE, RED, by_second, frames_at, tone, write
from vidfit.errors import ModelFileError, VidfitError
from vidfit.export.graph import PackedMember, write_graph
from vidfit.export.metadata import parse_metadata, read_header
from vidfit.hub.model_card import write_card
from vidfit.hub.repository import push
from vidfit.serving.models import open_models
from vidfit.videos.backbones import find_backbone
from vidfit.videos.extractor import Extractor, Settings


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The Hub that huggingface_hub talks to; its cache is empty."""
    with hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        there = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", there)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield server


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hub") / "small.onnx"
    write_graph(path, [PackedMember(member("mean"), 1.0)], 10**6)
    return path


def test_what_is_pushed_can_be_loaded(there: Hub, vidfit: Call, model: Path):
    assert vidfit("push", model, "me/small") == (0, "hf://me/small\n", "")
    assert set(there.repositories["me/small"]) == {"model.onnx", "README.md"}
    assert there.repositories["me/small"]["model.onnx"] == model.read_bytes()
    inputs = arrays(2, 3)
    lengths = inputs.pop("num_frames")
    found = library.load("hf://me/small").predict(inputs, lengths)
    np.testing.assert_array_equal(found, library.load(model).predict(inputs, lengths))


def test_a_new_repository_can_be_private(there: Hub, vidfit: Call, model: Path):
    assert vidfit("push", model, "me/hidden", "--private")[0] == 0
    assert there.private == {"me/hidden": True}


def test_the_card_has_the_metrics_of_the_run(there: Hub, finished: Path):
    push(finished / "model.onnx", "me/run")
    _, head, text = there.repositories["me/run"]["README.md"].decode().split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "vidfit"
    packed = json.loads((finished / "summary.json").read_text())["packed"]
    assert f"| GAP@20 | {packed['gap']:.4f} |" in text
    assert "`dog, barking`" in text
    assert "vidfit evaluate" in text
    assert str(finished) not in text


def test_the_card_of_a_file_alone_has_no_metrics(there: Hub, model: Path):
    push(model, "me/small")
    assert "None were measured." in there.repositories["me/small"]["README.md"].decode()


def test_a_hub_that_cannot_be_reached_is_one_line(there: Hub, vidfit: Call, model: Path, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, _, err = vidfit("push", model, "me/small")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("vidfit: me/small: cannot be pushed (")


def test_a_changed_file_is_refused(there: Hub, model: Path):
    push(model, "me/small")
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    there.repositories["me/small"]["model.onnx"] = bytes(content)
    with pytest.raises(ModelFileError, match="was changed or cut short"):
        library.load("hf://me/small")


@pytest.mark.parametrize("content", [b"../../../etc/passwd", b"", b"\x00\xff"])
def test_a_file_that_is_no_model_is_refused(there: Hub, content: bytes):
    there.repositories["me/link"] = {"model.onnx": content}
    with pytest.raises(ModelFileError, match="no ONNX file"):
        library.load("hf://me/link")


def test_a_backbone_of_one_machine_is_refused(there: Hub, tmp_path: Path):
    videos_model = write_video_model(tmp_path)
    with pytest.raises(ModelFileError, match="come from a model of your own, colours"):
        push(videos_model, "me/videos")
    there.repositories["me/videos"] = {"model.onnx": videos_model.read_bytes()}
    with pytest.raises(ModelFileError, match="come from a model of your own, colours"):
        library.load("hf://me/videos")


def test_a_one_file_model_labels_videos_by_its_address(there: Hub, vidfit: Call, tmp_path: Path):
    model = write_video_model(tmp_path, with_extractor=True)
    clip = write(tmp_path / "clip.mp4", by_second(RED, BLUE), frames_at(4, 2), tone(400, 2))
    assert vidfit("push", model, "me/one-file")[0] == 0
    (found,), (expected,) = (library.label(it, clip) for it in ("hf://me/one-file", model))
    assert found.labels == expected.labels != []
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    assert vidfit("label", "hf://me/one-file", clip, "-o", tmp_path / "labels.json")[0] == 0
    (told,) = json.loads((tmp_path / "labels.json").read_text())
    assert [it["label"] for it in told["labels"]] == [it.label for it in expected.labels]
    card = there.repositories["me/one-file"]["README.md"].decode()
    assert "with these models, which are in the file" in card


def test_a_server_takes_an_address(there: Hub, model: Path):
    push(model, "me/small")
    served = open_models(["hf://me/small", "other=hf://me/small"])
    assert list(served) == ["small", "other"]
    assert served["small"].path.read_bytes() == model.read_bytes()


def test_the_card_names_the_licences_of_backbones(model: Path):
    known = find_backbone("efficientnet-lite0", "rgb"), find_backbone("yamnet", "audio")
    extractor = Extractor(settings=Settings(backbones=known), transforms={})
    info = parse_metadata(model, read_header(model).metadata)
    card = write_card(model, info.model_copy(update={"extractor": extractor.model_dump_json()}), "me/small")
    assert card.count("(licence: Apache-2.0") == 2


def test_external_weights_are_not_followed(there: Hub, model: Path, tmp_path: Path):
    def change(proto):
        tensor = proto.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = 1
        tensor.external_data.add(key="location", value="../../../../etc/passwd")

    there.repositories["me/far"] = {"model.onnx": edited(model, tmp_path / "far.onnx", change).read_bytes()}
    with pytest.raises(ModelFileError):
        library.load("hf://me/far")


@pytest.mark.parametrize("name", ["", "alone", "../..", "a/../b", "a/b/c", "/etc/passwd", "a/..", "a b/c"])
def test_a_wrong_name_is_one_line(there: Hub, vidfit: Call, model: Path, name: str):
    code, _, err = vidfit("push", model, name)
    assert (code, err) == (2, f"vidfit: {name}: is no name of a repository; give owner/name\n")
    with pytest.raises(VidfitError, match="is no address"):
        library.load(f"hf://{name}")
    assert there.repositories == {}


def test_a_repository_that_is_missing_is_one_line(there: Hub):
    with pytest.raises(VidfitError, match=r"^hf://me/none: cannot be fetched \(.*404.*\)$"):
        library.load("hf://me/none")


def test_a_refused_push_is_one_line(there: Hub, vidfit: Call, model: Path):
    there.refuses = True
    code, _, err = vidfit("push", model, "me/small")
    assert (code, err.count("\n")) == (2, 1)
    assert "me/small: cannot be pushed" in err


def test_without_the_package_the_error_names_the_extra(vidfit: Call, model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    code, _, err = vidfit("push", model, "me/small")
    assert (code, err) == (2, "vidfit: the Hub needs huggingface_hub; install it with: pip install 'vidfit[hub]'\n")
