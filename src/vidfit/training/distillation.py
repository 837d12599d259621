"""Distillation: members learn from teachers' probabilities as well as from labels.

The loss is `weight * BCE(p, teachers) + (1 - weight) * BCE(p, labels)`. BCE is linear in its targets, so it is the BCE
of targets that mix both.

Source: Hinton et al. 2015 (arXiv 1503.02531) for distillation; Skalic & Austin 2018 for the loss and generations.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator

from vidfit.errors import DataError
from vidfit.features.batch import Batch, sent
from vidfit.files import PathText
from vidfit.training.soft_labels import SoftLabels


class DistillConfig(BaseModel):
    """What members learn from beside the labels. Give `generations` or `soft_labels`.

    The loss is `weight * BCE(p, teacher) + (1 - weight) * BCE(p, labels)`.
    """

    model_config = ConfigDict(extra="forbid")

    generations: int | None = Field(
        default=None,
        gt=0,
        description="how often students become teachers. With 2, labels teach teachers, these teach a generation, "
        "and that one teaches the members",
    )
    soft_labels: PathText | None = Field(
        default=None, min_length=1, description="a folder that `vidfit soft-label` wrote for every training video"
    )
    teachers: Annotated[list[str], Field(min_length=1)] | Literal["own"] | None = Field(
        default=None,
        description="members whose mean teaches everyone (those in `pack.members`, else all); `own`: each member "
        "learns from its predecessor",
    )
    folds: int | None = Field(
        default=None,
        gt=1,
        description="train each teacher this many times, each without one part of the shards, which it then labels",
    )
    weight: float = Field(default=0.5, gt=0, le=1, description="of the teachers' part of the loss")
    top_k: int = Field(default=100, gt=0, description="probabilities kept per video; the others count as 0")

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if (self.generations is None) == (self.soft_labels is None):
            raise ValueError("give either generations or soft_labels")
        if self.soft_labels is not None and self.model_fields_set & {"teachers", "folds", "top_k"}:
            raise ValueError("soft_labels are there already: teachers, folds and top_k belong to generations")
        if self.teachers and len(set(self.teachers)) < len(self.teachers) and self.teachers != "own":
            raise ValueError("teachers names one twice")
        return self


@dataclass
class SoftTargets:
    """Training targets: labels mixed with soft labels of a given weight."""

    soft_labels: SoftLabels
    weight: float

    def mixed(self, ids: Sequence[str], labels_BC: torch.Tensor) -> torch.Tensor:
        """`weight * soft + (1 - weight) * labels`, float32 `[B, C]`.

        Cross-entropy is linear in its targets. So its value at this mixture is the mixed loss of the method,
        `weight * BCE(p, soft) + (1 - weight) * BCE(p, labels)`.

        Raises:
            KeyError: with the ids that have no soft labels.
        """
        return torch.lerp(labels_BC, sent(self.soft_labels.of(ids), labels_BC.device), self.weight)

    def incomplete(self, known: Sequence[str], batches: Iterable[Batch]) -> DataError:
        """The error for training videos without soft labels, some of which are known; reads all ids to count them."""
        missing, videos = set(known), set(known)
        for batch in batches:
            missing.update(self.soft_labels.missing(batch.ids))
            videos.update(batch.ids)
        return DataError(
            f"{self.soft_labels.directory}: {len(missing):,} of {len(videos):,} training videos have no soft labels "
            f"there, such as {known[0]}; run `vidfit soft-label` over all training shards"
        )
