"""Packed files in WebAssembly: milliseconds in onnxruntime-web, one thread, beside one native thread.

    npm install --prefix FOLDER onnxruntime-web
    python benchmarks/wasm.py model.onnx --node FOLDER

Each file runs natively, as it is, and as a web model (`vidfit export --to web-model`). Node compiles all WebAssembly
first (`--no-liftoff`), as a browser has after some seconds. Files must have frames of bytes.
"""

import argparse
import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from table import fastest, options, publish

SCRIPT = Path(__file__).with_name("wasm.mjs")


def native(path: Path, batch: int, frames: int) -> tuple[float, np.ndarray]:
    """Milliseconds of the fastest call, and probabilities `[B, C]`."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, settings)
    inputs: dict[str, np.ndarray] = {"num_frames": np.full(batch, frames)}
    for put in session.get_inputs():
        if put.name != "num_frames":
            # The bytes of wasm.mjs.
            place = np.arange(batch * frames * put.shape[2])
            inputs[put.name] = (place * 151 + (place >> 8)).astype(np.uint8).reshape(batch, frames, -1)
    seconds = fastest(lambda: session.run(["probabilities"], inputs), most=200)
    return 1000 * seconds, np.asarray(session.run(["probabilities"], inputs)[0])


def in_node(folder: Path, paths: list[Path], batch: int, frames: int, seconds: float) -> list[dict[str, Any]]:
    """What wasm.mjs tells of each file."""
    numbers = map(str, (batch, frames, seconds))
    command = ["node", "--no-liftoff", SCRIPT, *numbers, *(path.resolve() for path in paths)]
    return json.loads(subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE).stdout)


def rows_of(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    from vidfit.export.web_model import write_web_model

    rows: list[dict[str, Any]] = []
    for path in arguments.models:
        with TemporaryDirectory() as work:
            web = Path(work) / "web.onnx"
            write_web_model(path, web)
            for batch in arguments.batches:
                milliseconds, expected_BC = native(path, batch, arguments.frames)
                as_is, as_web = in_node(arguments.node, [path, web], batch, arguments.frames, arguments.seconds)
                difference = np.abs(np.array(as_web["probabilities"]) - expected_BC.ravel()).max()
                rows.append(
                    {
                        "file": path.name,
                        "batch": batch,
                        "native, ms": milliseconds,
                        "WASM as it is, ms": as_is["fastest"],
                        "WASM web model, ms": as_web["fastest"],
                        "ratio": as_web["fastest"] / milliseconds,
                        "largest difference": float(difference),
                    }
                )
    return rows


def main() -> None:
    parser = options(__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("models", type=Path, nargs="+", help="packed files")
    parser.add_argument("--node", type=Path, default=Path(), help="folder in which npm installed onnxruntime-web")
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--frames", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=5.0, help="of warm-up, and of measuring, for each file")
    arguments = parser.parse_args()
    publish(f"{arguments.frames} frames, one thread", rows_of(arguments), arguments.json)


if __name__ == "__main__":
    main()
