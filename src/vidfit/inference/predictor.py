"""A model file in use: frame features in, probabilities out.

A packed `.onnx` file runs in ONNX Runtime; a run's member (float or quantised) runs in PyTorch, so that the two can be
compared through one interface. Shards are decoded in a thread while the model computes; memory holds a few hundred
videos (`Predictor.window`, twice or thrice), whatever their number.
PyTorch runs on the GPU where there is one; ONNX Runtime on the CPU.

Of many videos ONNX Runtime computes several batches at once, which share its threads and the weights in memory: a step
of an LSTM is too little work to divide. A single batch has all threads to itself only where the model was loaded for
one at a time, as `load` does unless it is told otherwise.

Every frame of a video counts once. The winners of 2018 filled a video up with random frames of its own to a fixed
number instead; `load(path, fill_up=300)` does as they did, to compare.
"""

import ctypes
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import overload

import numpy as np
import onnxruntime
import torch

from vidfit import distributed
from vidfit.checksum import is_intact
from vidfit.errors import DataError, ModelFileError, VidfitError, reason
from vidfit.export.metadata import CHECKSUM, PackedInfo
from vidfit.features.batch import Batch
from vidfit.features.loader import Batches
from vidfit.features.prefetch import read_ahead
from vidfit.features.shards import expand_shards
from vidfit.features.spec import FeatureSpec
from vidfit.models.sampling import fill_up as fill_up_frames
from vidfit.quantization.member import load_member

BATCH_SIZE = 16
# Of videos of 120 to 300 frames, 29% of a batch of 32 is padding; where eight such are sorted by length, 5%.
_BATCHES_A_WINDOW = 8
# Memory grows with them.
_MOST_AT_ONCE = 4

Frames = Mapping[str, np.ndarray]
Shards = str | Path | Sequence[str | Path]


class Predictor:
    """A loaded model. Make one with `vidfit.load`."""

    spec: FeatureSpec
    """The modalities it reads."""
    vocabulary: tuple[str, ...]
    """Label names; class `c` of the probabilities is `vocabulary[c]`."""
    window: int
    """How many videos to read together, so that there are some of similar length among them (see `predict_batch`)."""

    def __init__(
        self,
        spec: FeatureSpec,
        vocabulary: tuple[str, ...],
        run: Callable[[Frames, np.ndarray], np.ndarray],
        fill_up: int = 0,
        batch_size: int = BATCH_SIZE,
        at_once: int = 1,
    ):
        self.spec = spec
        self.vocabulary = vocabulary
        self.window = _BATCHES_A_WINDOW * batch_size
        self._run = run
        self._fill_up = fill_up
        self._batch_size = batch_size
        self._map = ThreadPoolExecutor(at_once).map if at_once > 1 else map

    @overload
    def predict(self, videos: Frames, num_frames: np.ndarray | None = None) -> np.ndarray: ...
    @overload
    def predict(self, videos: Shards) -> Iterator[tuple[str, np.ndarray]]: ...

    def predict(self, videos, num_frames=None):
        """Probabilities of every label for some videos.

        Arguments:
            videos: arrays by modality name, each `[B, T, D]` uint8 (float32 for a video-level modality);
                or shards: a file, a folder, a glob, or several.
            num_frames: with arrays, the real frames of each video, int `[B]`; all `T` where absent.

        Returns:
            For arrays, float32 `[B, C]`. For shards, an iterator of (video id, float32 `[C]`).

        Raises:
            DataError: an array or a record does not have the modalities, sizes and types that the model reads; or
                there are arrays, and the model was loaded with `fill_up`, whose draws follow from the ids in shards.
        """
        if isinstance(videos, Mapping):
            return self._predict_arrays(videos, num_frames)
        return self._predict_shards(videos)

    def batches(self, shards: Sequence[Path], classes: int | None = None, skip_corrupt: bool = False) -> Batches:
        """For `predict_batch`, in the shards' order (see `Batches`)."""
        return Batches(shards, self.spec, classes, self.window, skip_corrupt=skip_corrupt)

    def predict_batch(self, batch: Batch) -> np.ndarray:
        """Probabilities `[B, C]` float32 of a ragged batch of any size.

        They are computed a few videos at a time, those of similar length together, so that little of it is padding.
        """
        probabilities_BC = np.empty((len(batch), len(self.vocabulary)), np.float32)
        parts = batch.num_frames.argsort(stable=True).split(self._batch_size)
        # Padded in this thread: PyTorch would give each of the others threads of its own.
        inputs = (self._inputs(batch.rows(rows)) for rows in parts)
        for rows, part_BC in zip(parts, self._map(lambda pair: self._run(*pair), inputs), strict=True):
            probabilities_BC[rows.numpy()] = part_BC
        return probabilities_BC

    def _inputs(self, batch: Batch) -> tuple[Frames, np.ndarray]:
        """What the model takes: frames by modality `[B, T, D]`, and how many there are of each video, int64 `[B]`."""
        if self._fill_up:
            filled = fill_up_frames(batch.frames, batch.num_frames, _uniforms(batch.ids, self._fill_up))
            frames = {name: tensor.numpy() for name, tensor in filled.items()}
            return frames, np.full(len(batch), self._fill_up, np.int64)
        return {name: tensor.numpy() for name, tensor in batch.padded().items()}, batch.num_frames.numpy()

    def _predict_shards(self, shards: Shards) -> Iterator[tuple[str, np.ndarray]]:
        patterns = [shards] if isinstance(shards, str | Path) else shards
        for batch in read_ahead(self.batches(expand_shards(patterns))):
            yield from zip(batch.ids, self.predict_batch(batch), strict=True)

    def _predict_arrays(self, frames: Frames, num_frames: np.ndarray | None) -> np.ndarray:
        if self._fill_up:
            raise DataError("arrays have no video ids, which fill_up needs; give shards, or load the model without it")
        expected = {modality.name: modality for modality in self.spec.modalities}
        if set(frames) != set(expected):
            raise DataError(f"the model reads the modalities {sorted(expected)}, these arrays are {sorted(frames)}")
        leading = list(getattr(next(iter(frames.values())), "shape", ()))[:2]
        for name, array in frames.items():
            modality = expected[name]
            found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
            if found != f"{modality.dtype} {[*leading, modality.size]}":
                raise DataError(
                    f"modality {name}: the model reads {modality.dtype} [B, T, {modality.size}] as a NumPy array, "
                    f"with the same B and T in all modalities; this is {found}"
                )
            if modality.dtype == "float32" and not np.isfinite(array).all():
                raise DataError(f"modality {name}: has values that are not finite; leave such videos out")
        videos, longest = leading
        lengths = np.full(videos, longest) if num_frames is None else np.asarray(num_frames)
        whole = lengths.dtype.kind in "iu" and lengths.shape == (videos,)
        if not whole or ((lengths < 1) | (lengths > longest)).any():
            raise DataError(f"num_frames: give {videos} numbers from 1 to {longest}, one integer a video")

        def run(rows: slice) -> np.ndarray:
            batch = {name: np.ascontiguousarray(array[rows]) for name, array in frames.items()}
            return self._run(batch, lengths[rows].astype(np.int64))

        parts = [slice(start, start + self._batch_size) for start in range(0, videos, self._batch_size)]
        return np.concatenate([np.empty((0, len(self.vocabulary)), np.float32), *self._map(run, parts)])


def _uniforms(ids: Sequence[str], slots: int) -> torch.Tensor:
    """float32 `[B, S]` in [0, 1): the same for a video in whatever batch it is."""
    rows = [np.random.default_rng(zlib.crc32(id.encode())).random(slots, np.float32) for id in ids]
    return torch.from_numpy(np.stack(rows))


def load(
    path: str | Path, threads: int = 0, fill_up: int = 0, batch_size: int = BATCH_SIZE, at_once: int = 1
) -> Predictor:
    """Load a packed `.onnx` file, or a member of a run (its folder or `.safetensors` file).

    Arguments:
        path: the model. Its content says which of them it is, so a file may have any name.
        threads: that ONNX Runtime may use; 0 is one a core.
        fill_up: frames that the model sees of every video of a shard, as the winners of 2018 did it (they: 300): its
            own, and then random ones of its own, the same at every call. Longer videos are cut. 0 is every frame once.
        batch_size: videos that are computed together. Memory grows with it, and probabilities differ by no more than
            rounding.
        at_once: such batches that ONNX Runtime computes at the same time, at most as many as there are threads; memory
            grows with them. 1 is quickest for few videos; for many, 0 is as many as there are threads, up to four.

    Raises:
        ModelFileError: the file is missing, cut short, altered, or was not written by vidfit.
        VidfitError: `fill_up` or `at_once` is below 0, or `batch_size` below 1.
    """
    path = Path(path)
    if batch_size < 1:
        raise VidfitError(f"batch_size {batch_size}: give a number of videos, at least 1")
    if fill_up < 0:
        raise VidfitError(f"fill_up {fill_up}: give a number of frames, or 0 for every frame once")
    if at_once < 0:
        raise VidfitError(f"at_once {at_once}: give a number of batches, or 0 for what pays")
    if path.is_dir() or _is_safetensors(path):
        return _load_member(path, fill_up, batch_size)
    threads = threads or distributed.cores()
    if at_once != 1:
        threads = threads or _cores()
        at_once = min(at_once or _MOST_AT_ONCE, threads)
        # One computes for each batch; what a session has beyond one of its own, the batches share.
        threads += 1 - at_once
    return _load_packed(path, threads, fill_up, batch_size, at_once)


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_safetensors(path: Path) -> bool:
    """Whether a JSON object follows the eight bytes of its length, which no ONNX file has there."""
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError as error:
        raise ModelFileError(
            f"{path}: {error.strerror}; give a packed .onnx file, a member's folder or its .safetensors file"
        ) from error


def _load_packed(path: Path, threads: int, fill_up: int, batch_size: int, at_once: int) -> Predictor:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # The checksum takes no time of its own beside the session, which is made in one thread.
    with ThreadPoolExecutor(1) as pool:
        intact = pool.submit(is_intact, path, CHECKSUM)
        session = _session(path, options)
    if intact.result() is False:
        raise ModelFileError(
            f"{path}: was altered, damaged or cut short (its content is not what its checksum, vidfit.crc32c, says); "
            "copy it anew or pack it again"
        )
    if isinstance(session, Exception):
        raise ModelFileError(
            f"{path}: cut short, or no ONNX file ({reason(session)}); copy it anew or pack it again"
        ) from session
    metadata = session.get_modelmeta().custom_metadata_map
    if not any(key.startswith("vidfit.") for key in metadata):
        raise ModelFileError(
            f"{path}: not a vidfit file: it has no vidfit.* metadata; give one that `vidfit pack` or `vidfit run` wrote"
        )
    try:
        info = PackedInfo.model_validate(metadata)
        _check_signature(session, info)
    except ValueError as error:
        raise ModelFileError(f"{path}: not a readable packed file ({reason(error)}); pack it again") from error

    def run(frames: Frames, num_frames: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(["probabilities"], {**frames, "num_frames": num_frames})[0])

    return Predictor(info.spec, info.vocabulary, run, fill_up, batch_size, at_once)


def _session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession | Exception:
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        return error
    # Memory that unpacking narrow codes took, several times the file: glibc would keep it.
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
    return session


def _check_signature(session: onnxruntime.InferenceSession, info: PackedInfo) -> None:
    types = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}
    inputs = [(modality.name, types[modality.dtype], [modality.size]) for modality in info.spec.modalities]
    inputs.append(("num_frames", "tensor(int64)", []))
    if [(put.name, put.type, put.shape[2:]) for put in session.get_inputs()] != inputs:
        raise ValueError("its inputs are not those that vidfit.spec names")
    outputs = [(put.name, put.type, put.shape[1:]) for put in session.get_outputs()]
    if outputs != [("probabilities", "tensor(float)", [len(info.vocabulary)])]:
        raise ValueError("its output is not as long as vidfit.vocabulary")


def _load_member(path: Path, fill_up: int, batch_size: int) -> Predictor:
    member = load_member(path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = member.classifier().to(device)

    @torch.inference_mode()
    def run(frames: Frames, num_frames: np.ndarray) -> np.ndarray:
        # Copies, because PyTorch warns of arrays that are read-only.
        tensors = {name: torch.tensor(array, device=device) for name, array in frames.items()}
        return model(tensors, torch.tensor(num_frames, device=device)).cpu().numpy()

    return Predictor(member.info.spec, member.info.vocabulary, run, fill_up, batch_size)
