"""The documents agree with the program: links lead somewhere, and commands and their options exist."""

import re
from pathlib import Path

import pytest
import typer

from vidfit.cli import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What headings are called in a link, as GitHub and the site call them."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(text: str) -> list[str]:
    """Every `vidfit COMMAND ...` in code, on one line each."""
    code = re.findall(r"```.*?```|`[^`\n]*`", text.replace("\\\n", " "), flags=re.DOTALL)
    lines = [line for block in code for line in block.strip("`").splitlines()]
    return [found for line in lines for found in re.findall(r"(?:^|-m |\s)vidfit ([a-z][^#]*)", line.strip())]


def options(command: str) -> set[str]:
    return {name for parameter in COMMANDS[command].params for name in parameter.opts} | {"--help"}


def problems(text: str) -> list[str]:
    """What the command line does not know."""
    found = []
    for line in commands(text):
        command, *words = line.split()
        if command not in COMMANDS:
            found.append(f"vidfit {command}")
            continue
        used = {word.partition("=")[0].strip("[]") for word in words if re.match(r"\[?--?[a-z]", word)}
        found += [f"vidfit {command} {option}" for option in sorted(used - options(command))]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.is_file(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("page", [*PAGES, *RECIPES], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_option_exists(page: Path):
    text = page.read_text()
    assert not problems(text if page.suffix == ".md" else re.sub(r"(vidfit .*)", r"`\1`", text))


def test_an_unknown_command_or_option_is_found():
    text = "```sh\nvidfit run my.yaml -o RUN --fast\nvidfit fly\n```\nor `torchrun -m vidfit train R --set a=1`"
    assert problems(text) == ["vidfit run --fast", "vidfit fly"]


def test_the_command_line_page_names_every_command():
    text = (ROOT / "docs" / "reference" / "command-line.md").read_text()
    assert [name for name in COMMANDS if f"`vidfit {name}`" not in text] == []


def test_every_document_that_the_code_names_exists():
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py"), *RECIPES]
    named = {name for source in sources for name in re.findall(r"\bdocs/[\w/-]+\.md\b", source.read_text())}
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
