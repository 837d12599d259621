"""Soft labels: what is written, read back and refused; the mixed loss against the reference vectors."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.corpus import LABELS, VIDEOS
from vidfit.errors import DataError, OutputError
from vidfit.features.batch import Batch
from vidfit.features.example import write_shard
from vidfit.features.loader import Batches
from vidfit.features.shards import expand_shards, infer_spec, read_videos
from vidfit.features.spec import Video
from vidfit.preflight import check_ids_of_shards
from vidfit.training.distillation import DistillConfig, SoftTargets
from vidfit.training.losses import cross_entropy
from vidfit.training.soft_labels import SoftLabels, check_names, label_shards

CLASSES = 300
NAMES = [f"label {index}" for index in range(CLASSES)]


def says(batch: Batch) -> np.ndarray:
    """A teacher whose probabilities follow from the video's id."""
    rows = [np.random.default_rng(list(id.encode())).random(CLASSES) for id in batch.ids]
    return np.array(rows, np.float32)


def label(
    corpus: Path, folder: Path, top_k: int = 10, teachers=None, which: str = "train", overwrite: bool = False
) -> int:
    """Returns how many shards were labelled."""
    folder.mkdir(exist_ok=True)
    shards = expand_shards([corpus / which])
    spec = infer_spec(shards)
    teachers = teachers or {shards[0]: says}  # any file will do for the teacher's
    labelled, _ = label_shards(
        shards, folder, teachers, NAMES, top_k, lambda shard: Batches([shard], spec, None, 7), overwrite
    )
    return labelled


def videos(corpus: Path, which: str = "train") -> Batch:
    shards = expand_shards([corpus / which])
    return next(iter(Batches(shards, infer_spec(shards), None, 1000)))


def test_the_top_k_come_back_and_the_rest_is_zero(corpus: Path, tmp_path: Path):
    assert label(corpus, tmp_path / "soft") == 2
    batch = videos(corpus)
    found = SoftLabels(tmp_path / "soft", NAMES).of(batch.ids).numpy()
    expected = says(batch)
    expected[expected < np.sort(expected, axis=1)[:, -10, None]] = 0
    np.testing.assert_allclose(found, expected, rtol=2**-11)
    assert ((found > 0).sum(1) == 10).all()


def test_all_classes_where_there_are_fewer_than_k(corpus: Path, tmp_path: Path):
    label(corpus, tmp_path / "soft", top_k=1000)
    batch = videos(corpus)
    found = SoftLabels(tmp_path / "soft", NAMES).of(batch.ids).numpy()
    np.testing.assert_allclose(found, says(batch), rtol=2**-11, atol=1e-7)


def test_several_teachers_are_averaged(corpus: Path, tmp_path: Path):
    batch = videos(corpus)
    shards = expand_shards([corpus / "train"])
    label(corpus, tmp_path / "soft", 300, {shards[0]: says, shards[1]: lambda batch: says(batch) ** 2})
    found = SoftLabels(tmp_path / "soft", NAMES).of(batch.ids).numpy()
    np.testing.assert_allclose(found, (says(batch) + says(batch) ** 2) / 2, rtol=2**-10, atol=1e-7)


def test_the_file_is_what_the_docstring_says(corpus: Path, tmp_path: Path):
    label(corpus, tmp_path / "soft")
    table = pq.read_table(tmp_path / "soft" / "train0.tfrecord.parquet")
    assert table.num_rows == VIDEOS["train"] / 2
    assert {field.name: str(field.type) for field in table.schema} == {
        "id": "string",
        "labels": "list<element: uint16>",
        "probabilities": "list<element: halffloat>",
    }
    probabilities = np.array(table["probabilities"].to_pylist(), float)
    assert (np.diff(probabilities, axis=1) <= 0).all()


def test_a_second_call_goes_on_where_the_first_was_stopped(corpus: Path, tmp_path: Path):
    label(corpus, tmp_path / "soft")
    files = sorted((tmp_path / "soft").iterdir())
    before = [file.read_bytes() for file in files]
    files[1].unlink()
    assert label(corpus, tmp_path / "soft") == 1
    assert label(corpus, tmp_path / "soft") == 0
    assert [file.read_bytes() for file in sorted((tmp_path / "soft").iterdir())] == before


def test_overwriting_leaves_what_is_right(corpus: Path, tmp_path: Path):
    label(corpus, tmp_path / "soft")
    assert label(corpus, tmp_path / "soft", overwrite=True) == 0


def test_one_foreign_file_is_told_before_any_labelling(corpus: Path, tmp_path: Path):
    label(corpus, tmp_path / "soft", top_k=5)
    (tmp_path / "soft" / "train0.tfrecord.parquet").unlink()
    with pytest.raises(OutputError, match=r"train1\.tfrecord\.parquet: was made"):
        label(corpus, tmp_path / "soft")
    assert not (tmp_path / "soft" / "train0.tfrecord.parquet").exists()


def test_a_shard_without_records_has_no_soft_labels(tmp_path: Path, corpus: Path):
    empty = tmp_path / "empty.tfrecord"
    empty.write_bytes(b"")
    shards = [empty, *expand_shards([corpus / "train"])]
    spec = infer_spec(shards[1:])
    (tmp_path / "soft").mkdir()
    label_shards(shards, tmp_path / "soft", {empty: says}, NAMES, 10, lambda shard: Batches([shard], spec, None, 7))
    assert pq.read_table(tmp_path / "soft" / "empty.tfrecord.parquet").num_rows == 0
    assert not SoftLabels(tmp_path / "soft", NAMES).missing(videos(corpus).ids)
    (tmp_path / "soft" / "train0.tfrecord.parquet").unlink()
    (tmp_path / "soft" / "train1.tfrecord.parquet").unlink()
    assert SoftLabels(tmp_path / "soft", NAMES).missing(["a"]) == ["a"]


def test_another_teachers_labels_are_not_overwritten_unasked(corpus: Path, tmp_path: Path):
    label(corpus, tmp_path / "soft")
    other = {expand_shards([corpus / "eval"])[0]: says}
    for top_k, teachers in ((10, other), (5, None)):
        with pytest.raises(OutputError, match=r"train0\.tfrecord\.parquet: was made .* add --overwrite"):
            label(corpus, tmp_path / "soft", top_k, teachers)
        assert label(corpus, tmp_path / "soft", top_k, teachers, overwrite=True) == 2


def test_a_stopped_teacher_leaves_no_half_file(corpus: Path, tmp_path: Path):
    shards = expand_shards([corpus / "train"])

    def stops(batch: Batch) -> np.ndarray:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(corpus, tmp_path / "soft", teachers={shards[0]: stops})
    assert not list((tmp_path / "soft").iterdir())


def test_ids_without_soft_labels(corpus: Path, tmp_path: Path):
    label(corpus, tmp_path / "soft")
    soft_labels = SoftLabels(tmp_path / "soft", NAMES)
    assert soft_labels.missing(["0-1", "9-9", "0-2", "zzz", ""]) == ["9-9", "zzz", ""]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:200]), "not a readable file of soft labels"),
        (lambda file: file.write_bytes(b""), "not a readable file of soft labels"),
        (lambda file: pq.write_table(pq.read_table(file).replace_schema_metadata(), file), "metadata lack b'vidfit'"),
        (lambda file: pq.write_table(pq.read_table(file).drop(["labels"]), file), "not a readable file of soft labels"),
        (
            lambda file: pq.write_table(
                (table := pq.read_table(file)).set_column(1, "labels", [[[-1] * 10] * len(table)]), file
            ),
            "out of range",
        ),
        (
            lambda file: pq.write_table(
                (table := pq.read_table(file)).set_column(1, "labels", [[[0.5] * 10] * len(table)]), file
            ),
            "not all 10 numbers",
        ),
        (
            lambda file: pq.write_table(
                (table := pq.read_table(file)).set_column(1, "labels", [[[1] * 9, [1] * 11] * (len(table) // 2)]), file
            ),
            "not all 10 numbers",
        ),
        (
            lambda file: pq.write_table(
                (table := pq.read_table(file)).set_column(0, "id", [[None] * len(table)]), file
            ),
            "not a readable file",
        ),
        (
            lambda file: pq.write_table(
                (table := pq.read_table(file)).set_column(2, "probabilities", [[[2.0] * 10] * len(table)]), file
            ),
            "out of range",
        ),
    ],
    ids=["cut", "empty", "foreign", "column", "negative", "fractions", "ragged", "nobody", "probability"],
)
def test_damaged_files(corpus: Path, tmp_path: Path, damage, message: str):
    label(corpus, tmp_path / "soft")
    damage(tmp_path / "soft" / "train1.tfrecord.parquet")
    with pytest.raises(DataError, match=rf"train1\.tfrecord\.parquet: .*{message}"):
        SoftLabels(tmp_path / "soft", NAMES)


def test_soft_labels_of_other_classes_or_widths(corpus: Path, tmp_path: Path):
    label(corpus, tmp_path / "soft")
    for other in (LABELS, NAMES[::-1]):
        with pytest.raises(DataError, match=r"its teachers know other labels than this vocabulary"):
            SoftLabels(tmp_path / "soft", other)
    label(corpus, tmp_path / "soft", top_k=3, which="eval")
    with pytest.raises(DataError, match=r"hold \[3, 10\] probabilities a video"):
        SoftLabels(tmp_path / "soft", NAMES)
    with pytest.raises(DataError, match="holds no soft labels"):
        SoftLabels(tmp_path / "none", NAMES)


def test_two_shards_of_one_name_are_refused():
    with pytest.raises(DataError, match=r"2 shards are called a\.tfrecord"):
        check_names([Path("x/a.tfrecord"), Path("y/a.tfrecord"), Path("b.tfrecord")])


def test_clips_that_share_an_id_are_refused(corpus: Path, tmp_path: Path):
    shards = [tmp_path / "a.tfrecord", tmp_path / "b.tfrecord"]
    video = next(iter(read_videos(expand_shards([corpus / "train"])[0])))
    assert isinstance(video, Video)
    first, second = ([replace(video, id=id) for id in ids] for ids in (("é", "x", "x"), ("y", "é")))
    for folder, contents, message in (
        ("one", [first], r"a\.tfrecord.*: has two videos with the id 'x'; give each video its own id"),
        ("two", [first[:2], second], r"a\.tfrecord.* and .*b\.tfrecord.*: both have a video with the id 'é'; give"),
        ("both", [first, second], r"\(1 more videos share ids\)"),
    ):
        used = shards[: len(contents)]
        for shard, videos in zip(used, contents, strict=True):
            write_shard(shard, videos)
        with pytest.raises(DataError, match=message):
            check_ids_of_shards(used)
        (tmp_path / folder).mkdir()
        label_shards(
            used,
            tmp_path / folder,
            {used[0]: says},
            NAMES,
            3,
            lambda shard: Batches([shard], infer_spec([shard]), None, 7),
        )
        with pytest.raises(DataError, match=message):
            SoftLabels(tmp_path / folder, NAMES)


@pytest.mark.parametrize("name", ["lr:0.01", "s3:", "caf\udce9"])
def test_folders_whose_names_are_no_urls(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(tmp_path)
    assert label(corpus, Path(name)) == 2
    assert label(corpus, Path(name)) == 0
    assert not SoftLabels(Path(name), NAMES).missing(videos(corpus).ids)


class Fixed(SoftLabels):
    """Soft labels that are given."""

    def __init__(self, soft_BC: torch.Tensor):
        self._soft_BC = soft_BC

    def of(self, ids) -> torch.Tensor:
        return self._soft_BC


def test_golden_mixed_loss(golden_dir: Path):
    vectors = np.load(golden_dir / "losses.npz")
    mixed = [key for key in vectors if "/MixedCrossEntropyLoss_" in key and not key.endswith("_grad")]
    assert mixed
    for key in mixed:
        case, weight = key.split("/")[0], float(key.rpartition("_")[2])
        labels_BC = torch.from_numpy(vectors[f"{case}/labels"]).float()
        targets = SoftTargets(Fixed(torch.from_numpy(vectors[f"{case}/teacher"]).float()), weight)
        probabilities_BC = torch.from_numpy(vectors[f"{case}/predictions"]).requires_grad_()
        loss = cross_entropy(probabilities_BC, targets.mixed([], labels_BC))
        assert loss.item() == pytest.approx(float(vectors[key]), rel=1e-5)
        loss.backward()
        assert probabilities_BC.grad is not None
        np.testing.assert_allclose(probabilities_BC.grad, vectors[f"{key}_grad"], rtol=1e-5, atol=1e-5)


@settings(max_examples=30)
@given(weight=st.floats(0.01, 1), seed=st.integers(0, 2**32 - 1))
def test_the_mixture_of_targets_is_the_mixture_of_losses(weight: float, seed: int):
    random = np.random.default_rng(seed)
    p, teacher, labels = random.random((3, 4, 6))
    labels = (labels < 0.3).astype(float)

    def entropy(targets: np.ndarray) -> float:
        losses = -(targets * np.log(p + 1e-5) + (1 - targets) * np.log(1 - p + 1e-5))
        return losses.sum(1).mean()

    targets = SoftTargets(Fixed(torch.from_numpy(teacher)), weight).mixed([], torch.from_numpy(labels))
    mixed = cross_entropy(torch.from_numpy(p), targets).item()
    assert mixed == pytest.approx(weight * entropy(teacher) + (1 - weight) * entropy(labels))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "either generations or soft_labels"),
        ({"generations": 1, "soft_labels": "x"}, "either generations or soft_labels"),
        ({"soft_labels": "x", "folds": 3}, "belong to generations"),
        ({"generations": 1, "folds": 1}, "folds"),
        ({"generations": 1, "weight": 1.5}, "weight"),
        ({"generations": 1, "share": 0.5}, "share"),
        ({"generations": 1, "teachers": "others"}, "teachers"),
        ({"generations": 1, "teachers": []}, "at least 1"),
        ({"generations": 1, "teachers": ["a", "a"]}, "names one twice"),
        ({"soft_labels": ""}, "at least 1"),
        ({"soft_labels": "x", "top_k": 3}, "top_k belong to generations"),
    ],
)
def test_what_the_recipe_may_not_ask(config: dict, message: str):
    with pytest.raises(ValidationError, match=message):
        DistillConfig.model_validate(config)
