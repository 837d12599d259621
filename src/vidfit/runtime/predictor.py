"""A model file in use: frame features in, probabilities out.

A packed `.onnx` file runs in ONNX Runtime; a run's member (float or quantised) runs in PyTorch, so that the two can be
compared through one interface. Either reads one batch at a time: memory does not grow with the number of videos.
PyTorch runs on the GPU where there is one; ONNX Runtime on the CPU.

Every frame of a video counts once. The winners of 2018 filled a video up with random frames of its own to a fixed
number instead; `load(path, fill_up=300)` does as they did, to compare.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import onnxruntime
import torch

from vidfit.compression.member import load_member
from vidfit.errors import DataError, ModelFileError, VidfitError, reason
from vidfit.features.batches import Batch, Batches
from vidfit.features.shards import expand_shards
from vidfit.features.spec import FeatureSpec
from vidfit.models.frames import fill_up as fill_up_frames
from vidfit.packing.checksum import is_intact
from vidfit.packing.metadata import PackedInfo

BATCH_SIZE = 32

Frames = Mapping[str, np.ndarray]
Shards = str | Path | Sequence[str | Path]


class Predictor:
    """A loaded model. Make one with `vidfit.load`."""

    spec: FeatureSpec
    """The modalities it reads."""
    vocabulary: tuple[str, ...]
    """Label names; class `c` of the probabilities is `vocabulary[c]`."""

    def __init__(
        self,
        spec: FeatureSpec,
        vocabulary: tuple[str, ...],
        run: Callable[[Frames, np.ndarray], np.ndarray],
        fill_up: int = 0,
    ):
        self.spec = spec
        self.vocabulary = vocabulary
        self._run = run
        self._fill_up = fill_up

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

    def predict_batch(self, batch: Batch) -> np.ndarray:
        """Probabilities `[B, C]` float32 of a ragged batch."""
        if self._fill_up:
            filled = fill_up_frames(batch.frames, batch.num_frames, _uniforms(batch.ids, self._fill_up))
            frames = {name: tensor.numpy() for name, tensor in filled.items()}
            return self._run(frames, np.full(len(batch), self._fill_up, np.int64))
        frames = {name: tensor.numpy() for name, tensor in batch.padded().items()}
        return self._run(frames, batch.num_frames.numpy())

    def _predict_shards(self, shards: Shards) -> Iterator[tuple[str, np.ndarray]]:
        patterns = [shards] if isinstance(shards, str | Path) else shards
        for batch in Batches(expand_shards(patterns), self.spec, None, BATCH_SIZE):
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
        videos, longest = leading
        lengths = np.full(videos, longest) if num_frames is None else np.asarray(num_frames)
        whole = lengths.dtype.kind in "iu" and lengths.shape == (videos,)
        if not whole or ((lengths < 1) | (lengths > longest)).any():
            raise DataError(f"num_frames: give {videos} numbers from 1 to {longest}, one integer a video")
        results = [np.empty((0, len(self.vocabulary)), np.float32)]
        for start in range(0, videos, BATCH_SIZE):
            rows = slice(start, start + BATCH_SIZE)
            batch = {name: np.ascontiguousarray(array[rows]) for name, array in frames.items()}
            results.append(self._run(batch, lengths[rows].astype(np.int64)))
        return np.concatenate(results)


def _uniforms(ids: Sequence[str], slots: int) -> torch.Tensor:
    """float32 `[B, S]` in [0, 1): the same for a video in whatever batch it is."""
    rows = [np.random.default_rng(zlib.crc32(id.encode())).random(slots, np.float32) for id in ids]
    return torch.from_numpy(np.stack(rows))


def load(path: str | Path, threads: int = 0, fill_up: int = 0) -> Predictor:
    """Load a packed `.onnx` file, or a member of a run (its folder or `.safetensors` file).

    Arguments:
        path: the model. Its content says which of them it is, so a file may have any name.
        threads: that ONNX Runtime may use; 0 is one a core.
        fill_up: frames that the model sees of every video of a shard, as the winners of 2018 did it (they: 300): its
            own, and then random ones of its own, the same at every call. Longer videos are cut. 0 is every frame once.

    Raises:
        ModelFileError: the file is missing, cut short, altered, or was not written by vidfit.
        VidfitError: `fill_up` is below 0.
    """
    path = Path(path)
    if fill_up < 0:
        raise VidfitError(f"fill_up {fill_up}: give a number of frames, or 0 for every frame once")
    if path.is_dir() or _is_safetensors(path):
        return _load_member(path, fill_up)
    return _load_packed(path, threads, fill_up)


def _is_safetensors(path: Path) -> bool:
    """Whether a JSON object follows the eight bytes of its length, which no ONNX file has there."""
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError as error:
        raise ModelFileError(
            f"{path}: {error.strerror}; give a packed .onnx file, a member's folder or its .safetensors file"
        ) from error


def _load_packed(path: Path, threads: int, fill_up: int) -> Predictor:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if is_intact(path) is False:
        raise ModelFileError(
            f"{path}: was altered, damaged or cut short (its content is not what its checksum, vidfit.crc32c, says); "
            "copy it anew or pack it again"
        )
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        raise ModelFileError(
            f"{path}: cut short, or no ONNX file ({reason(error)}); copy it anew or pack it again"
        ) from error
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

    return Predictor(info.spec, info.vocabulary, run, fill_up)


def _check_signature(session: onnxruntime.InferenceSession, info: PackedInfo) -> None:
    types = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}
    inputs = [(modality.name, types[modality.dtype], [modality.size]) for modality in info.spec.modalities]
    inputs.append(("num_frames", "tensor(int64)", []))
    if [(put.name, put.type, put.shape[2:]) for put in session.get_inputs()] != inputs:
        raise ValueError("its inputs are not those that vidfit.spec names")
    outputs = [(put.name, put.type, put.shape[1:]) for put in session.get_outputs()]
    if outputs != [("probabilities", "tensor(float)", [len(info.vocabulary)])]:
        raise ValueError("its output is not as long as vidfit.vocabulary")


def _load_member(path: Path, fill_up: int) -> Predictor:
    member = load_member(path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = member.classifier().to(device)

    @torch.inference_mode()
    def run(frames: Frames, num_frames: np.ndarray) -> np.ndarray:
        # Copies, because PyTorch warns of arrays that are read-only.
        tensors = {name: torch.tensor(array, device=device) for name, array in frames.items()}
        return model(tensors, torch.tensor(num_frames, device=device)).cpu().numpy()

    return Predictor(member.info.spec, member.info.vocabulary, run, fill_up)
