"""Installs a wheel into a fresh environment outside the checkout, as the Dockerfile says, runs a small recipe with it,
and serves the result: `make test-wheel`.

The environment borrows the dependencies of the one that runs this script, so nothing is downloaded. test_imports.py
checks that each of them is declared.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(wheel: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "env")
        binaries = folder / "env" / "bin"

        def call(program: str, *arguments: str) -> str:
            print("$", program, *arguments, flush=True)
            result = subprocess.run([binaries / program, *arguments], cwd=folder, check=True, stdout=subprocess.PIPE)
            return result.stdout.decode()

        site = Path(call("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        install(wheel, folder, binaries)
        where = call("python", "-c", "import vidfit; print(vidfit.__file__)").strip()
        assert Path(where).is_relative_to(folder), f"{where} is not the wheel's"

        assert "demo" in call("vidfit", "recipes")
        call("vidfit", "recipes", "demo")
        small = ("train_videos=300", "validation_videos=100", "eval_videos=60", "max_frames=12")
        call("vidfit", "synth", "corpus", *(part for number in small for part in ("--set", number)))
        short = (
            "training.steps=4",
            "distill=null",
            "training.averaging=null",
            "pack.members=[netvlad, dbof]",
            "pack.budget=4MB",
        )
        call("vidfit", "run", "demo.yaml", "-o", "run", *(part for key in short for part in ("--set", key)))
        print(call("vidfit", "evaluate", "run/model.onnx", "corpus/eval"))
        assert (folder / "run" / "report.html").exists()
        serve(folder / "run", binaries)


def steps(instruction: str) -> list[str]:
    """The arguments of an instruction of the Dockerfile, wherever it has it."""
    return re.findall(rf"^{instruction} (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def install(wheel: Path, folder: Path, binaries: Path) -> None:
    """What the image has before it starts: its files, and what it installs."""
    (copied,) = steps("COPY")
    assert copied == "constraints.txt dist/*.whl ./"
    shutil.copy(ROOT / "constraints.txt", folder)
    shutil.copy(wheel, folder)
    for command in steps("RUN"):
        print("$", command, flush=True)
        subprocess.run(["sh", "-ec", command], cwd=folder, env=environment(binaries), check=True)


def environment(binaries: Path) -> dict[str, str]:
    """That of a shell with the fresh environment's programs, and our pip: to install one takes longer than all else."""
    path = f"{binaries}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PIP_PYTHON": str(binaries / "python"), "VIDFIT_TOKEN": "secret"}


def serve(models: Path, binaries: Path) -> None:
    """What the image starts is healthy by its own check, and stops when told."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    command = [*json.loads(steps("ENTRYPOINT")[0]), *json.loads(steps("CMD")[0]), "--port", port]
    check = steps("HEALTHCHECK")[0].partition("CMD ")[2].replace("8000", port)
    print("$", *command, flush=True)
    server = subprocess.Popen(command, cwd=models, env=environment(binaries))
    try:
        while subprocess.run(["sh", "-c", check], env=environment(binaries), stderr=subprocess.DEVNULL).returncode:
            assert server.poll() is None, "the server ended"
            time.sleep(0.5)
    finally:
        server.terminate()
    assert server.wait(60) == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
