"""A folder that labels videos in a browser: the page in `web/`, a model, and onnxruntime-web.

The folder needs no program on the server. `docs/guide/web.md` shows how to use it.
"""

import base64
import hashlib
import json
import shutil
from collections.abc import Mapping
from importlib.resources import as_file
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any, Final

import onnx

from vidfit.errors import ModelFileError, VidfitError
from vidfit.export.byte_products import use_byte_products
from vidfit.export.description import describe
from vidfit.export.metadata import PackedInfo
from vidfit.export.packed_file import read_packed_info
from vidfit.export.parts import split
from vidfit.files import replacing_folder

# A folder with this file is a page, and may be replaced.
DESCRIPTION: Final = "model.json"
# Below the user's own copy of onnxruntime-web, and of the page.
_RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_RUNTIME_FOLDER = "runtime"
_SERVICE_WORKER = "service-worker.js"


def write_web_page(source: Path, folder: Path, runtime: Path, window: float, hop: float) -> None:
    """Write a packed file as a web page.

    Arguments:
        source: a packed `.onnx` file that carries its extractor.
        folder: the page's folder. It appears when complete, and replaces an older page.
        runtime: the folder of the npm package onnxruntime-web, or its `dist`.
        window, hop: seconds of the windows that give a timeline where the model has no frame probabilities.

    Raises:
        ModelFileError: `source` is no such file.
        VidfitError: `runtime` is no such folder.
        OutputError: `folder` holds something else, or cannot be written.
    """
    info = read_packed_info(source)
    if not info.carried:
        raise ModelFileError(f"{source}: does not carry its extractor; pack it with --with-extractor")
    parts = split(source).parts
    model = onnx.load_from_string(parts["model"])
    use_byte_products(model)
    parts["model"] = model.SerializeToString()
    write_page(parts, _describe(source, info, window, hop), folder, find_runtime(runtime))


def _describe(source: Path, info: PackedInfo, window: float, hop: float) -> dict[str, Any]:
    """What `model.json` says of a model, but for the checksums of its files."""
    told = describe(source, info)
    # In steps, rounded as `Timeline` rounds them.
    steps = {name: max(1, round(seconds * told["rate"])) for name, seconds in (("window", window), ("hop", hop))}
    name = source.stem.encode("utf-8", "backslashreplace").decode()  # bytes that are not UTF-8 are escaped
    return {"name": name, **told, **steps}


def find_runtime(folder: Path) -> dict[str, Path]:
    """The files of onnxruntime-web that the page needs, by name.

    Raises:
        VidfitError: one is missing.
    """
    found = {name: next((path for path in (folder / "dist" / name, folder / name) if path.is_file()), None)
             for name in _RUNTIME}  # fmt: skip
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise VidfitError(
            f"--bundle {folder}: holds no {missing[0]}; run `npm install onnxruntime-web` and give "
            "node_modules/onnxruntime-web"
        )
    return {name: path for name, path in found.items() if path is not None}


def write_page(
    parts: Mapping[str, bytes], description: Mapping[str, Any], folder: Path, runtime: Mapping[str, Path]
) -> None:
    """Write the folder.

    Arguments:
        parts: the parts of a model, ONNX files (see `parts.py`).
        description: what `model.json` is to say.
        folder: as in `write_web_page`.
        runtime: the files of onnxruntime-web by name.

    Raises:
        OutputError: `folder` holds something else, or cannot be written.
    """
    with replacing_folder(folder, DESCRIPTION) as partial:
        with as_file(package_files("vidfit.export") / "web") as assets:
            for asset in assets.iterdir():
                shutil.copyfile(asset, partial / asset.name)
        (partial / _RUNTIME_FOLDER).mkdir()
        for name, path in runtime.items():
            shutil.copyfile(path, partial / _RUNTIME_FOLDER / name)
        for name, content in parts.items():
            (partial / f"{name}.onnx").write_bytes(content)
        checked = [*(f"{name}.onnx" for name in parts), f"{_RUNTIME_FOLDER}/{_RUNTIME[-1]}"]
        integrity = {name: _integrity(partial / name) for name in checked}
        text = json.dumps({**description, "integrity": integrity}, indent=1, ensure_ascii=False)
        (partial / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
        _complete_service_worker(partial)


def _complete_service_worker(folder: Path) -> None:
    """Tell the service worker which files to keep, and which version of them."""
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    files.remove(_SERVICE_WORKER)
    version = hashlib.sha256("".join(_integrity(folder / name) for name in files).encode()).hexdigest()[:16]
    script = folder / _SERVICE_WORKER
    text = script.read_text(encoding="utf-8")
    head = f"const VERSION = {json.dumps(version)};\nconst FILES = {json.dumps(['./', *files])};\n\n"
    script.write_text(head + text, encoding="utf-8")


def _integrity(path: Path) -> str:
    """A checksum as browsers take it (W3C Subresource Integrity)."""
    with path.open("rb") as file:
        return "sha384-" + base64.b64encode(hashlib.file_digest(file, "sha384").digest()).decode()
