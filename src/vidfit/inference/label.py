"""What is in a video, and when: extraction, the model and the timeline together."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vidfit.errors import DataError, ModelFileError
from vidfit.hub.repository import local_file
from vidfit.inference.predictor import Predictor, load
from vidfit.inference.timeline import Span, Timeline, TimelineOptions
from vidfit.videos.carried import CarriedModels
from vidfit.videos.decode import av
from vidfit.videos.embed import Embedder
from vidfit.videos.extract import to_frames
from vidfit.videos.extractor import parse_extractor
from vidfit.videos.sources import Source, find_sources

log = logging.getLogger(__name__)


@dataclass
class Label:
    """A label of a video: the probability that it holds somewhere, and when it does."""

    label: str
    probability: float
    segments: list[Span]


@dataclass
class LabelledVideo:
    """A video with its labels.

    Attributes:
        path: as it was named.
        duration: seconds; 0 where the file cannot be read.
        labels: the most probable first.
        probabilities: float32 `[T, C]` of each step; `rate` of them are a second.
        rate: steps per second.
        notes: what was wrong with the file.
        error: why it has no labels; empty where it has.
    """

    path: str
    duration: float = 0.0
    labels: list[Label] = field(default_factory=list)
    probabilities: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    rate: float = 1.0
    notes: list[str] = field(default_factory=list)
    error: str = ""


class Labeller:
    """A packed model and the extractor that it names, loaded.

    Arguments:
        model: a packed `.onnx` file of a model that was trained on extracted features, or its address `hf://...`.
        options: of the timeline.
        longest: seconds of the longest video; a longer one is not read to its end and has an `error`.

    Raises:
        ModelFileError: it is no such file, or its extractor is not known.
        DataError: the backbones' files are missing.
        VidfitError: PyAV is not installed.
    """

    def __init__(self, model: str | Path, options: TimelineOptions | None = None, longest: float = math.inf) -> None:
        av()
        path = local_file(model)
        self.predictor: Predictor = load(path)
        if self.predictor.extractor is None:
            raise ModelFileError(
                f"{model}: does not say how its features were made, so it cannot label videos; train on features of "
                "`vidfit extract`, with its vocabulary.csv"
            )
        self.extractor = parse_extractor(self.predictor.extractor, path)
        self.timeline = Timeline(self.predictor, self.extractor.settings.rate, options or TimelineOptions())
        if self.timeline.options.threshold is None and self.predictor.thresholds is None:
            log.warning("%s: has no thresholds, so every label holds from 0.5 on; give --threshold", model)
        carried = self.predictor.carried
        self._carried = CarriedModels(carried, self.predictor.spec) if carried else None
        self._embedder = Embedder(self.extractor.settings, self._carried and self._carried.by_modality, longest)

    def label(self, source: Source) -> LabelledVideo:
        """The labels of one video; one that cannot be read has an `error`."""
        try:
            embedded = self._embedder.embed(source.path)
        except DataError as error:
            return LabelledVideo(str(source.path), error=str(error))
        frames = to_frames(embedded, self.extractor, self._carried)
        probabilities_C, probabilities_TC = self.timeline.probabilities(frames)
        spans = self.timeline.spans(probabilities_TC, embedded.duration)
        holds_C = probabilities_C >= self.timeline.thresholds_C
        labels = [
            Label(self.predictor.vocabulary[index], float(probabilities_C[index]), spans[index])
            for index in np.argsort(-probabilities_C, kind="stable")
            if spans[index] or holds_C[index]
        ]
        rate = self.timeline.rate
        return LabelledVideo(str(source.path), embedded.duration, labels, probabilities_TC, rate, notes=embedded.notes)


def label(
    model: str | Path,
    videos: str | Path | Sequence[str | Path],
    window: float | None = None,
    hop: float | None = None,
    threshold: float | None = None,
) -> Iterator[LabelledVideo]:
    """Label videos: what is in them, and when. Each is read when you ask for it.

    Arguments:
        model: a packed `.onnx` file, or its address `hf://owner/name`.
        videos: files, folders or globs.
        window, hop: of the timeline (see `TimelineOptions`). By default it comes from the model's frame probabilities
            if it has them, else from windows of 5 seconds, one per second.
        threshold: probability at which a label holds. By default each label's own, which the packed file has.

    Raises:
        ModelFileError, DataError, VidfitError: as `Labeller`, or no video is found.
    """
    labeller = Labeller(model, TimelineOptions(window, hop, threshold))
    names = [videos] if isinstance(videos, str | Path) else videos
    return (labeller.label(source) for source in find_sources(names, labels_count=False))
