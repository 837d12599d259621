"""The folder of the web page: which files it has, and what is refused."""

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.export.web_pages import DESCRIPTION, parts
from vidfit.cli import app
from vidfit.errors import OutputError, VidfitError
from vidfit.export.web_page import find_runtime, write_page

RUNTIME = ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"]


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """What stands for onnxruntime-web."""
    folder = tmp_path / "node_modules" / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    for name in RUNTIME:
        (folder / "dist" / name).write_text(name)
    return folder


def page(tmp_path: Path, runtime: Path, name: str = "page") -> Path:
    write_page(parts(), DESCRIPTION, tmp_path / name, find_runtime(runtime))
    return tmp_path / name


def service_worker(folder: Path) -> tuple[str, list[str]]:
    """Its version and its files."""
    text = (folder / "service-worker.js").read_text()
    version, files = re.match(r"const VERSION = (.+);\nconst FILES = (.+);\n", text).groups()  # type: ignore[union-attr]
    return json.loads(version), json.loads(files)


def test_the_folder_is_complete_and_its_checksums_hold(tmp_path: Path, runtime: Path):
    folder = page(tmp_path, runtime)
    description = json.loads((folder / "model.json").read_text())
    assert description["vocabulary"] == list(DESCRIPTION["vocabulary"])
    names = ["model.onnx", "pictures.onnx", "runtime/ort-wasm-simd-threaded.wasm", "sounds.onnx"]
    assert sorted(description["integrity"]) == names
    for name, integrity in description["integrity"].items():
        digest = hashlib.sha384((folder / name).read_bytes()).digest()
        assert integrity == "sha384-" + base64.b64encode(digest).decode()


def test_the_service_worker_knows_every_file(tmp_path: Path, runtime: Path):
    folder = page(tmp_path, runtime)
    _, files = service_worker(folder)
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(files) == {"./", *there - {"service-worker.js"}}


def test_another_model_is_another_version(tmp_path: Path, runtime: Path):
    one, same = page(tmp_path, runtime), page(tmp_path, runtime, "same")
    assert service_worker(one) == service_worker(same)
    write_page({**parts(), "sounds": b"other"}, DESCRIPTION, same, find_runtime(runtime))
    assert service_worker(one)[0] != service_worker(same)[0]


def test_every_file_that_a_page_names_is_there(tmp_path: Path, runtime: Path):
    folder = page(tmp_path, runtime)
    for path in [*folder.glob("*.js"), folder / "index.html"]:
        text = path.read_text()
        for name in re.findall(r"""(?:from|import\(|src=|href=)\s*"(?:\./)?([\w./-]+\.(?:m?js|css))\"""", text):
            assert (folder / name).is_file(), f"{path.name}: {name}"


def test_the_page_names_no_host(tmp_path: Path, runtime: Path):
    folder = page(tmp_path, runtime)
    for path in [*folder.glob("*.js"), folder / "index.html", folder / "style.css", folder / "model.json"]:
        assert not re.search(r"https?://|//[a-z]+\.", path.read_text()), path.name


def test_a_folder_that_is_no_page_is_not_replaced(tmp_path: Path, runtime: Path):
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"holds no model\.json"):
        page(tmp_path, runtime)
    assert (tmp_path / "page" / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--to", "web"], "--to web needs --bundle"),
        (["--to", "tensorflow", "--bundle", "x"], "--bundle is for --to web"),
    ],
)
def test_bundle_is_for_the_web_alone(arguments: list[str], told: str, tmp_path: Path):
    (tmp_path / "model.onnx").touch()
    result = CliRunner().invoke(app, ["export", str(tmp_path / "model.onnx"), str(tmp_path / "page"), *arguments])
    assert isinstance(result.exception, VidfitError)
    assert told in str(result.exception)
    assert not (tmp_path / "page").exists()


def test_a_runtime_that_lacks_a_file_is_named(tmp_path: Path, runtime: Path):
    (runtime / "dist" / RUNTIME[2]).unlink()
    with pytest.raises(VidfitError, match=r"holds no ort-wasm-simd-threaded\.wasm; run `npm install"):
        find_runtime(runtime)
