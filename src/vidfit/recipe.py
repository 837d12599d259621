"""A recipe: one YAML document that says everything a run does, checked before anything starts.

Unknown keys, missing keys and wrong values are errors that name the key. Paths are relative to the recipe's own
folder, so a recipe works from any working directory. `docs/recipe.md` describes every key.
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from vidfit.errors import RecipeError
from vidfit.models.classifier import ClassifierConfig
from vidfit.packing.size import parse_size
from vidfit.training.loop import TrainingConfig


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


class PackConfig(Strict):
    """The one graph file."""

    budget: str = Field(description="bytes the finished file may take: 1GB (10^9), 1GiB, 20MB, ...")
    members: dict[str, float] = Field(description="name -> weight in the average; weights are divided by their sum")

    @field_validator("budget")
    @classmethod
    def _is_a_size(cls, value: str) -> str:
        parse_size(value)
        return value

    @field_validator("members", mode="before")
    @classmethod
    def _a_list_means_equal_weights(cls, value: Any) -> Any:
        return dict.fromkeys(value, 1.0) if isinstance(value, list) else value

    @field_validator("members")
    @classmethod
    def _weights_are_positive(cls, value: dict[str, float]) -> dict[str, float]:
        if not value or min(value.values()) <= 0:
            raise ValueError("name at least one member, each with a weight above 0")
        return value


class Recipe(Strict):
    """A whole run: data, members and their training, and the file that they are packed into."""

    seed: int = 0
    data: DataConfig
    training: dict[str, Any] = Field(default={}, description="what every member's `training` starts from")
    members: dict[str, MemberConfig] = Field(min_length=1)
    pack: PackConfig

    @model_validator(mode="before")
    @classmethod
    def _members_inherit_training(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("members"), dict):
            return value
        shared = value.get("training") or {}
        members = {
            name: {**member, "training": {**shared, **(member.get("training") or {})}}
            if isinstance(member, dict)
            else member
            for name, member in value["members"].items()
        }
        return {**value, "members": members}

    @model_validator(mode="after")
    def _packed_members_exist(self) -> "Recipe":
        for name in self.pack.members:
            if name not in self.members:
                raise ValueError(f"pack.members names {name!r}, which is not among members: {', '.join(self.members)}")
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
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot read the recipe: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise RecipeError(f"{path}: a recipe is a mapping with the keys data, members and pack")
    for override in overrides:
        _set(document, override)
    try:
        recipe = Recipe.model_validate(document)
    except ValidationError as error:
        raise RecipeError(f"{path}: {_describe(error)}") from error
    folder = path.resolve().parent
    data = recipe.data
    for patterns in (data.train, data.validation, data.eval):
        patterns[:] = [str(folder / pattern) for pattern in patterns]
    data.vocabulary = str(folder / data.vocabulary)
    return recipe


def _set(document: dict[str, Any], override: str) -> None:
    keys, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(f"--set {override}: write key.key=value, such as training.steps=100")
    *parents, last = keys.split(".")
    for key in parents:
        document = document.setdefault(key, {})
        if not isinstance(document, dict):
            raise RecipeError(f"--set {override}: {key} is not a mapping")
    document[last] = yaml.safe_load(value)


def _describe(error: ValidationError) -> str:
    """The first problem, as one line that names the key the way the recipe spells it."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where}: remove it or see docs/recipe.md for the keys{more}"
    if problem["type"] == "missing":
        return f"missing key {where}{more}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {message}{more}" if where else f"{message}{more}"
