"""Modules of the web page under Node."""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(str(files("vidfit.export"))) / "web"

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js: apt-get install nodejs")

Node = Callable[..., Any]
ANSWER = """
import { createInterface } from "node:readline";
for await (const line of createInterface({ input: process.stdin })) {
    const { module, expression, it } = JSON.parse(line);
    const found = await new Function("page", "it", `return ${expression}`)(await import(module), it);
    console.log(JSON.stringify(ArrayBuffer.isView(found) ? Array.from(found) : found));
}
"""


@contextmanager
def node_process() -> Iterator[Node]:
    """Gives the value of an expression over a module of the page (`page`) and some values (`it`), awaited."""
    # Node warns of modules in a folder without package.json, which the page does not need.
    command = ["node", "--no-warnings", "--input-type=module", "--eval", ANSWER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        questions, answers = process.stdin, process.stdout
        assert questions and answers  # noqa: PT018 - for pyright

        def ask(module: str, expression: str, **values: Any) -> Any:
            question = {"module": (PAGE / module).as_uri(), "expression": expression, "it": values}
            print(json.dumps(question), file=questions, flush=True)
            return json.loads(answers.readline())

        yield ask
