"""A member's file: what is written comes back, and metadata that are no member's are told in one line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vidfit.errors import ModelFileError
from vidfit.features.spec import FeatureSpec, Modality
from vidfit.models.classifier import ClassifierConfig
from vidfit.training.checkpoint import MemberInfo, read_info, read_member, save_member

INFO = MemberInfo(
    name="mean",
    classifier=ClassifierConfig.model_validate({"family": {"type": "mean"}, "head": {"type": "logistic"}}),
    spec=FeatureSpec(modalities=(Modality(name="rgb", size=3),)),
    vocabulary=("dog", "déjà vu"),
    step=7,
    gap_validation=0.25,
)


def assert_refused(path: Path, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        read_member(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_what_is_written_comes_back(tmp_path: Path):
    tensors = INFO.build().state_dict()
    save_member(tmp_path / "best.safetensors", INFO, tensors, epoch=2)
    for path in (tmp_path, tmp_path / "best.safetensors"):
        info, found, extra = read_member(path)
        assert info == INFO
        assert extra == {"epoch": 2}
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_every_changed_bit_is_noticed(tmp_path: Path):
    path = tmp_path / "best.safetensors"
    save_member(path, INFO, INFO.build().state_dict())
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        assert_refused(path, "copy it again, or retrain|install a newer vidfit")
    for changed in (whole[:-4], whole + bytes(4)):
        path.write_bytes(changed)
        assert_refused(path, "copy it again, or retrain")


def test_a_changed_weight_is_told_by_the_checksum(tmp_path: Path):
    path = tmp_path / "best.safetensors"
    save_member(path, INFO, INFO.build().state_dict())
    path.write_bytes(path.read_bytes()[:-4] + b"edit")
    assert_refused(path, "was altered, damaged or cut short .checksum|was altered, damaged or cut short .*checksum")


@pytest.mark.parametrize(
    ("older", "message"),
    [
        ({}, "a member of an older vidfit .* retrain"),
        ({"format": 1}, "a member of an older vidfit .* retrain"),
        ({"format": "2"}, "a member of an older vidfit .* retrain"),
        ({"format": 3}, r"a member of a newer vidfit \(format 3; this one reads 2\); install a newer vidfit"),
    ],
)
def test_a_file_of_another_version(older: dict[str, object], message: str, tmp_path: Path):
    path = tmp_path / "old.safetensors"
    document = {**older, "crc32c": "00000000", **INFO.model_dump(mode="json"), "extra": {}}
    save_file(INFO.build().state_dict(), path, {"vidfit": json.dumps(document)})
    assert_refused(path, message)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": 2}', '{"format": 2, "extra": {}}', '{"format": 2, "extra": []}', "null", "nonsense"],
)
def test_metadata_that_describe_no_member(text: str, tmp_path: Path):
    path = tmp_path / "edited.safetensors"
    save_file(INFO.build().state_dict(), path, {"vidfit": text})
    assert_refused(path, "not a readable member file")


@pytest.mark.parametrize("key", ["name", "classifier", "spec", "vocabulary", "step", "gap_validation", "extra"])
def test_metadata_without_a_key(key: str, tmp_path: Path):
    document = {"format": 2, **INFO.model_dump(mode="json"), "extra": {}}
    del document[key]
    path = tmp_path / "edited.safetensors"
    save_file(INFO.build().state_dict(), path, {"vidfit": json.dumps(document)})
    assert_refused(path, f"not a readable member file .*{key}")


def test_an_older_file_says_minus_one_where_nothing_validated(tmp_path: Path):
    path = tmp_path / "older.safetensors"
    save_member(path, INFO.model_copy(update={"gap_validation": -1.0}), INFO.build().state_dict())
    assert read_info(path).gap_validation is None


def test_a_file_of_another_program(tmp_path: Path):
    path = tmp_path / "foreign.safetensors"
    save_file({"weights": torch.zeros(3)}, path)
    assert_refused(path, "its metadata lack 'vidfit'")


def test_a_missing_file(tmp_path: Path):
    assert_refused(tmp_path / "nothing.safetensors", "no such member")


def test_options_of_the_last_release_get_their_new_names(tmp_path: Path):
    """vidfit 0.1 called DBoF's pooling its form."""
    family = {"type": "dbof", "clusters": 8, "hidden": 4, "pooling": {"rgb": "max"}}
    config = ClassifierConfig.model_validate({"family": family, "head": {"type": "logistic"}})
    spec = FeatureSpec(modalities=(Modality(name="rgb", size=6),))
    info = MemberInfo(name="bag", classifier=config, spec=spec, vocabulary=("a",), step=1, gap_validation=0.5)
    tensors = dict(info.build().state_dict())
    save_member(tmp_path / "new.safetensors", info, tensors)
    document = {"format": 2, **info.model_dump(mode="json"), "extra": {}}
    document["classifier"]["family"]["form"] = document["classifier"]["family"].pop("pooling")
    save_file(tensors, tmp_path / "old.safetensors", {"vidfit": json.dumps(document)})
    assert read_member(tmp_path / "old.safetensors")[0] == read_member(tmp_path / "new.safetensors")[0] == info
