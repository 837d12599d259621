"""A packed file for ONNX Runtime on phones: its compact format, and the operators that a small build of it needs.

Source: https://onnxruntime.ai/docs/reference/operators/reduced-operator-config-file.html
"""

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from vidfit.errors import ModelFileError
from vidfit.export.metadata import METADATA, parse_metadata, read_header
from vidfit.files import replacing_folder

MODEL: Final = "model.ort"
OPERATORS: Final = "operators.config"


def write_for_phones(source: Path, folder: Path) -> None:
    """Write `model.ort`, `operators.config` and `vidfit.json`, which has the label names and inputs.

    Arguments:
        source: the packed `.onnx` file.
        folder: appears when complete, and replaces an older one.

    Raises:
        ModelFileError: `source` is not a packed file, or ONNX Runtime cannot convert it.
        OutputError: `folder` holds something else, or cannot be written.
    """
    info = parse_metadata(source, read_header(source).metadata)
    with TemporaryDirectory() as temporary, replacing_folder(folder, MODEL) as partial:
        made = Path(temporary)
        shutil.copyfile(source, made / "model.onnx")
        # ONNX Runtime's own converter, as a process: it prints, and sets up Python's log.
        command = [
            sys.executable,
            "-m",
            "onnxruntime.tools.convert_onnx_models_to_ort",
            "--optimization_style",
            "Fixed",
        ]
        done = subprocess.run([*command, "--target_platform", "arm", "model.onnx"], cwd=made, capture_output=True)
        if done.returncode or not (made / MODEL).exists():
            said = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise ModelFileError(f"{source}: ONNX Runtime cannot convert it ({' '.join(said)}); pack it again")
        shutil.copyfile(made / MODEL, partial / MODEL)
        (partial / OPERATORS).write_text(_without_comments(made / "model.required_operators.config"), encoding="utf-8")
        (partial / METADATA).write_text(info.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _without_comments(path: Path) -> str:
    """They name temporary files."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("#"))
