"""A loaded model: frame features in, probabilities out.

A packed `.onnx` file runs in ONNX Runtime on the CPU. A run's member runs in PyTorch, on the GPU if there is one. Both
have the same interface, so you can compare them. Shards are decoded in a thread while the model computes. Memory holds
a few hundred videos (two or three times `Predictor.window`), whatever their number.

For many videos, ONNX Runtime can compute several batches in parallel. They share its threads and weights. This helps
because one step of an LSTM is too little work to divide. For few videos a single batch with all threads is faster.

By default every frame of a video counts once. `load(path, fill_up=300)` does what the winners of 2018 did, for
comparison: it fills each video up with random frames of its own.
"""

import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidfit import distributed
from vidfit.errors import DataError, ModelFileError, VidfitError
from vidfit.features.prefetch import read_ahead
from vidfit.features.shards import expand_shards
from vidfit.features.spec import FeatureSpec, Modality
from vidfit.hub.repository import local_file
from vidfit.inference.packed_model import PackedModel
from vidfit.videos.extractor import check_features

# A packed file needs no PyTorch, whose import takes seconds. So what does is imported where it is used.
if TYPE_CHECKING:
    import torch

    from vidfit.features.batch import Batch
    from vidfit.features.loader import Batches
    from vidfit.inference.member_model import MemberModel

BATCH_SIZE = 16
# With videos of 120 to 300 frames, 29% of a batch of 32 is padding; with eight batches sorted by length, 5%.
_BATCHES_PER_WINDOW = 8
# Each takes memory.
_MOST_PARALLEL = 4

Frames = Mapping[str, np.ndarray]
Shards = str | Path | Sequence[str | Path]
Model = Callable[[Frames, np.ndarray], np.ndarray]
"""Frames by modality `[B, T, D]` and real frames int64 `[B]` -> probabilities float32 `[B, C]`."""


class Predictor:
    """A loaded model. Make one with `vidfit.load`.

    You can use it from several threads, in forked processes, and send it to other processes (it pickles as the path of
    its file). A forked or unpickled one opens the file again, and raises ModelFileError if the file has changed.
    """

    spec: FeatureSpec
    """The modalities it reads."""
    vocabulary: tuple[str, ...]
    """Label names; class `c` of the probabilities is `vocabulary[c]`."""
    extractor: str | None
    """JSON of how videos become its features (`videos/extractor.py`). None where that is unknown."""
    carried: Mapping[str, bytes]
    """The models for pictures and sounds that the file holds too: ONNX by name (`export/parts.py`). Else empty."""
    thresholds: np.ndarray | None
    """From which probability on each label holds, float32 `[C]` (see `evaluation/thresholds.py`). None if the model
    has none of its own: a member, or a file that `pack-members` or an older vidfit wrote."""
    window: int
    """How many videos to read together, so that some of them are of similar length (see `predict_batch`)."""

    def __init__(
        self,
        spec: FeatureSpec,
        vocabulary: tuple[str, ...],
        run: Model,
        fill_up: int = 0,
        batch_size: int = BATCH_SIZE,
        parallel_batches: int = 1,
        extractor: str | None = None,
        run_frames: Model | None = None,
        thresholds: np.ndarray | None = None,
        carried: Mapping[str, bytes] | None = None,
    ):
        self.spec = spec
        self.extractor = extractor
        self.carried = carried or {}
        self.vocabulary = vocabulary
        self.thresholds = thresholds
        self.window = _BATCHES_PER_WINDOW * batch_size
        self._run = run
        self._fill_up = fill_up
        self._batch_size = batch_size
        self._parallel_batches = parallel_batches
        self._run_frames = run_frames

    def predict(self, frames: Frames, num_frames: np.ndarray | None = None) -> np.ndarray:
        """Probabilities of every label for some videos.

        Arguments:
            frames: arrays by modality name, each `[B, T, D]` uint8 (float32 for a video-level modality).
            num_frames: real frames of each video, int `[B]`, from 1 to T. None means T for all.

        Returns:
            float32 `[B, C]`.

        Raises:
            DataError: an array has not the modality, size or type that the model reads; or the model was loaded with
                `fill_up`, whose random draws need video ids.
        """
        parts = self._slices(frames, self._check(frames, num_frames))
        return np.concatenate([np.empty((0, len(self.vocabulary)), np.float32), *self._run_all(self._run, parts)])

    @property
    def has_frame_probabilities(self) -> bool:
        """Whether `predict_frames` works: the model has a frame classifier and, if packed, `frame_probabilities`."""
        return self._run_frames is not None

    def predict_frames(self, frames: Frames, num_frames: np.ndarray | None = None) -> np.ndarray:
        """Probabilities of every label for each frame of some videos: they say when a label holds.

        Arguments:
            frames, num_frames: as in `predict`.

        Returns:
            float32 `[B, T, C]`; 0 in slots after a video's end.

        Raises:
            ModelFileError: the model has no frame probabilities.
            DataError: as in `predict`.
        """
        if self._run_frames is None:
            raise ModelFileError(
                "the model has no frame probabilities; train a frame-classifier and pack it with "
                "pack.frame_probabilities: true"
            )
        lengths_B = self._check(frames, num_frames)
        longest = next(iter(frames.values())).shape[1]
        parts = self._slices(frames, lengths_B)
        empty = np.empty((0, longest, len(self.vocabulary)), np.float32)
        found_BTC = np.concatenate([empty, *self._run_all(self._run_frames, parts)])
        found_BTC[np.arange(longest) >= lengths_B[:, None]] = 0
        return found_BTC

    def predict_shards(self, shards: Shards) -> Iterator[tuple[str, np.ndarray]]:
        """Probabilities of every label for each video in some shards.

        Arguments:
            shards: a file, a folder, a glob, or several of them.

        Returns:
            An iterator of (video id, float32 `[C]`), in the shards' order.

        Raises:
            DataError: a record is damaged, or has not the modalities, sizes and types that the model reads.
            ModelFileError: `vidfit extract` made the shards with another extractor than the model's.
        """
        patterns = [shards] if isinstance(shards, str | Path) else shards
        for batch in read_ahead(self.batches(expand_shards(patterns))):
            yield from zip(batch.ids, self.predict_batch(batch), strict=True)

    def batches(
        self,
        shards: Sequence[Path],
        classes: int | None = None,
        skip_corrupt: bool = False,
        labelled_only: bool = False,
    ) -> "Batches":
        """For `predict_batch`, in the shards' order (see `Batches`).

        Raises:
            ModelFileError: `vidfit extract` made the shards with another extractor than the model's.
        """
        from vidfit.features.loader import Batches

        check_features(self.extractor, shards, "the model")
        return Batches(shards, self.spec, classes, self.window, skip_corrupt=skip_corrupt, labelled_only=labelled_only)

    def predict_batch(self, batch: "Batch") -> np.ndarray:
        """Probabilities float32 `[B, C]` of a ragged batch of any size.

        Videos of similar length are computed together, so that little of it is padding.
        """
        probabilities_BC = np.empty((len(batch), len(self.vocabulary)), np.float32)
        parts = batch.num_frames.argsort(stable=True).split(self._batch_size)
        inputs = (self._inputs(batch.rows(rows)) for rows in parts)
        for rows, part_BC in zip(parts, self._run_all(self._run, inputs), strict=True):
            probabilities_BC[rows.numpy()] = part_BC
        return probabilities_BC

    def _slices(self, frames: Frames, lengths_B: np.ndarray) -> Iterator[tuple[Frames, np.ndarray]]:
        """Parts of at most `batch_size` videos."""
        for start in range(0, len(lengths_B), self._batch_size):
            rows = slice(start, start + self._batch_size)
            yield {name: np.ascontiguousarray(array[rows]) for name, array in frames.items()}, lengths_B[rows]

    def _run_all(self, run: Model, inputs: Iterator[tuple[Frames, np.ndarray]]) -> Iterator[np.ndarray]:
        """Probabilities of each input, in order; several inputs are computed in parallel.

        Inputs are drawn in this thread: padding in the others would start PyTorch's threads once more in each.
        """
        if self._parallel_batches == 1:
            yield from (run(*pair) for pair in inputs)
            return
        # A pool for each call: a kept one would not survive a fork.
        with ThreadPoolExecutor(self._parallel_batches) as pool:
            yield from pool.map(lambda pair: run(*pair), inputs)

    def _inputs(self, batch: "Batch") -> tuple[Frames, np.ndarray]:
        """What the model takes: frames by modality `[B, T, D]`, and the real frames of each video, int64 `[B]`."""
        if self._fill_up:
            from vidfit.models.sampling import fill_up

            filled = fill_up(batch.frames, batch.num_frames, _uniforms(batch.ids, self._fill_up))
            frames = {name: tensor.numpy() for name, tensor in filled.items()}
            return frames, np.full(len(batch), self._fill_up, np.int64)
        return {name: tensor.numpy() for name, tensor in batch.padded().items()}, batch.num_frames.numpy()

    def _check(self, frames: Frames, num_frames: np.ndarray | None) -> np.ndarray:
        """Raises DataError if the arrays do not fit the model; gives the real frames of each video, int64 `[B]`."""
        if not isinstance(frames, Mapping):
            raise DataError("predict takes arrays by modality name; for shards, call predict_shards")
        if self._fill_up:
            raise DataError(
                "arrays have no video ids, which fill_up needs; use predict_shards, or load the model without fill_up"
            )
        expected = {modality.name: modality for modality in self.spec.modalities}
        if set(frames) != set(expected):
            raise DataError(f"the model reads the modalities {sorted(expected)}, these arrays are {sorted(frames)}")
        leading = [int(size) for size in getattr(next(iter(frames.values())), "shape", ())[:2]]
        for name, array in frames.items():
            _check_array(array, expected[name], leading)
        videos, longest = leading
        lengths = np.full(videos, longest) if num_frames is None else np.asarray(num_frames)
        whole = lengths.dtype.kind in "iu" and lengths.shape == (videos,)
        if not whole or ((lengths < 1) | (lengths > longest)).any():
            raise DataError(f"num_frames: give {videos} integers from 1 to {longest}, one per video")
        return lengths.astype(np.int64)


def _check_array(array: object, modality: Modality, leading: list[int]) -> None:
    found = f"{array.dtype} {list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
    if not isinstance(array, np.ndarray) or found != f"{modality.dtype} {[*leading, modality.size]}":
        raise DataError(
            f"modality {modality.name}: the model reads {modality.dtype} [B, T, {modality.size}] as a NumPy array, "
            f"with the same B and T in all modalities; this is {found}"
        )
    if modality.dtype == "float32" and not np.isfinite(array).all():
        raise DataError(f"modality {modality.name}: has values that are not finite; leave such videos out")


def _uniforms(ids: Sequence[str], slots: int) -> "torch.Tensor":
    """float32 `[B, S]` in [0, 1), drawn from each video's id: the same in whatever batch the video is."""
    import torch

    rows = [np.random.default_rng(zlib.crc32(id.encode())).random(slots, np.float32) for id in ids]
    return torch.from_numpy(np.stack(rows))


def load(
    path: str | Path,
    threads: int = 0,
    fill_up: int = 0,
    batch_size: int = BATCH_SIZE,
    parallel_batches: int = 1,
    expand_weights: bool = False,
) -> Predictor:
    """Load a packed `.onnx` file, or a member of a run (its folder or `.safetensors` file).

    Arguments:
        path: the model. Its content says which kind it is, so the file may have any name. `hf://owner/name` is a packed
            file on the Hugging Face Hub.
        threads: threads for ONNX Runtime. 0 means one per core.
        fill_up: frames that the model sees of each video in a shard: its own, and then random ones of its own, the same
            at every call. Longer videos are cut. The winners of 2018 used 300. 0 means every frame once.
        batch_size: videos computed together. More need more memory; probabilities differ by rounding only.
        parallel_batches: batches that ONNX Runtime computes at the same time, at most one per thread. More need more
            memory. 1 is fastest for a few videos. For many videos use 0: one per thread, up to four.
        expand_weights: of a packed file with 2, 4 or 6 bits, keep one byte per weight in memory. Batches of several
            videos are then faster, and a single video is slower. Activations are rounded differently, so probabilities
            differ a little (see `export/byte_products.py`).

    Raises:
        ModelFileError: the file is missing, damaged or not vidfit's, or needs a newer onnxruntime or vidfit.
        VidfitError: `fill_up` or `parallel_batches` is below 0, or `batch_size` below 1; the Hub has no such file.
    """
    path = local_file(path)
    if batch_size < 1:
        raise VidfitError(f"batch_size {batch_size}: give a number of videos, at least 1")
    if fill_up < 0:
        raise VidfitError(f"fill_up {fill_up}: give a number of frames, or 0 for every frame once")
    if parallel_batches < 0:
        raise VidfitError(f"parallel_batches {parallel_batches}: give a number of batches, or 0 for the fastest")
    if path.is_dir() or _is_safetensors(path):
        from vidfit.inference.member_model import MemberModel

        return _predictor(MemberModel(path), fill_up, batch_size, 1)
    threads = threads or distributed.cores_per_rank()
    if parallel_batches != 1:
        threads = threads or _cores()
        parallel_batches = min(parallel_batches or _MOST_PARALLEL, threads)
        # Each batch is computed by a thread of its own; the session's other threads help all of them.
        threads += 1 - parallel_batches
    return _predictor(PackedModel(path, threads, expand_weights), fill_up, batch_size, parallel_batches)


def _predictor(model: "MemberModel | PackedModel", fill_up: int, batch_size: int, parallel_batches: int) -> Predictor:
    info = model.info
    run_frames = model.frame_probabilities if model.has_frame_probabilities else None
    thresholds_C, carried = None, None
    if isinstance(model, PackedModel):
        thresholds_C, carried = model.info.thresholds_C, model.carried
    settings = (fill_up, batch_size, parallel_batches)
    return Predictor(info.spec, info.vocabulary, model, *settings, info.extractor, run_frames, thresholds_C, carried)


def _cores() -> int:
    """Cores that this process may use."""
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
