"""A model file in use: frame features in, probabilities out.

A packed `.onnx` file runs in ONNX Runtime; a run's member (float or quantised) runs in PyTorch, so that the two can be
compared through one interface. Either reads one batch at a time: memory does not grow with the number of videos.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import onnxruntime

from vidfit.compression.member import load_member
from vidfit.errors import DataError, ModelFileError
from vidfit.features.batches import Batch, Batches
from vidfit.features.shards import expand_shards
from vidfit.features.spec import FeatureSpec

FORMAT = "1"
BATCH_SIZE = 32

Frames = Mapping[str, np.ndarray]
Shards = str | Path | Sequence[str | Path]


class Predictor:
    """A loaded model. Make one with `vidfit.load`."""

    spec: FeatureSpec
    """The modalities it reads."""
    vocabulary: tuple[str, ...]
    """Label names; class `c` of the probabilities is `vocabulary[c]`."""

    def __init__(self, spec: FeatureSpec, vocabulary: tuple[str, ...], run: Callable[[Frames, np.ndarray], np.ndarray]):
        self.spec = spec
        self.vocabulary = vocabulary
        self._run = run

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
            DataError: an array or a record does not have the modalities, sizes and types that the model reads.
        """
        if isinstance(videos, Mapping):
            return self._predict_arrays(videos, num_frames)
        return self._predict_shards(videos)

    def predict_batch(self, batch: Batch) -> np.ndarray:
        """Probabilities `[B, C]` float32 of a ragged batch."""
        frames = {name: tensor.numpy() for name, tensor in batch.padded().items()}
        return self._run(frames, batch.num_frames.numpy())

    def _predict_shards(self, shards: Shards) -> Iterator[tuple[str, np.ndarray]]:
        patterns = [shards] if isinstance(shards, str | Path) else shards
        for batch in Batches(expand_shards(patterns), self.spec, None, BATCH_SIZE):
            yield from zip(batch.ids, self.predict_batch(batch), strict=True)

    def _predict_arrays(self, frames: Frames, num_frames: np.ndarray | None) -> np.ndarray:
        expected = {modality.name: modality for modality in self.spec.modalities}
        if set(frames) != set(expected):
            raise DataError(f"the model reads the modalities {sorted(expected)}, these arrays are {sorted(frames)}")
        videos, longest = next(iter(frames.values())).shape[:2]
        for name, array in frames.items():
            shape = (videos, longest, expected[name].size)
            if array.shape != shape or array.dtype != expected[name].dtype:
                raise DataError(
                    f"modality {name}: the model reads {expected[name].dtype} [B, T, {expected[name].size}] with the "
                    f"same B and T in all modalities; this array is {array.dtype} {list(array.shape)}"
                )
        if num_frames is None:
            num_frames = np.full(videos, longest)
        num_frames = np.asarray(num_frames, dtype=np.int64)
        if num_frames.shape != (videos,) or num_frames.min() < 1 or num_frames.max() > longest:
            raise DataError(f"num_frames: give {videos} numbers from 1 to {longest}, one a video")
        return self._run(frames, num_frames)


def load(path: str | Path, threads: int = 0) -> Predictor:
    """Load a packed `.onnx` file, or a member of a run (its folder or `.safetensors` file).

    Arguments:
        path: the model.
        threads: that ONNX Runtime may use; 0 is one a core.

    Raises:
        ModelFileError: the file is missing, cut short, or was not written by vidfit.
    """
    path = Path(path)
    return _load_packed(path, threads) if path.suffix == ".onnx" else _load_member(path)


def _load_packed(path: Path, threads: int) -> Predictor:
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file; write one with `vidfit pack` or `vidfit run`")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base of their own
        reason = str(error).splitlines()[0]
        raise ModelFileError(f"{path}: not a readable packed file ({reason}); pack it again or copy it anew") from error
    metadata = session.get_modelmeta().custom_metadata_map
    if metadata.get("vidfit.format") != FORMAT:
        raise ModelFileError(
            f"{path}: its vidfit.format is {metadata.get('vidfit.format')}, this vidfit reads {FORMAT}; "
            "write it with `vidfit pack` of the same version"
        )

    def run(frames: Frames, num_frames: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(["probabilities"], {**frames, "num_frames": num_frames})[0])

    spec = FeatureSpec.model_validate_json(metadata["vidfit.spec"])
    return Predictor(spec, tuple(json.loads(metadata["vidfit.vocabulary"])), run)


def _load_member(path: Path) -> Predictor:
    import torch

    member = load_member(path)
    model = member.classifier()

    @torch.inference_mode()
    def run(frames: Frames, num_frames: np.ndarray) -> np.ndarray:
        tensors = {name: torch.from_numpy(array) for name, array in frames.items()}
        return model(tensors, torch.from_numpy(num_frames)).numpy()

    return Predictor(member.info.spec, member.info.vocabulary, run)
