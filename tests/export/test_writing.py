"""Errors of `write_graph`: each is one line and leaves no partial file."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.protobuf.message import EncodeError

from tests.export.members import RGB, member
from vidfit.errors import BudgetError, ModelFileError, OutputError
from vidfit.export import graph
from vidfit.export.graph import PackedMember, write_graph
from vidfit.export.graph_writer import GraphWriter
from vidfit.features.spec import FeatureSpec, Modality


@pytest.fixture
def one() -> list[PackedMember]:
    return [PackedMember(member("mean", RGB), 1.0)]


def test_a_file_above_the_budget_is_not_left(one: list[PackedMember], tmp_path: Path):
    path = tmp_path / "model.onnx"
    write_graph(path, one, 10_000_000)
    size = path.stat().st_size
    path.unlink()
    with pytest.raises(BudgetError, match=f"the finished file takes {size:,} bytes, 1 over the budget of {size - 1:,}"):
        write_graph(path, one, size - 1)
    assert list(tmp_path.iterdir()) == []
    write_graph(path, one, size)
    assert path.stat().st_size == size


def test_weights_that_cannot_fit_are_told_apart_from_the_file(tmp_path: Path):
    with pytest.raises(BudgetError, match=r"the weights alone take .* over the budget of 1,000"):
        write_graph(tmp_path / "model.onnx", [PackedMember(member("netvlad"), 1.0)], 1000)


def test_weights_beyond_the_format_and_the_budget_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(graph, "PROTOBUF_LIMIT", 1000)
    with pytest.raises(BudgetError, match=r"the weights alone take [\d,]+ bytes; an ONNX file holds at most 2 GiB"):
        write_graph(tmp_path / "model.onnx", [PackedMember(member("netvlad"), 1.0)], 10_000_000)


@pytest.mark.parametrize("error", [EncodeError("Failed to serialize proto"), ValueError("exceeds 2GB")])
def test_what_protobuf_cannot_write_is_one_line(
    error: Exception, one: list[PackedMember], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(self: GraphWriter):
        raise error

    monkeypatch.setattr(GraphWriter, "serialise", fail)
    with pytest.raises(BudgetError, match="an ONNX file holds at most 2 GiB"):
        write_graph(tmp_path / "model.onnx", one, 10_000_000)
    assert list(tmp_path.iterdir()) == []


def test_members_of_other_data_are_refused(tmp_path: Path):
    other = FeatureSpec(modalities=(Modality(name="audio", size=8),))
    members = [PackedMember(member("mean"), 1.0), PackedMember(member("mean", other), 1.0)]
    with pytest.raises(ModelFileError, match="trained on other features or labels"):
        write_graph(tmp_path / "model.onnx", members, 10_000_000)


def test_frame_probabilities_need_a_frame_classifier(tmp_path: Path):
    with pytest.raises(ModelFileError, match="none of the packed members is a frame-classifier"):
        write_graph(tmp_path / "m.onnx", [PackedMember(member("mean"), 1.0)], 10_000_000, frame_probabilities=True)
    assert not list(tmp_path.iterdir())


@contextmanager
def small_files() -> Iterator[None]:
    """Let this process write at most 1,000 bytes to a file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_leaves_the_old_file(one: list[PackedMember], tmp_path: Path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"what stood here")
    with small_files(), pytest.raises(OutputError) as raised:
        write_graph(path, one, 10_000_000)
    told = f"{path}: cannot be written (File too large); raise the limit (ulimit -f) or choose another place"
    assert str(raised.value) == told
    assert path.read_bytes() == b"what stood here"
    assert list(tmp_path.iterdir()) == [path]
