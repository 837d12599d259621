"""What a recipe's data are, and whatever is wrong with them or with the recipe, before the first training step.

Each check raises the error that says what is wrong: RecipeError, DataError or BudgetError.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vidfit import distributed
from vidfit.errors import BudgetError, DataError, RecipeError
from vidfit.features.loader import Batches
from vidfit.features.shards import expand_shards, identity, infer_spec, read_videos
from vidfit.features.spec import FeatureSpec, Video, Vocabulary
from vidfit.features.survey import survey_shards
from vidfit.features.tfrecord import CorruptRecordError
from vidfit.files import file_digest
from vidfit.inference.packed_thresholds import read_thresholds
from vidfit.models.classifier import VideoClassifier
from vidfit.progress import OnProgress, counter, silent
from vidfit.recipe import DataConfig, MemberConfig, PackConfig, Recipe
from vidfit.run_data import RunData
from vidfit.search.validation import Validation
from vidfit.sizes import format_size, parse_size
from vidfit.training.checkpoint import member_file, starting_weights
from vidfit.training.distillation import DistillConfig, SoftTargets
from vidfit.training.soft_labels import SoftLabels, check_ids, check_names, read_soft_labels_info, soft_labels_files
from vidfit.videos.extractor import check_features, extractor_beside

log = logging.getLogger(__name__)

FEW = 10
"""A label with fewer training videos is warned of."""


def check(recipe: Recipe, on_progress: OnProgress = silent) -> RunData:
    """Read what a recipe names and check all that can be checked before training.

    Raises:
        DataError: shards or the vocabulary are missing, empty, damaged or do not fit each other.
        RecipeError: a member's options do not fit the shards.
        BudgetError: what is to be packed cannot fit.
    """
    data = _read(recipe.data, on_progress)
    soft_labels = []
    if recipe.distill and recipe.distill.soft_labels:
        folder = Path(recipe.distill.soft_labels)
        check_soft_labels(folder, data.batches(data.shards["train"]), data.vocabulary)
        soft_labels = [read_soft_labels_info(file).model_dump() for file in soft_labels_files(folder)]
    if recipe.distill:
        check_distillation(recipe.distill, data.shards["train"])
    check_copies(data)
    for which, shards in data.shards.items():
        if shards:
            check_labels(which, data)
    parameters = {
        name: count_parameters(name, config, data.spec, len(data.vocabulary)) for name, config in recipe.members.items()
    }
    check_budget(recipe.pack, parameters)
    check_ranks(recipe.members)
    if not recipe.pack.members or needs_narrow_weights(recipe.pack, parameters):
        check_search(data)
    extractor = extractor_beside(Path(recipe.data.vocabulary), data.spec)
    check_features(extractor, [shard for shards in data.shards.values() for shard in shards], "data.vocabulary")
    data = replace(data, parameters=parameters, soft_labels=soft_labels, extractor=extractor)
    for name, member in recipe.members.items():
        check_start(name, member, data)
        check_segments(name, member, data)
    if recipe.pack.thresholds:
        read_thresholds(Path(recipe.pack.thresholds), data.vocabulary.names)
    return replace(data, files=_digests_of_files(recipe))


def check_start(name: str, member: MemberConfig, data: RunData) -> None:
    """The member that a training starts from has its weights."""
    if member.training.start:
        info = data.member_info(name, member)
        with torch.device("meta"):
            model = info.build()
        starting_weights(member.training.start, info, model)


def check_segments(name: str, member: MemberConfig, data: RunData) -> None:
    """There are rated segments to learn from, and to choose the best checkpoint by."""
    clips = data.clips(member.training)
    if clips is None:
        return
    if data.spec.level == "video":
        raise RecipeError(f"members.{name}.training.segments: these shards have one frame per video; remove segments")
    for which in ("train", "validation"):
        # Raises where there is none.
        next(iter(data.batches(data.shards[which], 1, clips=clips)))


def _digests_of_files(recipe: Recipe) -> dict[str, str]:
    trainings = [member.training for member in recipe.members.values()]
    starts = {training.start: member_file(training.start) for training in trainings if training.start}
    tables = {table: Path(table) for own in trainings if own.segments and (table := own.segments.table)}
    thresholds = {table: Path(table) for table in [recipe.pack.thresholds] if table}
    return {path: file_digest(file) for path, file in {**starts, **tables, **thresholds}.items()}


def _read(config: DataConfig, on_progress: OnProgress) -> RunData:
    shards = {
        which: expand_shards(patterns, lambda line, which=which: log.warning("data.%s: %s", which, line))
        if (patterns := getattr(config, which))
        else []
        for which in ("train", "validation", "eval")
    }
    check_disjoint(shards)
    return RunData(
        shards=shards,
        vocabulary=Vocabulary.from_csv(Path(config.vocabulary)),
        surveys=survey_shards(
            [shard for paths in shards.values() for shard in paths],
            counter(on_progress, "reading checksums and labels", "shards"),
        ),
        spec=infer_spec(shards["train"], config.skip_corrupt),
        skip_corrupt=config.skip_corrupt,
        labelled_only=config.unlabelled == "skip",
    )


def needs_narrow_weights(pack: PackConfig, parameters: Mapping[str, int]) -> bool:
    """Whether the members to be packed are above the budget with a byte for each weight."""
    return sum(parameters[name] for name in pack.members or ()) > parse_size(pack.budget)


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


def check_soft_labels(folder: Path, batches: Batches, vocabulary: Vocabulary) -> None:
    """Given soft labels are there for the first video of each training shard, `batches`' own."""
    soft_labels = SoftLabels(folder, vocabulary.names)
    for shard in batches.shards:
        videos = read_videos(shard, batches.spec, batches.classes)
        first = next((video.id for video in videos if isinstance(video, Video)), None)
        if first is not None and soft_labels.missing([first]):
            raise SoftTargets(soft_labels, 1).incomplete([first], batches)


def check_distillation(distill: DistillConfig, shards: Sequence[Path]) -> None:
    """The training shards can have soft labels of their own, and are enough for the folds."""
    if distill.generations:
        check_names(shards)
    folds = distill.folds or 1
    if folds > len(shards):
        raise RecipeError(
            f"distill.folds: a fold is a part of the shards, and of {len(shards)} training shards "
            f"there are not {folds} parts"
        )


def check_ids_of_shards(shards: Sequence[Path]) -> None:
    """Each training video has an id of its own. Reads all shards, so do it once, before the teachers are trained."""
    read = ((shard, [video.id for video in read_videos(shard) if isinstance(video, Video)]) for shard in shards)
    check_ids([(shard, np.array([id.encode() for id in ids], bytes)) for shard, ids in read])


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


def tell_of_labels(data: RunData) -> None:
    """Log what a user should know of the labels: how many videos have none or all have one, and which are rare."""
    for which, shards in data.shards.items():
        videos = sum(data.surveys[shard].videos for shard in shards)
        unlabelled = sum(data.surveys[shard].unlabelled for shard in shards)
        what = "count as videos that no label fits; `data.unlabelled: skip` leaves them out"
        if unlabelled:
            what = "are left out" if data.labelled_only else what
            log.warning(
                "data.%s: %s of %s videos have no label; they %s", which, f"{unlabelled:,}", f"{videos:,}", what
            )
    of_videos = {which: [data.surveys[shard] for shard in data.shards[which]] for which in ("train", "validation")}
    known = [survey for surveys in of_videos.values() for survey in surveys]
    if all(survey.one_label + data.labelled_only * survey.unlabelled == survey.videos for survey in known):
        log.info("each video has exactly one label, so accuracy and top-5 accuracy are reported too")
    names = data.vocabulary.names
    positives_C = np.sum([survey.count_positives(len(names)) for survey in of_videos["train"]], axis=0)
    rare = [name for name, positives in zip(names, positives_C, strict=True) if positives < FEW]
    if rare:
        some = ", ".join(map(repr, rare[:3])) + (", ..." if len(rare) > 3 else "")
        log.warning(
            "data.train: %s of %s labels have fewer than %d videos, too few to learn them well: %s",
            f"{len(rare):,}", f"{len(names):,}", FEW, some,
        )  # fmt: skip


def count_parameters(name: str, config: MemberConfig, spec: FeatureSpec, classes: int) -> int:
    """Weights of a member, built without memory; what its options cannot do with these shards shows here."""
    try:
        with torch.device("meta"):
            classifier = VideoClassifier(config, spec, classes)
    except RecipeError as error:
        raise RecipeError(f"members.{name}.family.{error}") from error
    return sum(parameter.numel() for parameter in classifier.parameters())


def check_budget(pack: PackConfig, parameters: Mapping[str, int]) -> None:
    """What cannot fit need not be trained: a weight takes a quarter of a byte at least.

    Arguments:
        pack: budget and, maybe, which members are to be in the file.
        parameters: weights of every member, by name.
    """
    budget = parse_size(pack.budget)
    if not pack.members:
        name, weights = min(parameters.items(), key=lambda item: item[1])
        if weights // 4 > budget:
            raise BudgetError(
                f"pack.budget: the smallest member, {name}, takes {format_size(weights // 4)} at least, more than "
                f"{format_size(budget)}: add a smaller one or raise the budget"
            )
        return
    bytes_needed = {name: parameters[name] // 4 for name in pack.members}
    if sum(bytes_needed.values()) > budget:
        each = ", ".join(f"{name} {format_size(size)}" for name, size in bytes_needed.items())
        raise BudgetError(
            f"pack.budget: the packed members take {format_size(sum(bytes_needed.values()))} at least ({each}), "
            f"more than {format_size(budget)}: leave a member out, make one smaller or raise the budget"
        )


def check_search(data: RunData) -> None:
    """There are videos to choose members and bit widths by."""
    if not data.shards["validation"]:
        raise RecipeError(
            "pack.budget: the members take more in 8 bits, and a search for narrower weights needs data.validation; "
            "give it, or raise the budget"
        )
    Validation(data.batches(data.shards["validation"]))


def check_ranks(members: Mapping[str, MemberConfig]) -> None:
    """A batch can be divided among the ranks."""
    for name, member in members.items():
        size, ranks = member.training.batch_size, distributed.available_ranks()
        if size % ranks:
            raise RecipeError(
                f"members.{name}.training.batch_size: {size} videos cannot be divided among {ranks} processes; "
                "give a multiple of their number, because all of them share each batch"
            )
