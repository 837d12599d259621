"""A recipe: one YAML document that says everything a run does, checked before anything starts.

Unknown keys, missing keys and wrong values are errors that name the key. Paths are relative to the recipe's own
folder, so a recipe works from any working directory. `docs/reference/recipe.md` describes every key.
"""

import re
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from vidfit.errors import RecipeError, reason
from vidfit.models.classifier import ClassifierConfig
from vidfit.quantization import Codebook
from vidfit.sizes import parse_size
from vidfit.training.config import TrainingConfig
from vidfit.training.distillation import DistillConfig


class Strict(BaseModel):
    """A mapping of the recipe: keys that it does not know are errors."""

    model_config = ConfigDict(extra="forbid")


class DataConfig(Strict):
    """Where the videos are. Each of the three sets is one pattern or a list: a file, a folder or a glob."""

    train: list[str]
    validation: list[str] = Field(description="selects: best checkpoint, early stop; never trained on")
    eval: list[str] = Field(description="measured once, at the end")
    vocabulary: str = Field(description="a CSV of label names")
    skip_corrupt: bool = Field(default=False, description="pass over corrupt records instead of stopping")

    @field_validator("train", "validation", "eval", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class MemberConfig(ClassifierConfig):
    """One model of the run: its family, its head, and how it is trained."""

    training: TrainingConfig


class QuantizeConfig(Strict):
    """How the members' big tensors become 8 bits a weight."""

    codebook: Codebook = Field(
        default="uniform", description="levels: evenly spaced, at quantiles, or by k-means; the last two to compare"
    )


class PackConfig(Strict):
    """The one graph file."""

    budget: str = Field(description="bytes the finished file may take: 1GB (10^9), 1GiB, 20MB, ...")
    members: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None = Field(
        default=None,
        min_length=1,
        description="name -> weight in the average, in 8 bits or, if they do not fit, in narrower widths that are "
        "searched for; where absent, members and weights are searched for, too",
    )
    max_ms: float | None = Field(default=None, gt=0, description="milliseconds a video, where they are searched for")
    portable: bool = Field(
        default=False,
        description="operators of the ONNX standard alone: slower where weights have less than 8 bits",
    )

    @model_validator(mode="after")
    def _only_a_search_has_a_limit_of_time(self) -> "PackConfig":
        if self.members and self.max_ms:
            raise ValueError("max_ms limits a search; leave pack.members out to have one")
        return self

    @field_validator("budget", mode="before")
    @classmethod
    def _a_number_is_bytes(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value

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

    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    data: DataConfig
    training: dict[str, Any] = Field(default={}, description="what every member's `training` starts from")
    members: dict[str, MemberConfig] = Field(min_length=1)
    distill: DistillConfig | None = Field(default=None, description="what members learn from beside the labels")
    quantize: QuantizeConfig = QuantizeConfig()
    pack: PackConfig

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
    def _named_members_exist(self) -> "Recipe":
        teachers = self.distill.teachers if self.distill else None
        named = [("pack.members", name) for name in self.pack.members or ()]
        named += [("distill.teachers", name) for name in teachers or () if teachers != "own"]
        for key, name in named:
            if name not in self.members:
                raise ValueError(f"{key} names {name!r}, which is not among members: {', '.join(self.members)}")
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
        raise RecipeError(f"{path}: {_describe(error, document)}") from error
    folder = path.resolve().parent
    data = recipe.data
    for patterns in (data.train, data.validation, data.eval):
        patterns[:] = [str(folder / pattern) for pattern in patterns]
    data.vocabulary = str(folder / data.vocabulary)
    if recipe.distill and recipe.distill.soft_labels:
        recipe.distill.soft_labels = str(folder / recipe.distill.soft_labels)
    return recipe


def _inherit(shared: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A member's training. Its own `epochs` put the shared `steps` aside, and the other way round."""
    ends = {"steps", "epochs"}
    inherited = {key: value for key, value in shared.items() if not (key in ends and ends & own.keys())}
    ours, theirs = own.get("averaging"), shared.get("averaging")
    if isinstance(ours, dict) and isinstance(theirs, dict):
        own = {**own, "averaging": theirs | ours}
    return inherited | own


def _parse(text: bytes | str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # a ValueError is of an impossible date
        raise RecipeError(f"{where}: not YAML: {reason(error)}") from error


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


def _describe(error: ValidationError, document: dict[str, Any]) -> str:
    """The first problem, as one line that names the key the way the recipe spells it."""
    # A misspelt key is a missing one too: the unknown ones first.
    errors = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    problems = [(_place(problem, document), problem) for problem in errors]
    first, _ = problems[0]
    # Where a value may have several forms, the form that it came furthest in tells best what is wrong with it.
    place, problem = max((it for it in problems if it[0][: len(first)] == first), key=lambda it: len(it[0]))
    others = {place for place, _ in problems if place[: len(first)] != first}
    where, more = ".".join(place), f" (and {len(others)} more mistakes)" if others else ""
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where}; the keys here are {', '.join(_known_keys(problem['loc'][:-1]))}{more}"
    if problem["type"] == "missing":
        return f"missing key {where}{more}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message}{more}" if where else f"{message}{more}"


def _place(problem: Any, document: dict[str, Any]) -> tuple[str, ...]:
    """The keys down to a problem that the recipe itself has; pydantic's also name the form that a value was read as."""
    keys = problem["loc"]
    match keys:
        case ("members", name, "training", *inner):
            own = document["members"][name].get("training")
            if own is None or (inner and isinstance(own, dict) and inner[0] not in own):
                keys = keys[2:]
    missing = keys[-1:] if problem["type"] == "missing" else ()
    place, node = [], document
    for key in keys[: len(keys) - len(missing)]:
        if isinstance(node, list) or (isinstance(node, dict) and key in node):
            node = node[key]
            place.append(str(key))
    return (*place, *missing)


def _known_keys(place: tuple[int | str, ...]) -> list[str]:
    """Keys of a mapping of the recipe; `place` is pydantic's, which for a union has the `type` of the variant."""
    kind: Any = Recipe
    for key in place:
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
        elif variants := get_args(kind):
            kind = next(it for it in variants if key in get_args(it.model_fields["type"].annotation))
        else:
            kind = kind.model_fields[key].annotation
        if NoneType in get_args(kind):
            kind = get_args(kind)[0]
    return [field.alias or name for name, field in kind.model_fields.items()]
