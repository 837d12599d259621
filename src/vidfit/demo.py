"""The demo: a generated corpus and a recipe that runs every stage on it.

Leaves in its folder what a user's own project would have: `corpus/`, `demo.yaml` and `run/`. A second call skips what
is there already.
"""

from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from vidfit import progress
from vidfit.errors import OutputError
from vidfit.features.synthetic import CorpusConfig, write_corpus
from vidfit.files import make_folder, replacing
from vidfit.pipeline import run
from vidfit.recipe import load_recipe

RECIPE = "demo.yaml"


def run_demo(folder: Path) -> dict[str, Any]:
    """Generate the corpus, copy the recipe, run it; returns the run's summary.

    Raises:
        OutputError: the folder cannot be written, or holds something else than this version's demo.
    """
    recipe, text = folder / RECIPE, _recipe_text()
    if recipe.exists() and recipe.read_text(encoding="utf-8") != text:
        raise OutputError(
            f"{recipe}: is not the recipe of this version's demo; remove {folder} or choose another folder with -o "
            f"(to go on with this one: vidfit run {recipe} -o {folder / 'run'})"
        )
    make_folder(folder)
    # A corpus has its vocabulary last.
    if not (folder / "corpus" / "vocabulary.csv").exists():
        with progress.counting_bar("generating videos") as show:
            write_corpus(folder / "corpus", CorpusConfig(), show)
    if not recipe.exists():
        with replacing(recipe) as partial:
            partial.write_text(text, encoding="utf-8")
    return run(load_recipe(recipe), folder / "run")


def _recipe_text() -> str:
    installed = package_files("vidfit") / RECIPE
    checkout = Path(__file__).parents[2] / "recipes" / RECIPE
    return (installed if installed.is_file() else checkout).read_text(encoding="utf-8")
