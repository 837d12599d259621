"""The trained members of a run folder, checked to fit into one file."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from vidfit.errors import DataError, ModelFileError
from vidfit.features.loader import Batches
from vidfit.features.shards import expand_shards
from vidfit.recipe import DataConfig, Recipe
from vidfit.search.validation import BATCH_SIZE
from vidfit.training.checkpoint import BEST, MemberInfo, read_info
from vidfit.videos.extractor import check_features


@dataclass(frozen=True)
class RunMembers:
    """Members that may go into a packed file.

    Attributes:
        directory: the run folder.
        data: the run's shards.
        files: name -> float member file.
        infos: name -> what the member is.
        weights: name -> weight in the average, sum 1. None if the search chooses members and weights.
    """

    directory: Path
    data: DataConfig
    files: dict[str, Path]
    infos: dict[str, MemberInfo]
    weights: dict[str, float] | None

    @classmethod
    def read(cls, directory: Path, recipe: Recipe, weights: Mapping[str, float] | None = None) -> "RunMembers":
        """Read the members of a run, or only those with a weight.

        Raises:
            ModelFileError: no member is trained, a named one is missing, or two have different features or labels.
        """
        every = {name: directory / "members" / name / BEST for name in recipe.members}
        files = {name: file for name, file in every.items() if file.exists()}
        if not files:
            raise ModelFileError(f"{directory}: has no trained member; train some with `vidfit run` or `vidfit train`")
        for name in weights or ():
            if name not in files:
                raise ModelFileError(f"{directory}: has no trained member {name!r}; it has {', '.join(files)}")
        if weights:
            files = {name: files[name] for name in weights}
            weights = {name: weight / sum(weights.values()) for name, weight in weights.items()}
        infos = {name: read_info(file) for name, file in files.items()}
        _check_that_they_fit_together(files, infos)
        return cls(directory, recipe.data, files, infos, dict(weights) if weights else None)

    @property
    def info(self) -> MemberInfo:
        """The first member. All have its features and labels."""
        return next(iter(self.infos.values()))

    def folder(self, name: str) -> Path:
        """Where the candidates of a member are kept."""
        return self.directory / "packing" / name

    def batches(self, which: str) -> Batches:
        """The run's `train`, `validation` or `eval` videos, in their shards' order.

        Raises:
            DataError: the recipe names none.
            ModelFileError: by now, these are features of another extractor.
        """
        named = getattr(self.data, which)
        if not named:
            raise DataError(
                f"{self.directory / 'recipe.yaml'}: has no data.{which}, which this needs; "
                "add some videos, or call `vidfit fit` again with another budget and another -o"
            )
        shards = expand_shards(named)
        check_features(self.info.extractor, shards, "the members")
        return Batches(
            shards,
            self.info.spec,
            len(self.info.vocabulary),
            BATCH_SIZE,
            skip_corrupt=self.data.skip_corrupt,
            labelled_only=self.data.unlabelled == "skip",
        )


def check_same_labels(one: RunMembers, other: RunMembers) -> None:
    """Raises ModelFileError where two runs have other labels."""
    for number, (first, second) in enumerate(zip_longest(one.info.vocabulary, other.info.vocabulary)):
        if first != second:
            raise ModelFileError(
                f"{other.directory}: its label {number} is {_quoted(second)}, that of {one.directory} is "
                f"{_quoted(first)}; train both runs with the same vocabulary"
            )


def check_same_videos(one: RunMembers, other: RunMembers, which: str) -> None:
    """Raises ModelFileError where two runs have other `validation` or `eval` videos, or in another order."""
    pairs = zip_longest(_videos(one, which), _videos(other, which), fillvalue=(None, ()))
    for number, ((id, labels), (other_id, other_labels)) in enumerate(pairs):
        if id != other_id:
            raise ModelFileError(
                f"{other.directory}: its {which} video {number} is {_quoted(other_id)}, that of {one.directory} is "
                f"{_quoted(id)}; extract the same videos, with the same splits, for both runs"
            )
        if labels != other_labels:
            raise ModelFileError(
                f"{other.directory}: its {which} video {id!r} has other labels than that of {one.directory}; extract "
                "the same videos, with the same labels, for both runs"
            )


def _videos(run: RunMembers, which: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Id and labels of each video."""
    for batch in run.batches(which):
        labels = batch.labels.split(batch.label_counts.tolist())
        yield from zip(batch.ids, (tuple(its.tolist()) for its in labels), strict=True)


def _quoted(name: str | None) -> str:
    return "missing" if name is None else repr(name)


def _check_that_they_fit_together(files: Mapping[str, Path], infos: Mapping[str, MemberInfo]) -> None:
    first, *others = infos
    for name in others:
        if infos[name].data != infos[first].data:
            raise ModelFileError(
                f"{files[name]}: has other features or labels than {files[first]}; train it again with this run's "
                "recipe"
            )
