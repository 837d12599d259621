"""OpenVINO beside vidfit: a family's float file as OpenVINO runs it, and with weights that NNCF has compressed.

`runtime.py` measures these forms. They need `pip install 'vidfit[bench]'`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# NNCF's name of each form's weights. None leaves them as floats.
WEIGHTS = {"OpenVINO": None, "OpenVINO int8": "INT8_ASYM", "OpenVINO int4": "INT4_ASYM"}
# Inputs that share a scale in 4 bits. Fewer where the number of inputs is no multiple.
GROUP = 64


def check_installed() -> None:
    """Exit where OpenVINO or NNCF is missing."""
    try:
        import nncf  # noqa: F401  # type: ignore[reportMissingImports]
        import openvino  # noqa: F401  # type: ignore[reportMissingImports]
    except ImportError as error:
        raise SystemExit(f"OpenVINO's forms need {error.name}: pip install 'vidfit[bench]'") from error


def write(source: Path, form: str, path: Path) -> None:
    """Write a float `.onnx` file as OpenVINO's `.xml`, with weights beside it in `.bin`."""
    import nncf  # type: ignore[reportMissingImports]
    import openvino  # type: ignore[reportMissingImports]

    model, weights = openvino.Core().read_model(source), WEIGHTS[form]
    if weights:
        mode, adjust = nncf.CompressWeightsMode[weights], {}
        if "INT4" in weights:
            fallback = nncf.quantization.advanced_parameters.GroupSizeFallbackMode.ADJUST
            adjust = {
                "group_size": GROUP,
                "all_layers": True,
                "advanced_parameters": nncf.AdvancedCompressionParameters(group_size_fallback_mode=fallback),
            }
        model = nncf.compress_weights(model, mode=mode, **adjust)
    openvino.save_model(model, path, compress_to_fp16=False)


def load(path: Path, threads: int) -> Callable[[dict[str, np.ndarray], np.ndarray], Any]:
    """A function from frames and their number to probabilities. It compiles the model anew for each new shape."""
    import openvino  # type: ignore[reportMissingImports]

    core = openvino.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled: dict[int, Any] = {}

    def run(frames: dict[str, np.ndarray], num_frames: np.ndarray) -> np.ndarray:
        inputs = {**frames, "num_frames": num_frames}
        if len(num_frames) not in compiled:
            compiled.clear()
            model = core.read_model(path)
            model.reshape({name: list(array.shape) for name, array in inputs.items()})
            compiled[len(num_frames)] = core.compile_model(model, "CPU", settings)
        return compiled[len(num_frames)](inputs)[0]

    return run
