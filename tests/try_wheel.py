"""Installs a wheel into a fresh environment outside the checkout and runs a small recipe with it: `make test-wheel`.

The environment borrows the dependencies of the one that runs this script, so nothing is downloaded. test_imports.py
checks that each of them is declared.
"""

import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path


def main(wheel: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "env")
        binaries = folder / "env" / "bin"

        def call(program: str, *arguments: str) -> str:
            print("$", program, *arguments, flush=True)
            result = subprocess.run([binaries / program, *arguments], cwd=folder, check=True, stdout=subprocess.PIPE)
            return result.stdout.decode()

        # By the pip of this environment: to install one takes longer than all else.
        into = ("--python", binaries / "python")
        subprocess.run(
            [sys.executable, "-m", "pip", *into, "install", "--quiet", "--no-deps", wheel.resolve()], check=True
        )
        site = Path(call("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
