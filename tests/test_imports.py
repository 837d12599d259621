"""Imports point only down the path of the data; public names are what `__all__` says."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import vidfit

PACKAGE = Path(vidfit.__file__).parent

# What each room may use, beside itself and the rooms of everybody.
EVERYBODY = {"errors", "files", "locks", "checksum", "sizes", "progress", "distributed", "processes"}
PATH = ["features", "kernels", "models", "training", "quantization", "export", "hub", "inference", "report", "serving"]
# videos/ is the first room on the path of the data, but it writes shards: so it uses features/. Only rooms that answer
# for whole videos (inference/) use it.
BESIDE = {"evaluation": {"features"}, "videos": {"features"}}
ABOVE = {
    "strict_yaml",
    "recipe_mistakes",
    "recipe",
    "environment",
    "preflight",
    "run_data",
    "stages",
    "search",
    "pipeline",
    "fitting",
    "demo",
    "training_jobs",
    "lineage",
    "bundled_recipes",
    "summary",
    "cli",
    "__init__",
    "__main__",
}


def allowed(room: str) -> set[str]:
    everybody = {*EVERYBODY, room}
    if room in EVERYBODY:
        return everybody
    if room in BESIDE:
        return everybody | BESIDE[room]
    beside = set(BESIDE) if PATH.index(room) >= PATH.index("training") else set()
    return everybody | set(PATH[: PATH.index(room)]) | beside


def imports(file: Path) -> set[str]:
    """Rooms of vidfit that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "vidfit" else [node.module]
            )
        found |= {name.split(".")[1] for name in names if name and name.startswith("vidfit.")}
    return found


FILES = [
    file
    for file in sorted(PACKAGE.rglob("*.py"))
    if file.relative_to(PACKAGE).parts[0].removesuffix(".py") not in ABOVE
]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_down_the_path(file: Path):
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert imports(file) <= allowed(room)


def test_the_models_know_neither_training_nor_evaluation():
    assert allowed("models") == EVERYBODY | {"features", "kernels", "models"}
    assert {"models", "evaluation"} <= allowed("training")


@pytest.mark.parametrize("module", ["vidfit.inference.label", "vidfit.inference.predictor", "vidfit.videos.extract"])
def test_packed_files_and_videos_need_no_pytorch(module: str):
    """Its import takes seconds."""
    code = f"import sys, {module}; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_every_public_name_is_there():
    assert vidfit.__all__ == sorted(vidfit.__all__)
    assert set(vidfit.__all__) > set(vidfit._HOMES)
    for name in set(vidfit.__all__) - {"__version__"}:
        assert getattr(vidfit, name).__module__.startswith("vidfit.")
    assert re.fullmatch(r"\d+\.\d+\.\d+", vidfit.__version__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vidfit.nothing


def test_every_imported_package_is_declared():
    """What is only installed by chance would be missing for a user of the wheel."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *(line for name in extras if name != "dev" for line in extras[name])]
    declared = {line.split(">")[0].split("=")[0].split("[")[0].strip().lower() for line in requirements}
    distributions = packages_distributions()
    missing = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in {name.split(".")[0] for name in names} - {"vidfit", *sys.stdlib_module_names}:
                if not {it.lower().replace("_", "-") for it in distributions.get(name, [name])} & declared:
                    missing.add(f"{file.name}: {name}")
    assert not missing
