"""Which extractor a file carries: the models for pictures and sounds, as they are or in 8 bits, or only one of them.

For each form, the members get the bytes that the models leave. Every file is written, and measured on validation videos
whose features that form gives. The best on the selecting half is chosen.

The run's shards hold the features of the models as they are. Those of the models in 8 bits are extracted once, from the
validation videos that `videos.csv` names (in the vocabulary's folder). They are kept:

    RUN/packing/extractor/DIGEST.tfrecord
"""

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import numpy_helper

from vidfit.errors import DataError, ModelFileError
from vidfit.export.extractor import CarriedExtractor, CarriedModel, write_extractor
from vidfit.export.graph_writer import GraphWriter
from vidfit.export.metadata import metadata_bytes
from vidfit.export.parts import extractor_parts
from vidfit.features.example import write_shard
from vidfit.features.loader import Batches
from vidfit.features.shards import read_videos
from vidfit.features.spec import FeatureSpec, Video
from vidfit.features.survey import digests, survey_shards
from vidfit.features.tfrecord import CorruptRecordError
from vidfit.files import make_folder, path_in_table, read_table
from vidfit.progress import OnProgress, counter
from vidfit.quantization.backbone import with_8_bit_weights
from vidfit.search.run_members import RunMembers
from vidfit.stages import digest
from vidfit.videos.backbones import model_file
from vidfit.videos.carried import CarriedModels
from vidfit.videos.embed import Embedder
from vidfit.videos.extract import VIDEOS
from vidfit.videos.extractor import Extractor, parse_extractor
from vidfit.videos.transform import ABSENT

# Validation videos that measure a form.
MOST_VIDEOS: Final = 512
# 8 bits are tried where a model then takes less than this share of its bytes.
_WORTH_IT: Final = 0.5


@dataclass(frozen=True)
class Form:
    """A form of the extractor.

    Attributes:
        carried: what the file carries.
        bytes: of a file that carries it and has no members.
    """

    carried: CarriedExtractor
    bytes: int

    @property
    def bits(self) -> dict[str, int]:
        """Bits of each model's weights."""
        return {name: model.bits for name, model in self.carried.models.items()}

    @property
    def title(self) -> str:
        """Its models in words."""
        settings, bits = self.carried.extractor.settings, self.bits
        models = [f"{it.name} in {bits[it.modality]} bits" for it in settings.backbones if it.modality in bits]
        return f"{' and '.join(models)}, {settings.rate:g} a second"


class Forms:
    """The forms of a run's extractor.

    Arguments:
        members: the run's members.
        on_progress: called while videos are extracted.

    Raises:
        ModelFileError: the members do not say how their features were made.
        DataError: a model's file is missing.
    """

    def __init__(self, members: RunMembers, on_progress: OnProgress) -> None:
        self._members, self._on_progress = members, on_progress
        self._extractor = known_extractor(members.info.extractor)
        self._as_they_are, self._in_8_bits = _models(self._extractor)

    @cached_property
    def all(self) -> list[Form]:
        """Each form."""
        info = self._members.info
        of_modality = [
            [(name, model) for model in (self._as_they_are[name], self._in_8_bits.get(name)) if model] + [None]
            for name in self._as_they_are
        ]
        chosen = [dict(it for it in models if it) for models in itertools.product(*of_modality)]
        carried = [CarriedExtractor(self._extractor, models) for models in chosen if models]
        return [Form(it, carried_bytes(it, info.spec, info.vocabulary)) for it in carried]

    def shard(self, form: Form) -> Path:
        """Validation videos as a form sees them, written if they are not there."""
        folder, models = self._members.directory / "packing" / "extractor", form.carried.models
        contents = {name: hashlib.sha256(it.model.SerializeToString()).hexdigest() for name, it in models.items()}
        made_of = [self._extractor.digest, contents, self._digests, self._batches.labelled_only]
        path = folder / f"{digest(made_of)[:16]}.tfrecord"
        if not path.exists():
            make_folder(folder)
            write_shard(path, (self._seen(video, models) for video in self._videos))
        return path

    def _seen(self, video: Video, models: Mapping[str, CarriedModel]) -> Video:
        frames = {name: np.full_like(array, ABSENT) for name, array in video.frames.items()}
        for name, model in models.items():
            quantized = model is self._in_8_bits.get(name)
            frames[name] = self._extracted[video.id][name] if quantized else video.frames[name]
        return Video(video.id, frames, video.labels)

    @cached_property
    def _batches(self) -> Batches:
        return self._members.batches("validation")

    @cached_property
    def _digests(self) -> list[tuple[str, str]]:
        shards = self._batches.shards
        return digests(shards, survey_shards(shards))

    @cached_property
    def _videos(self) -> list[Video]:
        videos = (
            video
            for shard in self._batches.shards
            for video in read_videos(shard, self._members.info.spec)
            if not isinstance(video, CorruptRecordError) and (len(video.labels) or not self._batches.labelled_only)
        )
        return list(itertools.islice(videos, MOST_VIDEOS))

    @cached_property
    def _extracted(self) -> dict[str, dict[str, np.ndarray]]:
        """Frames of the validation videos by the models in 8 bits (as they are, where 8 bits save nothing)."""
        carried = CarriedExtractor(self._extractor, self._as_they_are | self._in_8_bits)
        spec = self._members.info.spec
        models = CarriedModels(extractor_parts(carried, spec), spec)
        embedder = Embedder(self._extractor.settings, models.by_modality)
        paths, on_count, found = self._paths, counter(self._on_progress, "extracting validation", "videos"), {}
        for number, video in enumerate(self._videos, start=1):
            frames = models.frames(embedder.embed(paths[video.id]))
            if {it.shape for it in frames.values()} != {it.shape for it in video.frames.values()}:
                raise DataError(f"{paths[video.id]}: has changed since its features were made; extract the videos anew")
            found[video.id] = frames
            on_count(number, len(self._videos))
        return found

    @cached_property
    def _paths(self) -> dict[str, Path]:
        vocabulary = self._members.data.vocabulary
        table = Path(vocabulary).parent / VIDEOS if vocabulary else Path(VIDEOS)
        rows = read_table(table) if table.is_file() else []
        paths = {row["id"]: path_in_table(row.get("path") or "") for row in rows}
        for video in self._videos:
            if not paths.get(video.id, Path()).is_file():
                raise DataError(
                    f"{table}: names no file of the validation video {video.id!r}, which the models in 8 bits must "
                    "see; extract the videos anew, or put them back"
                )
        return paths


def known_extractor(extractor: str | None) -> Extractor:
    """The extractor of some features, of its JSON.

    Raises:
        ModelFileError: it is not known.
    """
    if extractor is None:
        raise ModelFileError(
            "the features do not say how they were made, so no file can carry their extractor; "
            "train on features of `vidfit extract` with its vocabulary.csv, or pack without"
        )
    return parse_extractor(extractor, "the features")


def extractor_in_8_bits(extractor: Extractor) -> CarriedExtractor:
    """All models of an extractor, in 8 bits.

    Raises:
        DataError: a model's file is missing.
    """
    as_they_are, in_8_bits = _models(extractor)
    return CarriedExtractor(extractor, as_they_are | in_8_bits)


def carried_bytes(carried: CarriedExtractor, spec: FeatureSpec, vocabulary: Sequence[str]) -> int:
    """Bytes of a file that carries an extractor and has no members."""
    graph = GraphWriter()
    write_extractor(graph, carried, spec)
    return len(graph.serialise()) + metadata_bytes(spec, vocabulary, *carried.metadata())


def _models(extractor: Extractor) -> tuple[dict[str, CarriedModel], dict[str, CarriedModel]]:
    """The models as they are, and in 8 bits where that saves much; by modality."""
    as_they_are, in_8_bits = {}, {}
    for backbone in extractor.settings.backbones:
        model = onnx.load(model_file(backbone))
        quantized = with_8_bit_weights(model)
        worth_it = quantized.ByteSize() < _WORTH_IT * model.ByteSize()
        as_they_are[backbone.modality] = CarriedModel(model, _bits(model))
        if worth_it:
            in_8_bits[backbone.modality] = CarriedModel(quantized, 8)
    return as_they_are, in_8_bits


def _bits(model: onnx.ModelProto) -> int:
    """Bits of most of a model's weights."""
    bits: dict[int, int] = {}
    for tensor in model.graph.initializer:
        own = 8 * numpy_helper.to_array(tensor).itemsize
        bits[own] = bits.get(own, 0) + math.prod(tensor.dims)
    return max(bits, key=bits.__getitem__, default=32)
