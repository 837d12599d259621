"""Log-mel spectrograms in a graph: `log_mel` of `videos/sound.py`. Its matrices are computed when the file is loaded.

Shapes: B windows, N samples, T frames of 25 ms, F bins of the Fourier transform.
"""

import math
from typing import Final

import numpy as np

from vidfit.export.graph_writer import GraphWriter, Value

_FRAME, _HOP, _SIZE = 400, 160, 512
# Bins of 31.25 Hz. Those from 7,500 Hz on weigh nothing.
_BINS: Final = 240
_BANDS: Final = 64
_BIN_WIDTH: Final = 31.25


def log_mel(windows_BN: Value, samples: int, offset: float) -> Value:
    """float32 `[B, T, 64]` of sound at 16 kHz, T = `1 + (samples - 400) // 160`.

    Arguments:
        windows_BN: float32 `[B, samples]`.
        offset: added before the logarithm.
    """
    graph = windows_BN.graph
    frames = 1 + (samples - _FRAME) // _HOP
    places_TK = _count(graph, frames).unsqueeze(1) * np.int64(_HOP) + _count(graph, _FRAME)
    frames_BTK = graph.add("Gather", windows_BN, places_TK, axis=1)
    real_BTF, imaginary_BTF = (frames_BTK @ matrix_KF for matrix_KF in _fourier(graph))
    magnitudes_BTF = (real_BTF * real_BTF + imaginary_BTF * imaginary_BTF).sqrt()
    return (magnitudes_BTF @ _mel_matrix(graph) + offset).log()


def _fourier(graph: GraphWriter) -> tuple[Value, Value]:
    """Cosines and sines of a 512-point transform under a periodic Hann window of 400, float32 `[400, F]` each."""
    samples_K1 = _count(graph, _FRAME).unsqueeze(1)
    turns_KF = graph.add("Mod", samples_K1 * _count(graph, _BINS), np.int64(_SIZE))
    angles_KF = turns_KF.cast(np.float32) * (2 * math.pi / _SIZE)
    window_K1 = 0.5 - graph.add("Cos", samples_K1.cast(np.float32) * (2 * math.pi / _FRAME)) * 0.5
    return graph.add("Cos", angles_KF) * window_K1, graph.add("Sin", angles_KF) * window_K1


def _mel_matrix(graph: GraphWriter) -> Value:
    """float32 `[F, 64]`, in float64 until then: triangles on the mel scale `1127 * log(1 + hertz / 700)`."""
    start, end = _mel(125), _mel(7500)
    # Arrays, for plain numbers become float32.
    one, factor, width = np.array(1.0), np.array(1127.0), np.array((end - start) / (_BANDS + 1))
    hertz_F1 = _count(graph, _BINS).unsqueeze(1).cast(np.float64) * np.array(_BIN_WIDTH)
    bins_F1 = (hertz_F1 / np.array(700.0) + one).log() * factor
    edges_E = _count(graph, _BANDS + 2).cast(np.float64) * width + np.array(start)
    lower_M, centre_M, upper_M = (edges_E.part(0, first, first + _BANDS) for first in range(3))
    rising_FM = (bins_F1 - lower_M) / (centre_M - lower_M)
    falling_FM = (upper_M - bins_F1) / (upper_M - centre_M)
    return graph.add("Max", graph.add("Min", rising_FM, falling_FM), np.array(0.0)).cast(np.float32)


def _mel(hertz: float) -> float:
    return 1127 * math.log1p(hertz / 700)


def _count(graph: GraphWriter, stop: int) -> Value:
    """int64 `[stop]`, from 0 on."""
    return graph.add("Range", np.int64(0), np.int64(stop), np.int64(1))
