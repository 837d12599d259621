"""The data of a run: what a recipe names, read and checked once (preflight.py), for every stage after that."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidfit.features.clips import Clips
from vidfit.features.loader import Batches
from vidfit.features.spec import FeatureSpec, Vocabulary
from vidfit.features.survey import Survey, digests
from vidfit.models.classifier import ClassifierConfig
from vidfit.recipe import MemberConfig
from vidfit.search.validation import BATCH_SIZE
from vidfit.training.checkpoint import MemberInfo
from vidfit.training.config import TrainingConfig
from vidfit.videos.extractor import steps_per_second
from vidfit.videos.sources import read_intervals


@dataclass(frozen=True)
class RunData:
    """What a recipe's `data` holds, and what follows for its members."""

    shards: dict[str, list[Path]]
    """Of `train`, `validation` and `eval`."""
    surveys: dict[Path, Survey]
    """Checksum and labels of each shard."""
    vocabulary: Vocabulary
    spec: FeatureSpec
    skip_corrupt: bool
    labelled_only: bool
    parameters: dict[str, int] = field(default_factory=dict)
    """Weights of each member."""
    soft_labels: list[dict[str, Any]] = field(default_factory=list)
    """What each file of given soft labels was made from."""
    extractor: str | None = None
    """How videos become these features, where `vidfit extract` made them."""
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

    def digests(self, shards: Sequence[Path]) -> list[tuple[str, str]]:
        """What a stage records of the shards that it reads: name and checksum of each."""
        return digests(shards, self.surveys)

    def member_info(self, name: str, member: MemberConfig) -> MemberInfo:
        """What is to be trained."""
        return MemberInfo(
            name=name,
            classifier=ClassifierConfig(encoder=member.encoder, family=member.family, head=member.head),
            spec=self.spec,
            vocabulary=self.vocabulary.names,
            step=0,
            gap_validation=-1.0,
            extractor=self.extractor,
        )

    def clips(self, training: TrainingConfig) -> Clips | None:
        """How a training cuts videos into rated segments; None if it learns from whole videos.

        Raises:
            DataError: the table of intervals is wrong.
        """
        config = training.segments
        if config is None:
            return None
        names, table = self.vocabulary.names, config.table
        rate = steps_per_second(self.extractor, [*self.shards["train"], *self.shards["validation"]])
        intervals = read_intervals(Path(table), names) if table else None
        return Clips(config.context, rate, len(names), intervals, config.seconds, table or "")
