"""A packed file in ONNX Runtime: padded frames in, probabilities out.

Of a file that carries its extractor, this opens the part behind it.

A session's threads do not survive a fork, so a forked process opens the file again at its first use. A pickle holds the
file's path and checksum. Both refuse a file that has changed since it was first opened.
"""

import ctypes
import os
import re
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

import numpy as np
import onnx
import onnxruntime

from vidfit.checksum import is_intact
from vidfit.errors import ModelFileError, reason
from vidfit.export.metadata import CHECKSUM, PackedInfo, output_names, parse_metadata, read_header
from vidfit.export.parts import Split, split
from vidfit.files import utf8_name

# The first onnxruntime that runs a packed file, by the file's opset.
NEEDED: Final = {21: (1, 20), 23: (1, 24)}

_open_models: "weakref.WeakSet[PackedModel]" = weakref.WeakSet()


class PackedModel:
    """An open packed file.

    Arguments:
        path: the file.
        threads: for ONNX Runtime; 0 means one per core.
        expand_weights: keep one byte per weight in memory (see `vidfit.load`).

    Attributes:
        info: what the file's metadata say.
        carried: the parts of its extractor, as ONNX by name (`export/parts.py`). Empty if it carries none.

    Raises:
        ModelFileError: the file is damaged, not vidfit's, or needs a newer onnxruntime or vidfit.
    """

    def __init__(self, path: Path, threads: int, expand_weights: bool = False) -> None:
        self.path, self._settings = path.resolve(), (threads, expand_weights)
        self.info, self._session, self.carried = _open(path, *self._settings)
        self._opening = threading.Lock()
        _open_models.add(self)

    def __call__(self, frames: Mapping[str, np.ndarray], num_frames_B: np.ndarray) -> np.ndarray:
        """Probabilities float32 `[B, C]` of frames `[B, T, D]` by modality, of which int64 `num_frames_B` are real.

        Raises:
            ModelFileError: in a forked process, the file has changed or is gone.
        """
        return self._run("probabilities", frames, num_frames_B)

    @property
    def has_frame_probabilities(self) -> bool:
        """Whether the file was packed with frame probabilities."""
        return self.info.frame_probabilities

    def frame_probabilities(self, frames: Mapping[str, np.ndarray], num_frames_B: np.ndarray) -> np.ndarray:
        """As a call, but probabilities of each frame, `[B, T, C]`. Only if `has_frame_probabilities`."""
        return self._run("frame_probabilities", frames, num_frames_B)

    def _run(self, output: str, frames: Mapping[str, np.ndarray], num_frames_B: np.ndarray) -> np.ndarray:
        session = self._session or self._open_again()
        return np.asarray(session.run([output], {**frames, "num_frames": num_frames_B})[0])

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[Path, str, int, bool]]:
        return type(self)._unpickled, (self.path, self.info.crc32c, *self._settings)

    @classmethod
    def _unpickled(cls, path: Path, checksum: str, threads: int, expand_weights: bool) -> Self:
        model = cls(path, threads, expand_weights)
        _check_unchanged(path, model.info, checksum)
        return model

    def _open_again(self) -> onnxruntime.InferenceSession:
        with self._opening:
            if self._session is None:
                info, session, _ = _open(self.path, *self._settings)
                _check_unchanged(self.path, info, self.info.crc32c)
                self._session = session
            return self._session

    def _forget_session(self) -> None:
        """In a forked child: never use or free the session, for both wait for threads that only the parent has."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
        self._session = None
        self._opening = threading.Lock()  # another thread of the parent may hold the old one


def _forget_sessions() -> None:
    for model in list(_open_models):
        model._forget_session()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_sessions)


def _check_unchanged(path: Path, info: PackedInfo, checksum: str) -> None:
    if info.crc32c != checksum:
        raise ModelFileError(f"{path}: has changed since this model was loaded from it; load it again")


def _open(
    path: Path, threads: int, expand_weights: bool
) -> tuple[PackedInfo, onnxruntime.InferenceSession, dict[str, bytes]]:
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file; it may have been moved or deleted since the model was loaded")
    # The checksum is computed meanwhile; a session is made in one thread.
    with ThreadPoolExecutor(1) as pool:
        intact = pool.submit(is_intact, path, CHECKSUM)
        opened = _session(path, threads, expand_weights)
    if intact.result() is False:
        raise ModelFileError(
            f"{path}: was altered, damaged or cut short (its content is not what its checksum, vidfit.crc32c, says); "
            "copy it anew or pack it again"
        )
    header = read_header(path)
    info = parse_metadata(path, header.metadata)
    _check_version(path, header.opset)
    if isinstance(opened, ModelFileError):
        raise opened
    if isinstance(opened, Exception):
        raise ModelFileError(
            f"{path}: onnxruntime {onnxruntime.__version__} cannot load it ({reason(opened)}); "
            "try the newest onnxruntime, or pack it again"
        ) from opened
    session, cut = opened
    try:
        _check_signature(session, info)
    except (ValueError, KeyError) as error:
        raise ModelFileError(f"{path}: not a readable packed file ({reason(error)}); pack it again") from error
    if cut is None:
        return info, session, {}
    return info.model_copy(update={"extractor": cut.extractor}), session, cut.parts


def _check_version(path: Path, opset: int) -> None:
    needed = NEEDED.get(opset, (0, 0))
    found = re.match(r"(\d+)\.(\d+)", onnxruntime.__version__)
    if found and (int(found[1]), int(found[2])) < needed:
        raise ModelFileError(
            f"{path}: needs onnxruntime {needed[0]}.{needed[1]} or newer, this is {onnxruntime.__version__}; upgrade it"
        )


def _session(
    path: Path, threads: int, expand_weights: bool
) -> tuple[onnxruntime.InferenceSession, Split | None] | Exception:
    """A session for frames, and the other parts of a file that carries its extractor. Or why there is none."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        with utf8_name(path) as name:
            cut = split(path) if "vidfit.carried" in read_header(path).metadata else None
            source = cut.parts.pop("model") if cut else name
            if expand_weights:
                source = _with_byte_products(source)
            session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
            del source  # before memory is trimmed
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        if isinstance(error, MemoryError) or re.search("allocate memory|bad_alloc|bad allocation", str(error)):
            raise MemoryError(f"{path}: {reason(error)}") from error
        return error
    # Memory that unpacking narrow codes took, several times the file: glibc would keep it.
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
    return session, cut


def _with_byte_products(source: str | bytes) -> bytes:
    """A file's content or the file of a name, rewritten as `vidfit export --to web-model` does."""
    from vidfit.export.byte_products import use_byte_products  # imports PyTorch

    model = onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(source)
    use_byte_products(model)
    return model.SerializeToString()


def _check_signature(session: onnxruntime.InferenceSession, info: PackedInfo) -> None:
    types = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}
    inputs = [(modality.name, types[modality.dtype], [modality.size]) for modality in info.spec.modalities]
    inputs.append(("num_frames", "tensor(int64)", []))
    if [(put.name, put.type, put.shape[2:]) for put in session.get_inputs()] != inputs:
        raise ValueError("its inputs are not those that vidfit.spec names")
    names = output_names(info.frame_probabilities)
    found = [(put.name, put.type, put.shape[axes:]) for put, axes in zip(session.get_outputs(), (1, 2), strict=False)]
    if found != [(name, "tensor(float)", [len(info.vocabulary)]) for name in names]:
        raise ValueError(
            "its output is not as long as vidfit.vocabulary, or its outputs are not those that its metadata name"
        )
    _ = info.thresholds_C  # raises if it cannot be read
