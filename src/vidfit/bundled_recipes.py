"""The recipes that come with vidfit: listed by `vidfit recipes`, copied to start your own from."""

from importlib.resources import files as package_files
from importlib.resources.abc import Traversable
from pathlib import Path

from vidfit.errors import OutputError, RecipeError
from vidfit.files import write_text


def first_lines() -> dict[str, str]:
    """Name of each recipe -> the first line of its comment."""
    recipes = {path.name.removesuffix(".yaml"): path for path in _folder().iterdir() if path.name.endswith(".yaml")}
    return {
        name: path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for name, path in sorted(recipes.items())
    }


def recipe_text(name: str) -> str:
    """The YAML of a recipe.

    Raises:
        RecipeError: there is no such recipe.
    """
    path = _folder() / f"{name}.yaml"
    if not path.is_file():
        raise RecipeError(f"{name}: there is no such recipe; there are {', '.join(first_lines())}")
    return path.read_text(encoding="utf-8")


def copy_recipe(name: str, target: Path, overwrite: bool = False) -> None:
    """Write a recipe to a file of yours.

    Raises:
        RecipeError: there is no such recipe.
        OutputError: the file exists already, or cannot be written.
    """
    text = recipe_text(name)
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists already; choose another name or add --overwrite")
    write_text(target, text)


def _folder() -> Traversable:
    installed = package_files("vidfit") / "recipes"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"
