"""A packed file for ONNX Runtime on phones: its compact format, and the operators that a small build of it needs.

Source: https://onnxruntime.ai/docs/reference/operators/reduced-operator-config-file.html
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from vidfit.errors import ModelFileError
from vidfit.export.description import describe
from vidfit.export.metadata import METADATA
from vidfit.export.packed_file import read_packed_info
from vidfit.export.parts import split
from vidfit.files import replacing_folder

MODEL: Final = "model.ort"
OPERATORS: Final = "operators.config"


def write_for_phones(source: Path, folder: Path) -> None:
    """Write `model.ort`, `operators.config`, and `vidfit.json` with labels and settings.

    A file that carries its extractor becomes the parts `pictures`, `sounds` and `model` (see `parts.py`), because a
    phone has no memory for all pictures at once. Each part is also written as `.onnx`. That is smaller: `.ort` holds
    weights expanded.

    Arguments:
        source: the packed `.onnx` file.
        folder: appears when complete, and replaces an older one.

    Raises:
        ModelFileError: `source` is not a packed file, or ONNX Runtime cannot convert it.
        OutputError: `folder` holds something else, or cannot be written.
    """
    info = read_packed_info(source)
    description = json.dumps(describe(source, info), indent=1, ensure_ascii=False)
    parts = split(source).parts if info.carried else {"model": source.read_bytes()}
    with replacing_folder(folder, MODEL) as partial:
        _convert(source, parts, partial)
        if info.carried:
            for name, content in parts.items():
                (partial / f"{name}.onnx").write_bytes(content)
        (partial / METADATA).write_text(description + "\n", encoding="utf-8")


def _convert(source: Path, parts: Mapping[str, bytes], folder: Path) -> None:
    """Write each part as `.ort`, and the operators of all."""
    with TemporaryDirectory() as temporary:
        made = Path(temporary)
        for name, content in parts.items():
            (made / f"{name}.onnx").write_bytes(content)
        # ONNX Runtime's own converter, as a process: it prints, and sets up Python's log.
        command = [sys.executable, "-m", "onnxruntime.tools.convert_onnx_models_to_ort"]
        options = ["--optimization_style", "Fixed", "--target_platform", "arm"]
        done = subprocess.run([*command, *options, "."], cwd=made, capture_output=True)
        if done.returncode or not all((made / f"{name}.ort").exists() for name in parts):
            said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise ModelFileError(f"{source}: ONNX Runtime cannot convert it ({' '.join(said)}); pack it again")
        for name in parts:
            shutil.copyfile(made / f"{name}.ort", folder / f"{name}.ort")
        # Comments name temporary files.
        lines = (made / "required_operators.config").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = "".join(line for line in lines if not line.startswith("#"))
    (folder / OPERATORS).write_text(kept, encoding="utf-8")
