"""The data of a run: read and checked once, for every stage after that."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vidfit.errors import DataError
from vidfit.features.clips import Clips
from vidfit.features.loader import Batches
from vidfit.features.shards import expand_shards, identity, infer_spec, read_videos
from vidfit.features.spec import FeatureSpec, Vocabulary
from vidfit.features.survey import Survey, survey_shards
from vidfit.features.tfrecord import CorruptRecordError
from vidfit.models.classifier import ClassifierConfig
from vidfit.progress import OnProgress, counter
from vidfit.recipe import DataConfig, MemberConfig
from vidfit.search.validation import BATCH_SIZE
from vidfit.training.checkpoint import MemberInfo
from vidfit.videos.extractor import check_features, extractor_beside

log = logging.getLogger(__name__)

FEW_POSITIVES = 10
"""A label with fewer training videos is warned of."""
_MOST_NAMED = 10


@dataclass(frozen=True)
class RunData:
    """What the shards hold (`read_data`), and what follows for a recipe's members (preflight.py)."""

    shards: dict[str, list[Path]]
    """Of `train`, `validation` and `eval`."""
    surveys: dict[Path, Survey]
    """Checksum and labels of each shard."""
    vocabulary: Vocabulary
    spec: FeatureSpec
    skip_corrupt: bool
    labelled_only: bool
    extractor: str | None = None
    """How videos become these features, where `vidfit extract` made them."""
    parameters: dict[str, int] = field(default_factory=dict)
    """Weights of each member."""
    clips: dict[str, Clips] = field(default_factory=dict)
    """How members that learn from rated segments cut videos into them."""
    soft_labels: list[dict[str, Any]] = field(default_factory=list)
    """What each file of given soft labels was made from."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each other file that a training reads: members to start from, tables of intervals."""

    def batches(self, shards: Sequence[Path], batch_size: int = BATCH_SIZE, **options: Any) -> Batches:
        """Batches of some of the shards; for the options see `Batches`."""
        return Batches(
            shards,
            self.spec,
            len(self.vocabulary),
            batch_size,
            skip_corrupt=self.skip_corrupt,
            labelled_only=self.labelled_only,
            **options,
        )

    def member_info(self, name: str, member: MemberConfig) -> MemberInfo:
        """What is to be trained."""
        return MemberInfo(
            name=name,
            classifier=ClassifierConfig(encoder=member.encoder, family=member.family, head=member.head),
            spec=self.spec,
            vocabulary=self.vocabulary.names,
            step=0,
            gap_validation=None,
            extractor=self.extractor,
        )


def read_data(config: DataConfig, on_progress: OnProgress, vocabulary_key: str = "data.vocabulary") -> RunData:
    """Read what there is to know of shards before a training, and check it.

    Arguments:
        config: which shards, and how to read them.
        on_progress: called a few times a second.
        vocabulary_key: what the user gave the vocabulary by, for messages.

    Raises:
        DataError: shards or the vocabulary are missing, empty, damaged or do not fit each other.
        ModelFileError: shards were extracted in different ways.
    """
    shards = {
        which: expand_shards(patterns, lambda line, which=which: log.warning("data.%s: %s", which, line))
        if (patterns := getattr(config, which))
        else []
        for which in ("train", "validation", "eval")
    }
    check_disjoint(shards)
    every = [shard for own in shards.values() for shard in own]
    vocabulary = Vocabulary.from_csv(Path(config.vocabulary))
    surveys = survey_shards(every, counter(on_progress, "reading checksums and labels", "shards"))
    spec = infer_spec(shards["train"], config.skip_corrupt)
    extractor = extractor_beside(Path(config.vocabulary), spec)
    check_features(extractor, every, vocabulary_key)
    labelled_only = config.unlabelled == "skip"
    data = RunData(shards, surveys, vocabulary, spec, config.skip_corrupt, labelled_only, extractor)
    check_copies(data)
    for which in shards:
        if shards[which]:
            check_labels(which, data)
            check_spec(which, data)
    return data


def describe_data(data: RunData) -> dict[str, Any]:
    """For the summary: `videos` of each set, `labels`, how many of these are `rare` in training, and names of some."""
    videos = {which: sum(data.surveys[shard].videos for shard in shards) for which, shards in data.shards.items()}
    rare = [name for name, _ in _rare_labels(data)]
    return {"videos": videos, "labels": len(data.vocabulary), "rare": len(rare), "rare_labels": rare[:_MOST_NAMED]}


def check_disjoint(shards: Mapping[str, Sequence[Path]]) -> None:
    """No shard is in two of the three sets `train`, `validation` and `eval`."""
    for first, second in (("train", "validation"), ("train", "eval"), ("validation", "eval")):
        taken = {identity(shard): shard for shard in shards[first]}
        for shard in shards[second]:
            if other := taken.get(identity(shard)):
                also = "" if other == shard else f", there as {other}"
                raise DataError(f"{shard}: is in both data.{first} and data.{second}{also}; a shard may be in one only")


def check_copies(data: RunData) -> None:
    """No shard has the content of one in another set. Shards without videos may."""
    first: dict[str, tuple[str, Path]] = {}
    for which, shards in data.shards.items():
        for shard in shards:
            survey = data.surveys[shard]
            other, original = first.setdefault(survey.sha256, (which, shard))
            if survey.videos and other != which:
                raise DataError(
                    f"{shard}: data.{which} has it, and data.{other} has the same content as {original}; "
                    "a shard may be in one only"
                )


def check_labels(which: str, data: RunData) -> None:
    """The set `which` has labels, all in the vocabulary, and no corrupt record unless these are to be skipped."""
    classes, skip_corrupt = len(data.vocabulary), data.skip_corrupt
    surveys = {shard: data.surveys[shard] for shard in data.shards[which]}
    for shard, survey in surveys.items():
        outside = survey.lowest < 0 or survey.highest >= classes
        if outside or (survey.corrupt and not skip_corrupt):
            # Reading it names the record.
            for video in read_videos(shard, data.spec, classes):
                if isinstance(video, CorruptRecordError) and not skip_corrupt:
                    raise video
    videos = sum(survey.videos for survey in surveys.values())
    if videos == sum(survey.unlabelled for survey in surveys.values()):
        raise DataError(f"data.{which}: none of its videos has a label; give labelled shards")


def check_spec(which: str, data: RunData) -> None:
    """The set `which` has the same features as the training shards: names, sizes, dtypes."""
    if (found := infer_spec(data.shards[which], data.skip_corrupt)) != data.spec:
        first, other = data.shards["train"][0], data.shards[which][0]
        raise DataError(f"{other}: has {_sizes(found)}, and {first} {_sizes(data.spec)}; give others")


def _sizes(spec: FeatureSpec) -> str:
    return ", ".join(f"{modality.name!r} of {modality.size} {modality.dtype}" for modality in spec.modalities)


def tell_of_labels(data: RunData, of_recipe: bool = True) -> None:
    """Log what a user should know of the labels: how many videos have none or all have one, and which are rare.

    Arguments:
        data: what the shards hold.
        of_recipe: whether the user wrote a recipe, whose keys the lines then name.
    """
    for which, shards in data.shards.items():
        videos = sum(data.surveys[shard].videos for shard in shards)
        unlabelled = sum(data.surveys[shard].unlabelled for shard in shards)
        if unlabelled:
            what = "are left out" if data.labelled_only else "count as videos that no label fits"
            if of_recipe and not data.labelled_only:
                what += "; `data.unlabelled: skip` leaves them out"
            where = f"data.{which}" if of_recipe else f"for {which}"
            log.warning("%s: %s of %s videos have no label; they %s", where, f"{unlabelled:,}", f"{videos:,}", what)
    of_videos = {which: [data.surveys[shard] for shard in data.shards[which]] for which in ("train", "validation")}
    known = [survey for surveys in of_videos.values() for survey in surveys]
    if all(survey.one_label + data.labelled_only * survey.unlabelled == survey.videos for survey in known):
        log.info("each video has exactly one label, so accuracy and top-5 accuracy are reported too")
    if rare := _rare_labels(data):
        some = ", ".join(f"{name!r} {count}" for name, count in rare[:_MOST_NAMED])
        some += ", ..." if len(rare) > _MOST_NAMED else ""
        log.warning(
            "%s of %s labels have fewer than %d videos, too few to learn them well: %s",
            f"{len(rare):,}", f"{len(data.vocabulary):,}", FEW_POSITIVES, some,
        )  # fmt: skip


def _rare_labels(data: RunData) -> list[tuple[str, int]]:
    """Labels that few training videos have, with how many have them."""
    names, surveys = data.vocabulary.names, [data.surveys[shard] for shard in data.shards["train"]]
    positives_C = np.sum([survey.count_positives(len(names)) for survey in surveys], axis=0)
    return [(name, int(count)) for name, count in zip(names, positives_C, strict=True) if count < FEW_POSITIVES]
