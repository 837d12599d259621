"""The demos: made data and a recipe that runs every stage on them.

Each leaves in its folder what a user's own project would have: the data, the recipe and `run/`. A second call skips
what is there already.
"""

import os
from pathlib import Path
from typing import Any

from vidfit.bundled_recipes import recipe_text
from vidfit.errors import OutputError
from vidfit.features.synthetic import CorpusConfig, write_corpus
from vidfit.files import make_folder, write_text
from vidfit.pipeline import run
from vidfit.progress import OnProgress, counter, silent
from vidfit.recipe import load_recipe


def run_demo(folder: Path, on_progress: OnProgress = silent) -> dict[str, Any]:
    """Generate features in `folder/corpus`, copy the recipe, run it; returns the run's summary.

    Raises:
        OutputError: the folder cannot be written, or holds something else than this version's demo.
    """
    recipe = _copy_recipe("demo", folder)
    # A corpus has its vocabulary last.
    if not (folder / "corpus" / "vocabulary.csv").exists():
        write_corpus(folder / "corpus", CorpusConfig(), counter(on_progress, "generating", "videos"))
    return run(load_recipe(recipe), folder / "run", on_progress=on_progress)


def run_video_demo(folder: Path, on_progress: OnProgress = silent) -> dict[str, Any]:
    """Make clips in `folder/videos` and `folder/new`, extract features, run the recipe; returns the run's summary.

    Raises:
        DataError: the backbones' files are missing.
        OutputError: the folder cannot be written, or holds something else than this version's demo.
        VidfitError: PyAV is not installed.
    """
    from vidfit.videos.backbones import EFFICIENTNET_LITE0, YAMNET, model_file
    from vidfit.videos.extract import Plan, extract
    from vidfit.videos.extractor import FILE, Settings
    from vidfit.videos.sources import find_sources
    from vidfit.videos.synthetic import write_clips

    backbones = (EFFICIENTNET_LITE0, YAMNET)
    for backbone in backbones:
        model_file(backbone)  # before clips are made, for it may be missing
    recipe = _copy_recipe("demo-videos", folder)
    for name, count, seed in (("videos", 160, 0), ("new", 4, 1)):
        if not (folder / name / "labels.csv").exists():
            write_clips(folder / name, count, seed, counter(on_progress, "making clips", "videos"))
    if not (folder / "features" / FILE).exists():
        splits = {"train": 0.6, "validation": 0.2, "eval": 0.2}
        sources = find_sources([folder / "videos" / "labels.csv"])
        plan = Plan(sources, Settings(backbones=backbones), splits)
        extract(plan, folder / "features", os.cpu_count() or 1, on_progress)
    return run(load_recipe(recipe), folder / "run", on_progress=on_progress)


def _copy_recipe(name: str, folder: Path) -> Path:
    recipe, text = folder / f"{name}.yaml", recipe_text(name)
    if recipe.exists() and recipe.read_text(encoding="utf-8") != text:
        raise OutputError(
            f"{recipe}: is not the recipe of this version's demo; remove {folder} or choose another folder with -o "
            f"(to go on with this one: vidfit run {recipe} -o {folder / 'run'})"
        )
    make_folder(folder)
    if not recipe.exists():
        write_text(recipe, text)
    return recipe
