"""What is to be fitted: data, bytes and the folder, and the recipes of its trainings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vidfit.export.metadata import metadata_bytes
from vidfit.export.weight_formats import graph_bytes
from vidfit.fitting.dataset import Dataset
from vidfit.progress import OnProgress
from vidfit.quantization.member import architecture
from vidfit.quantization.state import is_big
from vidfit.quantization.uniform import INT8, QuantizedTensor
from vidfit.recipe import MemberConfig, Recipe
from vidfit.run_data import RunData
from vidfit.search.carried import carried_bytes, extractor_in_8_bits, known_extractor

GRAPH_BYTES = 15_000
"""Bytes of a graph that are no weights, for each member; generous."""

MemberSettings = dict[str, Any]
"""A member as a recipe has it."""


@dataclass(frozen=True)
class Task:
    """Data, bytes and the folder.

    Attributes:
        dataset: the videos.
        data: what is known of them.
        budget: bytes of the file.
        directory: the run folder.
        on_progress: called a few times a second.
        with_extractor: the file holds the models for pictures and sounds too, in 8 bits.
        precision: what thresholds are to reach; None means the best F1.
    """

    dataset: Dataset
    data: RunData
    budget: int
    directory: Path
    on_progress: OnProgress
    with_extractor: bool = False
    precision: float | None = None

    @property
    def videos(self) -> int:
        """How many there are to learn from."""
        return sum(self.data.surveys[shard].videos for shard in self.dataset.shards)

    @property
    def unlabelled(self) -> int:
        """How many of them have no label."""
        return sum(self.data.surveys[shard].unlabelled for shard in self.dataset.shards)

    @cached_property
    def common_bytes(self) -> int:
        """What the file takes besides members: what describes features and labels, and the extractor it holds."""
        if self.with_extractor:
            carried = extractor_in_8_bits(known_extractor(self.data.extractor))
            return carried_bytes(carried, self.data.spec, self.data.vocabulary.names)
        return metadata_bytes(self.data.spec, self.data.vocabulary.names, self.data.extractor)

    @property
    def room(self) -> int:
        """Bytes for members."""
        return self.budget - self.common_bytes

    def least_bytes(self, settings: MemberSettings) -> int:
        """About what a member takes in a file, in 8 bits."""
        info = self.data.member_info("tried", MemberConfig.model_validate(settings))
        tensors = architecture(info).values()
        in_8_bits = (QuantizedTensor(it, INT8, it, it) if is_big(it) else it for it in tensors)
        return GRAPH_BYTES + sum(graph_bytes(it) if isinstance(it, QuantizedTensor) else it.nbytes for it in in_8_bits)

    def recipe(
        self,
        members: Mapping[str, MemberSettings],
        train: Sequence[Path],
        validation: Sequence[Path],
        eval: Sequence[Path] = (),
        pack: Mapping[str, Any] | None = None,
    ) -> Recipe:
        """A recipe of these members and shards; `pack` has more keys of that section."""
        sets = {"train": train, "validation": validation, "eval": eval}
        of_frames = any(member["family"]["type"] == "frame-classifier" for member in members.values())
        named: dict[str, Any] = (
            {"precision": self.precision} if validation else {"members": dict.fromkeys(members, 1.0)}
        )
        if self.with_extractor:
            named["with_extractor"] = True
        return Recipe.model_validate(
            {
                "data": {name: [str(shard.resolve()) for shard in shards] for name, shards in sets.items() if shards}
                | {"vocabulary": str(self.dataset.vocabulary.resolve()), "skip_corrupt": self.data.skip_corrupt},
                "members": dict(members),
                "pack": {"budget": str(self.budget), "frame_probabilities": of_frames} | named | dict(pack or {}),
            }
        )
