"""A decoded frame as RGB pixels, as a player would show it: upright, in the right colours, one moment of it.

Handled here: rotation, interlacing, the matrix and range of YCbCr, 10 bits and more, HDR, alpha. Pixels that are not
square need nothing: the whole picture is stretched to a square anyway.
"""

from typing import Any

import numpy as np

# Values of FFmpeg's AVColorSpace and AVColorTransferCharacteristic (ITU-T H.273, tables 3 and 4).
_BT709, _BT601, _BT2020 = 1, 5, 9
_MATRICES = {1: _BT709, 4: 4, 5: _BT601, 6: _BT601, 7: 7, 9: _BT2020, 10: _BT2020}
_PQ, _HLG = 16, 18
_FULL_RANGE = 2
# Players take the matrix of HDTV from this height on where a file names none.
_LEAST_HD_HEIGHT = 720

# What is transparent becomes mid-grey: white and black drawings both stay visible on it.
_BACKGROUND = 127
# Luminance of paper white in HDR, cd/m2. Source: ITU-R BT.2408, section 2.2.
_PAPER_WHITE = 203.0
# Below this share of white, tones stay as they are; above, they are rolled off to white.
_KNEE = 0.8
# Linear BT.2020 to BT.709. Source: ITU-R BT.2087, section 4.
_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


class _Scaler:
    """FFmpeg's scaler, made at first use and kept: setting one up takes longer than scaling a frame."""

    def __init__(self) -> None:
        self._scaler: Any = None

    def __call__(self, frame: Any, size: int, pixel_format: str) -> np.ndarray:
        from av.video.reformatter import Interpolation, VideoReformatter

        self._scaler = self._scaler or VideoReformatter()
        matrix = _MATRICES.get(frame.colorspace)
        if matrix is None:
            matrix = _BT709 if frame.height >= _LEAST_HD_HEIGHT else _BT601
        scaled = self._scaler.reformat(
            frame,
            width=size,
            height=size,
            format=pixel_format,
            src_colorspace=matrix,
            # Without full chroma, FFmpeg truncates: every picture is darker by 1.5 of 255.
            interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
            src_color_range=_FULL_RANGE if _is_full_range(frame) else 1,
            dst_color_range=_FULL_RANGE,
            threads=1,
        )
        return scaled.to_ndarray()


_scale = _Scaler()


def to_pixels(frame: Any, size: int) -> np.ndarray:
    """uint8 RGB `[size, size, 3]` of a PyAV video frame; the whole picture, stretched to a square."""
    rotation = frame.rotation
    hdr = frame.color_trc if frame.color_trc in (_PQ, _HLG) else None
    if frame.interlaced_frame:
        frame = _first_field(frame)
    if hdr:
        pixels = tone_mapped(_scale(frame, size, "rgb48le"), hdr)
    elif _has_alpha(frame):
        pixels = _on_background(_scale(frame, size, "rgba"))
    else:
        pixels = _scale(frame, size, "rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(rotation / 90) % 4))


def tone_mapped(pixels: np.ndarray, transfer: int) -> np.ndarray:
    """SDR pixels of HDR ones: as bright as SDR up to 80% of paper white, brighter tones rolled off to white.

    Arguments:
        pixels: uint16 `[H, W, 3]`, BT.2020 primaries.
        transfer: 16 (PQ) or 18 (HLG).

    Returns:
        uint8 `[H, W, 3]`, sRGB.

    Source: ITU-R BT.2100 tables 4 and 5 (PQ, HLG), BT.2087 (primaries).
    """
    signal = pixels.astype(np.float32) / 65535
    light = (_pq_light(signal) if transfer == _PQ else _hlg_light(signal)) / _PAPER_WHITE
    light = np.maximum(light @ _BT2020_TO_BT709.T, 0)
    # By the largest of the three channels, so that hues stay.
    peak = np.maximum(light.max(-1, keepdims=True), 1e-6)
    rolled = _KNEE + (1 - _KNEE) * -np.expm1(-(peak - _KNEE) / (1 - _KNEE))
    light *= np.where(peak > _KNEE, rolled, peak) / peak
    srgb = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.clip(np.rint(srgb * 255), 0, 255).astype(np.uint8)


def _pq_light(signal: np.ndarray) -> np.ndarray:
    """cd/m2."""
    root = signal ** (1 / 78.84375)
    return 10000 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)


def _hlg_light(signal: np.ndarray) -> np.ndarray:
    """cd/m2 on a display of 1,000."""
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
    return 1000 * luminance[..., None] ** 0.2 * scene


def _on_background(pixels: np.ndarray) -> np.ndarray:
    alpha = pixels[..., 3:].astype(np.float32) / 255
    return np.rint(pixels[..., :3] * alpha + _BACKGROUND * (1 - alpha)).astype(np.uint8)


def _is_full_range(frame: Any) -> bool:
    return frame.color_range == _FULL_RANGE or frame.format.name.startswith("yuvj")


def _has_alpha(frame: Any) -> bool:
    return "a" in frame.format.name.removeprefix("gray").split("p")[0] or frame.format.name == "pal8"


def _first_field(frame: Any) -> Any:
    """Every second line: one moment, where the two fields of an interlaced frame are two."""
    from av.filter import Graph

    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    graph.link_nodes(source, graph.add("field", "top"), graph.add("buffersink")).configure()
    graph.push(frame)
    return graph.pull()
