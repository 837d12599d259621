"""A recipe: one YAML document that says everything a run does, checked before anything starts.

Unknown keys, missing keys and wrong values are errors that name the key. Paths are relative to the recipe's own
folder, so a recipe works from any working directory; `~` is your home. The reference consists of the descriptions of
the fields (`tools/recipe_keys.py`).
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from vidfit.errors import RecipeError, reason
from vidfit.files import PathText
from vidfit.models.classifier import ClassifierConfig
from vidfit.models.heads import LogisticConfig
from vidfit.recipe_mistakes import describe
from vidfit.sizes import parse_size
from vidfit.strict_yaml import parse_yaml
from vidfit.training.config import TrainingConfig
from vidfit.training.distillation import DistillConfig


class Strict(BaseModel):
    """A mapping of the recipe: keys that it does not know are errors."""

    model_config = ConfigDict(extra="forbid")


class DataConfig(Strict):
    """Where the videos are. A set is a file, folder, cache or glob, or a list of these. No shard is in two sets."""

    train: list[PathText] = Field(description="shards to learn from; the first record says modalities and sizes")
    validation: list[PathText] = Field(
        default=[],
        description="shards that choose checkpoints, members and thresholds; without them, each training keeps its "
        "last weights, and you name `pack.members`",
    )
    eval: list[PathText] = Field(default=[], description="shards to measure the result on, at the end")
    vocabulary: PathText = Field(
        description="CSV of label names: `index,display_name`, `label_id,label_name` or `Index`, `Name`"
    )
    skip_corrupt: bool = Field(default=False, description="skip damaged records")
    unlabelled: Literal["keep", "skip"] = Field(
        default="keep", description="videos without a label: keep them as videos that no label fits, or skip them"
    )

    @field_validator("train", "validation", "eval", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class MemberConfig(ClassifierConfig):
    """`name: {family, head, encoder, training}`. Names consist of letters, digits, `_`, `.` and `-`."""

    training: TrainingConfig

    @model_validator(mode="after")
    def _only_a_linear_member_is_solved(self) -> "MemberConfig":
        plain = isinstance(self.head, LogisticConfig) and not (self.head.dropout or self.head.label_gating)
        if self.training.solver == "lbfgs" and not (plain and self.family.type == "mean" and self.encoder is None):
            raise ValueError(
                "training.solver: lbfgs is for family mean with a logistic head, without encoder, dropout and "
                "label_gating; take adam"
            )
        return self

    @model_validator(mode="after")
    def _noisy_or_sees_each_frame_once(self) -> "MemberConfig":
        """It grows with the number of frames, and a draw with replacement has `sample_frames` of every video."""
        if getattr(self.family, "pooling", None) == "noisy-or" and self.training.sampling != "none":
            raise ValueError("pooling noisy-or counts frames as prediction does; it needs training.sampling: none")
        return self


class PackConfig(Strict):
    """The packed file."""

    budget: str = Field(description="size limit of the file: `1GB` (10^9), `1GiB` (2^30), `20MB`, `4096`")
    members: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = Field(
        default=None,
        min_length=1,
        description="`{name: weight}`, or a list for equal weights; in 8 bits if they fit, else in searched bit "
        "widths. Without it, members and weights are searched",
    )
    max_ms: float | None = Field(
        default=None, gt=0, description="most milliseconds per video on this machine; only with a search"
    )
    portable: bool = Field(
        default=False,
        description="use only standard ONNX operators; weights of fewer than 8 bits then take 8 in memory",
    )

    frame_probabilities: bool = Field(
        default=False,
        description="a second output: probabilities of each frame, from the packed frame classifiers",
    )
    with_extractor: bool = Field(
        default=False, description="put the models for pictures and sounds into the file; the budget holds for all"
    )
    thresholds: PathText | None = Field(
        default=None,
        min_length=1,
        description="your own thresholds, a CSV file `label,threshold`; without it, validation videos choose",
    )
    precision: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="precision that thresholds are to reach, such as 0.9; without it, they give the best F1",
    )

    odds: float = Field(
        default=1,
        gt=0,
        allow_inf_nan=False,
        description="factor of the odds `p / (1 - p)` of all probabilities, by which `vidfit fit` calibrates; it "
        "changes no ranking",
    )

    @model_validator(mode="after")
    def _only_a_search_has_a_limit_of_time(self) -> "PackConfig":
        if self.members and self.max_ms:
            raise ValueError("max_ms limits a search; leave pack.members out to have one")
        return self

    @model_validator(mode="after")
    def _given_thresholds_are_not_chosen(self) -> "PackConfig":
        if self.thresholds and self.precision:
            raise ValueError("precision chooses thresholds, and thresholds gives them; remove one")
        return self

    @field_validator("budget", mode="before")
    @classmethod
    def _a_number_is_bytes(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) else value

    @field_validator("budget")
    @classmethod
    def _is_a_size(cls, value: str) -> str:
        parse_size(value)
        return value

    @field_validator("members", mode="before")
    @classmethod
    def _a_list_means_equal_weights(cls, value: Any) -> Any:
        is_names = isinstance(value, list) and all(isinstance(name, str) for name in value)
        return dict.fromkeys(value, 1.0) if is_names else value


class Recipe(Strict):
    """A whole run: data, members and their training, and the file that they are packed into."""

    seed: int = Field(
        default=0,
        ge=0,
        le=2**31 - 1,
        description="fixes everything random: same seed, same weights on the same machine",
    )
    data: DataConfig
    training: dict[str, Any] = Field(default={}, description="what every member's `training` starts from")
    members: dict[str, MemberConfig] = Field(min_length=1)
    distill: DistillConfig | None = Field(default=None, description="what members learn from beside the labels")
    pack: PackConfig

    @model_validator(mode="before")
    @classmethod
    def _codebooks_are_gone(cls, value: Any) -> Any:
        """vidfit 0.1 wrote `quantize: {codebook: uniform}` into every run folder. That is what is done now."""
        if not isinstance(value, dict) or "quantize" not in value:
            return value
        if value["quantize"] != {"codebook": "uniform"}:
            raise ValueError("quantize.codebook was removed, levels are always evenly spaced; remove `quantize`")
        return {key: part for key, part in value.items() if key != "quantize"}

    @model_validator(mode="before")
    @classmethod
    def _members_inherit_training(cls, value: Any) -> Any:
        """What is no mapping is left to the check of its own field."""
        if not isinstance(value, dict) or not isinstance(value.get("members"), dict):
            return value
        shared = value.get("training", {})
        members = {}
        for name, member in value["members"].items():
            own = (member.get("training") or {}) if isinstance(member, dict) else None
            if isinstance(shared, dict) and isinstance(own, dict):
                member = {**member, "training": _inherit(shared, own)}
            members[name] = member
        return {**value, "members": members}

    @field_validator("members")
    @classmethod
    def _names_are_folders(cls, value: dict[str, MemberConfig]) -> dict[str, MemberConfig]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
                raise ValueError(
                    f"{name!r} cannot name a member's folder; use letters, digits, '_', '.' and '-', "
                    "the first a letter or a digit"
                )
        return value

    @model_validator(mode="after")
    def _validation_videos_choose(self) -> "Recipe":
        if self.data.validation:
            return self
        if not self.pack.members:
            raise ValueError("a search for members needs data.validation; give it, or name pack.members")
        for name, member in self.members.items():
            if member.training.patience:
                raise ValueError(f"members.{name}.training: patience needs data.validation; give it")
        return self

    @model_validator(mode="after")
    def _named_members_exist(self) -> "Recipe":
        teachers = self.distill.teachers if self.distill else None
        named = [("pack.members", name) for name in self.pack.members or ()]
        named += [("distill.teachers", name) for name in teachers or () if teachers != "own"]
        for key, name in named:
            if name not in self.members:
                raise ValueError(f"{key} names {name!r}, which is not among members: {', '.join(self.members)}")
        return self

    @model_validator(mode="after")
    def _segments_have_no_teachers(self) -> "Recipe":
        if self.distill and any(member.training.segments for member in self.members.values()):
            raise ValueError("distill teaches whole videos, and training.segments learns from parts; remove one")
        return self

    @model_validator(mode="after")
    def _frame_classifiers_are_packed(self) -> "Recipe":
        packed = [self.members[name] for name in self.pack.members or self.members if name in self.members]
        if self.pack.frame_probabilities and not any(member.has_frame_probabilities for member in packed):
            raise ValueError("pack.frame_probabilities needs a packed member of type frame-classifier; add one")
        return self


def load_recipe(path: Path | str, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read and check a recipe.

    Arguments:
        path: the YAML file.
        overrides: `key.key=value` each, applied before the check; the value is YAML.

    Returns:
        The recipe, its paths made absolute (from the recipe's folder).

    Raises:
        RecipeError: the file is missing, is not YAML, or a key is unknown, missing or has a wrong value.
    """
    path = Path(path)
    try:
        text = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{path}: cannot read the recipe: {error.strerror}") from error
    document = _parse(text, str(path))
    if not isinstance(document, dict):
        raise RecipeError(f"{path}: a recipe is a mapping with the keys data, members and pack")
    for override in overrides:
        _set(document, override)
    try:
        recipe = Recipe.model_validate(document)
    except ValidationError as error:
        raise RecipeError(f"{path}: {describe(error, document, Recipe)}") from error
    folder = path.resolve().parent
    data = recipe.data
    for patterns in (data.train, data.validation, data.eval):
        patterns[:] = [_absolute(folder, pattern) for pattern in patterns]
    data.vocabulary = _absolute(folder, data.vocabulary)
    if recipe.distill and recipe.distill.soft_labels:
        recipe.distill.soft_labels = _absolute(folder, recipe.distill.soft_labels)
    if recipe.pack.thresholds:
        recipe.pack.thresholds = _absolute(folder, recipe.pack.thresholds)
    for member in recipe.members.values():
        training = member.training
        if training.start:
            training.start = _absolute(folder, training.start)
        if training.segments and training.segments.table:
            training.segments.table = _absolute(folder, training.segments.table)
    return recipe


def _absolute(folder: Path, path: str) -> str:
    return str(folder / os.path.expanduser(path))


def _inherit(shared: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A member's training. Its own `epochs` replace the shared `steps`, and the other way round."""
    ends = {"steps", "epochs"}
    inherited = {key: value for key, value in shared.items() if not (key in ends and ends & own.keys())}
    ours, theirs = own.get("averaging"), shared.get("averaging")
    if isinstance(ours, dict) and isinstance(theirs, dict):
        own = {**own, "averaging": theirs | ours}
    return inherited | own


def _parse(text: bytes | str, where: str) -> Any:
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise RecipeError(f"{where}: {reason(error)}") from error


def _set(document: dict[str, Any], override: str) -> None:
    keys, equals, value = override.partition("=")
    *parents, last = keys.split(".")
    if not equals or "" in (*parents, last):
        raise RecipeError(f"--set {override}: write key.key=value, such as training.steps=100")
    for key in parents:
        document = document.setdefault(key, {})
        if not isinstance(document, dict):
            raise RecipeError(f"--set {override}: {key} is not a mapping")
    document[last] = _parse(value, f"--set {override}")
