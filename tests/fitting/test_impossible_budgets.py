"""A budget that cannot be met is refused before videos are read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.fitting.making import write_names, write_videos
from vidfit.errors import BudgetError
from vidfit.export.extractor import CarriedExtractor, CarriedModel
from vidfit.fitting.budget import check_budget


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of those in the cache: two of 3,000,000 bytes each."""
    values = helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, ["B"])
    weights = numpy_helper.from_array(np.zeros(3_000_000, np.uint8), "weights")
    model = helper.make_model(helper.make_graph([], "g", [values], [values], [weights]))
    carried = dict.fromkeys(["rgb", "audio"], CarriedModel(model, 8))
    monkeypatch.setattr("vidfit.fitting.budget.extractor_in_8_bits", lambda it: CarriedExtractor(it, carried))
    monkeypatch.setattr(
        "vidfit.fitting.budget.carried_bytes",
        lambda it, spec, names: sum(of.model.ByteSize() for of in it.models.values()),
    )


def test_models_that_do_not_fit_are_refused(models, vidfit: Callable, tmp_path: Path):
    call = ("fit", tmp_path / "videos.csv", "-o", tmp_path / "run", "--with-extractor", "--budget")
    code, _, err = vidfit(*call, "2MB")
    assert code == 2
    assert err == (
        "vidfit: --budget 2MB: the models for pictures and sounds alone take 6.0 MB; "
        "give more, or leave out --with-extractor\n"
    )
    assert not (tmp_path / "run").exists()
    check_budget("6.1MB", [str(tmp_path)], True)


def test_features_take_room_too(tmp_path: Path):
    # Two matrices of bytes, in base64: (1280 * 256 + 1024 * 128) * 4/3 is 611,669.
    with pytest.raises(BudgetError, match=r"what turns pictures and sounds into features alone takes 6\d\d\.\d kB"):
        check_budget("611kB", [str(tmp_path)], False)
    check_budget("700kB", [str(tmp_path)], False)


def test_a_budget_without_a_unit_is_asked_about(vidfit: Callable, tmp_path: Path):
    shard, names = write_videos(tmp_path / "a.tfrecord", 60), write_names(tmp_path / "names.csv")
    code, _, err = vidfit("fit", shard, "--vocabulary", names, "--budget", "12", "-o", tmp_path / "run")
    assert (code, err) == (2, "vidfit: --budget 12: is 12 bytes; did you mean 12MB?\n")
    assert not (tmp_path / "run").exists()


def test_shards_have_no_extractor_to_weigh(tmp_path: Path):
    check_budget("20kB", [str(write_videos(tmp_path / "a.tfrecord", 5))], False)
