"""Imports point only down the path of the data; public names are what `__all__` says."""

import ast
from pathlib import Path

import pytest

import vidfit

PACKAGE = Path(vidfit.__file__).parent

# What each room may use, beside itself and the rooms of everybody.
EVERYBODY = {"errors", "files", "checksum", "sizes", "distributed"}
PATH = ["features", "kernels", "models", "training", "quantization", "export", "inference", "report"]
BESIDE = {"evaluation": {"features"}}
ABOVE = {
    "recipe",
    "progress",
    "environment",
    "preflight",
    "stages",
    "search",
    "pipeline",
    "demo",
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


def test_every_public_name_is_there():
    assert vidfit.__all__ == sorted(vidfit._HOMES)
    for name in vidfit.__all__:
        assert getattr(vidfit, name).__module__.startswith("vidfit.")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vidfit.nothing
