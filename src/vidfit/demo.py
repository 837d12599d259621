"""The demo: a generated corpus and a recipe that runs every stage on it.

Leaves in its folder what a user's own project would have: `corpus/`, `demo.yaml` and `run/`. A second call skips what
is there already.
"""

from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from vidfit import display
from vidfit.features.synthetic import CorpusConfig, write_corpus
from vidfit.files import replacing
from vidfit.pipeline import run
from vidfit.recipe import load_recipe

RECIPE = "demo.yaml"


def run_demo(folder: Path) -> dict[str, Any]:
    """Generate the corpus, copy the recipe, run it; returns the run's summary.

    Raises:
        OutputError: the folder cannot be written, or holds a run of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "corpus").exists():
        with display.counting_bar("generating videos") as show:
            write_corpus(folder / "corpus", CorpusConfig(), show)
    if not (folder / RECIPE).exists():
        with replacing(folder / RECIPE) as partial:
            partial.write_text(_recipe_text(), encoding="utf-8")
    return run(load_recipe(folder / RECIPE), folder / "run")


def _recipe_text() -> str:
    installed = package_files("vidfit") / RECIPE
    checkout = Path(__file__).parents[2] / "recipes" / RECIPE
    return (installed if installed.is_file() else checkout).read_text(encoding="utf-8")
