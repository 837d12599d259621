"""Thresholds of a packed file: chosen on the validation videos, kept in its metadata, within its bytes."""

import logging
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import vidfit
from tests.export.members import arrays, member, run
from tests.inference.test_predictor import edited
from vidfit.checksum import is_intact
from vidfit.evaluation.thresholds import LEVELS
from vidfit.export.graph import PackedMember, write_graph, write_thresholds
from vidfit.export.metadata import CHECKSUM
from vidfit.features.loader import Batches
from vidfit.features.shards import expand_shards
from vidfit.inference.packed_thresholds import read_thresholds, set_thresholds
from vidfit.progress import silent
from vidfit.quantization.member import load_member


def predictions(model: vidfit.Predictor, shards: Path) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels `[V, C]` of all videos."""
    batches = list(Batches(expand_shards([shards]), model.spec, len(model.vocabulary), 10))
    labels = [batch.multi_hot(len(model.vocabulary)).numpy().astype(bool) for batch in batches]
    return np.concatenate([model.predict_batch(batch) for batch in batches]), np.concatenate(labels)


def f1(given: np.ndarray, positive: np.ndarray) -> float:
    return 2 * (given & positive).sum() / (given.sum() + positive.sum())


def test_a_run_chooses_them_on_its_validation_videos(finished: Path, corpus: Path):
    model = vidfit.load(finished / "model.onnx")
    assert model.thresholds is not None
    assert np.isin(model.thresholds, LEVELS).all()
    probabilities, positive = predictions(model, corpus / "validation")
    # With so few videos they are nearly the common threshold, and that has the best F1 of all videos and labels.
    best = max(f1(probabilities >= threshold, positive) for threshold in LEVELS)
    assert f1(probabilities >= model.thresholds, positive) > best - 0.03
    assert np.ptp(np.log(model.thresholds / (1 - model.thresholds))) < 1


def test_they_change_nothing_else_in_the_file(tmp_path: Path):
    path, before = tmp_path / "model.onnx", tmp_path / "before.onnx"
    write_graph(path, [PackedMember(member("mean"), 1.0)], 10**6)
    shutil.copyfile(path, before)
    assert vidfit.load(path).thresholds is None
    levels = np.array([0, 100, 127, 200, 254], np.uint8)
    write_thresholds(path, levels)
    assert is_intact(path, CHECKSUM)
    assert path.stat().st_size == before.stat().st_size
    np.testing.assert_array_equal(vidfit.load(path).thresholds, LEVELS[levels])
    np.testing.assert_array_equal(run(path, arrays(3, 4)), run(before, arrays(3, 4)))
    models = [onnx.load(file) for file in (path, before)]
    assert models[0].graph == models[1].graph
    entries = [{entry.key: entry.value for entry in model.metadata_props} for model in models]
    assert {key for key in entries[0] if entries[0][key] != entries[1][key]} == {"vidfit.thresholds", "vidfit.crc32c"}


def test_an_older_file_has_none(finished: Path, tmp_path: Path):
    def change(model: onnx.ModelProto) -> None:
        (place,) = [i for i, entry in enumerate(model.metadata_props) if entry.key == "vidfit.thresholds"]
        del model.metadata_props[place]

    old = vidfit.load(edited(finished / "model.onnx", tmp_path / "old.onnx", change))
    assert old.thresholds is None


def test_a_higher_precision_gives_fewer_labels(finished: Path, corpus: Path, tmp_path: Path):
    path, given = tmp_path / "model.onnx", []
    trained = load_member(finished / "members" / "lstm" / "quantized.safetensors")
    for precision in (0.5, 0.9):
        write_graph(path, [PackedMember(trained, 1.0)], 10**7)
        set_thresholds(path, None, expand_shards([corpus / "validation"]), precision, False, False, silent)
        model = vidfit.load(path)
        probabilities, positive = predictions(model, corpus / "validation")
        chosen = probabilities >= model.thresholds
        given.append(int(chosen.sum()))
        assert (chosen & positive).sum() >= (precision - 0.05) * chosen.sum()
    assert given[0] > given[1] > 0


def test_labels_that_never_reach_the_precision_are_told(corpus: Path, tmp_path: Path, caplog):
    path = tmp_path / "model.onnx"
    sure = member("mean")  # of everything
    biases = sure.state["head.classifier.biases"]
    assert isinstance(biases, torch.Tensor)
    biases += 50
    write_graph(path, [PackedMember(sure, 1.0)], 10**6)
    with caplog.at_level(logging.WARNING):
        set_thresholds(path, None, expand_shards([corpus / "validation"]), 1.0, False, False, silent)
    assert vidfit.load(path).thresholds == pytest.approx([LEVELS[-1]] * 5)
    assert "at no threshold does the precision of 5 labels reach 1 on the validation videos" in caplog.text


@pytest.mark.parametrize("precision", ["0", "1.5", "high"])
def test_a_wrong_precision_is_refused(recipe_file: Path, precision: str):
    with pytest.raises(vidfit.RecipeError, match=r"pack\.precision: give a number"):
        vidfit.load_recipe(recipe_file, (f"pack.precision={precision}",))


def table(tmp_path: Path, *rows: str, header: str = "label,threshold") -> Path:
    path = tmp_path / "thresholds.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_given_thresholds_go_to_their_labels(tmp_path: Path):
    levels = read_thresholds(table(tmp_path, "b,0.9", '"a, c",0.01', "d,0.5"), ["a, c", "b", "d"])
    np.testing.assert_allclose(LEVELS[levels], [0.01, 0.9, 0.5], rtol=0.05)


def test_labels_of_one_name_keep_the_order_of_their_rows(tmp_path: Path):
    levels = read_thresholds(table(tmp_path, "a,0.1", "b,0.5", "a,0.9"), ["a", "a", "b"])
    np.testing.assert_allclose(LEVELS[levels], [0.1, 0.9, 0.5], rtol=0.05)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["a,0.5"], "has no row for 'b'; give a threshold for every label"),
        ([], "has no row for 'a'"),
        (["a,0.5", "c,0.5"], "line 3: 'c' is not in the vocabulary"),
        (["a,0.5", "b,1"], "line 3: 1 is no probability"),
        (["a,0", "b,0.5"], "line 2: 0 is no probability"),
        (["a,nan", "b,0.5"], "line 2: nan is no probability"),
        (["a,high", "b,0.5"], "line 2: give a label and a number, under label,threshold"),
        (["a", "b,0.5"], "line 2: give a label and a number"),
        (["a,0.5", "b,0.5", "a,0.6"], "line 4: 'a' has a threshold already; remove one of the rows"),
    ],
)
def test_a_wrong_table_of_thresholds_is_refused(tmp_path: Path, rows: list[str], message: str):
    path = table(tmp_path, *rows)
    with pytest.raises(vidfit.DataError, match=f"^{path}.*{message}"):
        read_thresholds(path, ["a", "b"])


def test_what_is_no_table_of_thresholds_is_refused(tmp_path: Path):
    with pytest.raises(vidfit.DataError, match="line 2: give a label and a number, under label,threshold"):
        read_thresholds(table(tmp_path, "a,0.5", header="name,value"), ["a"])
    with pytest.raises(vidfit.DataError, match="there is no such file; give a CSV with label,threshold"):
        read_thresholds(tmp_path / "none.csv", ["a"])
    (tmp_path / "bytes.csv").write_bytes(b"label,threshold\n\xff\xfe,0.5\n")
    with pytest.raises(vidfit.DataError, match="is no CSV file in UTF-8"):
        read_thresholds(tmp_path / "bytes.csv", ["a"])
