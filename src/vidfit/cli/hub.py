"""The command that shares a file: push."""

from pathlib import Path
from typing import Annotated

import typer

from vidfit.cli.app import app


@app.command()
def push(
    model: Annotated[Path, typer.Argument(help="A packed .onnx file. Metrics are those of the run it lies in.")],
    name: Annotated[str, typer.Argument(help="The repository, owner/name. Created if it is missing.")],
    private: Annotated[bool, typer.Option("--private", help="Hide the repository, if it is a new one.")] = False,
) -> None:
    """Push a packed file and its model card to the Hugging Face Hub.

    Log in first, with `hf auth login`. Then `vidfit.load("hf://owner/name")` loads it. Needs
    `pip install 'vidfit[hub]'`.
    """
    from vidfit.hub.repository import push

    print(push(model, name, private))
