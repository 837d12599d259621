"""The demo: a generated corpus and a recipe that runs every stage on it.

Leaves in its folder what a user's own project would have: `corpus/`, `demo.yaml` and `run/`. A second call skips what
is there already.
"""

from pathlib import Path
from typing import Any

from vidfit.bundled_recipes import recipe_text
from vidfit.errors import OutputError
from vidfit.features.synthetic import CorpusConfig, write_corpus
from vidfit.files import make_folder, replacing
from vidfit.pipeline import run
from vidfit.progress import OnProgress, counter, silent
from vidfit.recipe import load_recipe

RECIPE = "demo.yaml"


def run_demo(folder: Path, on_progress: OnProgress = silent) -> dict[str, Any]:
    """Generate the corpus, copy the recipe, run it; returns the run's summary.

    Raises:
        OutputError: the folder cannot be written, or holds something else than this version's demo.
    """
    recipe, text = folder / RECIPE, recipe_text("demo")
    if recipe.exists() and recipe.read_text(encoding="utf-8") != text:
        raise OutputError(
            f"{recipe}: is not the recipe of this version's demo; remove {folder} or choose another folder with -o "
            f"(to go on with this one: vidfit run {recipe} -o {folder / 'run'})"
        )
    make_folder(folder)
    # A corpus has its vocabulary last.
    if not (folder / "corpus" / "vocabulary.csv").exists():
        write_corpus(folder / "corpus", CorpusConfig(), counter(on_progress, "generating", "videos"))
    if not recipe.exists():
        with replacing(recipe) as partial:
            partial.write_text(text, encoding="utf-8")
    return run(load_recipe(recipe), folder / "run", on_progress=on_progress)
