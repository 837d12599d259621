"""Whether a model that became an ONNX file is still the same."""

from typing import Final

import numpy as np
import onnxruntime

# How far ONNX Runtime may be from the framework before, of the largest value. Rounding makes 1e-6 to 1e-5.
_TOLERANCE: Final = 1e-3


def gives(content: bytes, inputs: np.ndarray, expected: np.ndarray) -> bool:
    """Whether a model converted to ONNX, of one input and one output, gives what it gave before, up to rounding.

    Raises:
        Exception: one of ONNX Runtime, which cannot run it.
    """
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = np.asarray(session.run(None, {session.get_inputs()[0].name: inputs})[0])
    return found.shape == expected.shape and np.allclose(found, expected, atol=_TOLERANCE * np.abs(expected).max())
