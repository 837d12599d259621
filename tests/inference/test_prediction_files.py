"""Prediction files read back by independent readers, and what is left behind when writing fails."""

import csv
import json
from collections.abc import Iterator

import numpy as np
import pyarrow.parquet as pq
import pytest

from vidfit.errors import DataError, OutputError, VidfitError
from vidfit.inference.prediction_files import merge_predictions, write_predictions

VOCABULARY = ("Cat, small", "Dog", "Ärger", '"Quoted"', "Sea")
SUFFIXES = [".csv", ".parquet", ".jsonl"]


def random_rows(videos: int, classes: int = 5, seed: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    for i in range(videos):
        yield f"video{i}", rng.random(classes, dtype=np.float32) * np.float32(10.0 ** rng.integers(-6, 1))


def read_back(path) -> list[tuple[str, list[int], list[float]]]:
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            header, *lines = csv.reader(file)
        assert header == ["VideoId", "LabelConfidencePairs"]
        pairs = [(id, text.split(" ")) for id, text in lines]
        return [(id, [int(i) for i in parts[0::2]], [float(p) for p in parts[1::2]]) for id, parts in pairs]
    if path.suffix == ".jsonl":
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    else:
        records = pq.read_table(path).to_pylist()
    for record in records:
        assert list(record) == ["id", "labels", "indices", "probabilities"]
        assert record["labels"] == [VOCABULARY[index] for index in record["indices"]]
    return [(record["id"], record["indices"], record["probabilities"]) for record in records]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("videos", [0, 1, 600])
def test_every_video_comes_back_with_its_best_classes(tmp_path, suffix, videos):
    path = tmp_path / f"out{suffix}"
    assert write_predictions(path, random_rows(videos), VOCABULARY, top_k=3) == videos
    back = read_back(path)
    assert [id for id, _, _ in back] == [f"video{i}" for i in range(videos)]
    for (_, probabilities), (_, indices, values) in zip(random_rows(videos), back, strict=True):
        assert indices == np.argsort(-probabilities)[:3].tolist()
        # Exactly the same float32, though the text holds no more digits than that takes.
        assert np.array(values, np.float32).tolist() == probabilities[indices].tolist()


def test_kaggle_csv_text(tmp_path):
    path = tmp_path / "out.csv"
    rows = [("a-_1", np.array([0.1, 0.95, 1e-7, 0, 0.5], np.float32)), ("b,2", np.array([1, 0, 0, 0, 0], np.float32))]
    write_predictions(path, rows, VOCABULARY, top_k=3)
    assert path.read_bytes() == b'VideoId,LabelConfidencePairs\na-_1,1 0.95 4 0.5 0 0.1\n"b,2",0 1.0 1 0.0 2 0.0\n'


def test_json_line_text(tmp_path):
    path = tmp_path / "out.jsonl"
    write_predictions(path, [("é", np.array([0.1, 0, 0.7, 0, 0], np.float32))], VOCABULARY, top_k=2)
    line = '{"id": "é", "labels": ["Ärger", "Cat, small"], "indices": [2, 0], "probabilities": [0.7, 0.1]}\n'
    assert path.read_text(encoding="utf-8") == line


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_top_k_beyond_the_vocabulary_writes_every_class(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    write_predictions(path, random_rows(2), VOCABULARY, top_k=20)
    assert [sorted(indices) for _, indices, _ in read_back(path)] == [[0, 1, 2, 3, 4]] * 2


@pytest.mark.parametrize("name", ["out.txt", "out"])
def test_an_unknown_suffix_names_the_choices(tmp_path, name):
    with pytest.raises(OutputError, match=r"\.csv, \.parquet, \.jsonl"):
        write_predictions(tmp_path / name, random_rows(1), VOCABULARY)


def test_a_file_is_replaced_only_when_asked(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("mine")
    drawn = []
    rows = (drawn.append(row) or row for row in random_rows(1))
    with pytest.raises(OutputError, match=r"out\.csv: exists already"):
        write_predictions(path, rows, VOCABULARY)
    assert path.read_text() == "mine"
    assert not drawn
    write_predictions(path, rows, VOCABULARY, overwrite=True)
    assert path.read_text().startswith("VideoId")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("before", [None, "mine"])
def test_a_failure_half_way_leaves_what_was_there(tmp_path, suffix, before):
    path = tmp_path / f"out{suffix}"
    if before is not None:
        path.write_text(before)

    def rows():
        yield from random_rows(1000)
        raise DataError("shard-3, record 7: is cut short")

    with pytest.raises(DataError, match="shard-3, record 7"):
        write_predictions(path, rows(), VOCABULARY, overwrite=True)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == ({path.name: before} if before else {})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_merged_parts_are_what_is_written_at_once(tmp_path, suffix):
    rows = list(random_rows(700))
    parts = [tmp_path / f"{number}.parquet" for number in range(4)]
    for part, (start, stop) in zip(parts, [(0, 300), (300, 300), (300, 301), (301, 700)], strict=True):
        write_predictions(part, rows[start:stop], VOCABULARY, top_k=3)
    write_predictions(tmp_path / f"once{suffix}", rows, VOCABULARY, top_k=3)
    assert merge_predictions(tmp_path / f"merged{suffix}", parts, VOCABULARY) == 700
    assert read_back(tmp_path / f"merged{suffix}") == read_back(tmp_path / f"once{suffix}")
    with pytest.raises(OutputError, match="exists already"):
        merge_predictions(tmp_path / f"merged{suffix}", parts, VOCABULARY)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_predictions_of_nan_are_not_written(tmp_path, suffix):
    with pytest.raises(VidfitError, match="NaN"):
        write_predictions(tmp_path / f"out{suffix}", [("a", np.full(5, np.nan, np.float32))], VOCABULARY)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_are_drawn_while_others_are_on_disk(tmp_path, suffix):
    """Rows stream: of 2,000 videos fewer than half are ever in memory together."""
    alive, most_alive = set(), 0

    class Row(np.ndarray):
        def __del__(self):
            alive.discard(id(self))

    def rows():
        nonlocal most_alive
        for name, probabilities in random_rows(2000):
            row = probabilities.view(Row)
            alive.add(id(row))
            most_alive = max(most_alive, len(alive))
            yield name, row

    write_predictions(tmp_path / f"out{suffix}", rows(), VOCABULARY)
    assert most_alive < 1000
