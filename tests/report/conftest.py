"""Run folders for the report: as `vidfit run` leaves them, and with all that a run may have."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

FRONTIER = {
    "points": [
        {
            "bytes": size,
            "gap": gap,
            "gap_selection": 0.5,
            "gap_confirmation": 0.48,
            "members": [
                {"name": name, "weight": 1 / len(names), "bits": 4.5, "bytes": size // (len(names) + 1)}
                for name in names
            ],
        }
        for size, gap, names in (
            (50_000, 0.5, ["lstm"]),
            (120_000, None, ["vlad"]),
            (400_000, 0.62, ["vlad", "lstm"]),
        )
    ],
    "baselines": {
        "best single 8-bit member": [{"bytes": 100_000, "gap": 0.55}, {"bytes": 20_000, "gap": 0.1}],
        "equal-weight 8-bit ensemble": [{"bytes": 350_000, "gap": 0.6}],
        "fp16 ensemble": [{"bytes": 800_000, "gap": 0.61}],
    },
}


def change(path: Path, key: str, value: Any) -> None:
    """Set a key of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


def section(page: Path, title: str) -> str:
    """The HTML of a section, from its title on."""
    text = page.read_text(encoding="utf-8")
    return text[text.index(f"<h2>{title}</h2>") :].split("</section>")[0]


def words(html: str) -> str:
    """What a reader sees."""
    return " ".join(re.sub("<[^>]*>", " ", html).split())


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("*.onnx", "*.safetensors")))


@pytest.fixture
def unmeasured(folder: Path) -> Path:
    """A finished run of a recipe without validation and eval shards."""
    summary = json.loads((folder / "summary.json").read_text())
    unknown = dict.fromkeys(("gap_validation", "gap", "map", "gap_quantized"))
    members = [member | unknown for member in summary["members"]]
    packed = summary["packed"] | dict.fromkeys(("gap", "map", "hit_at_1", "perr"))
    packed = {key: value for key, value in packed.items() if key not in ("micro_f1", "macro_f1", "accuracy")}
    (folder / "summary.json").write_text(json.dumps({"members": members, "teachers": [], "packed": packed}))
    (folder / "labels.json").unlink()
    (folder / "frontier.json").unlink(missing_ok=True)
    for log in folder.glob("members/*/log.jsonl"):
        lines = [json.loads(line) | {"gap": None} for line in log.read_text().splitlines()]
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def full(folder: Path) -> Path:
    """A finished run with a teacher, averaged weights, sizes by tensor and a frontier."""
    (folder / "frontier.json").write_text(json.dumps(FRONTIER))
    packed = json.loads((folder / "summary.json").read_text())["packed"]
    for member in packed["members"]:
        tensor = {"name": "family.hidden.weight", "shape": [640, 32], "grid": "4/64", "bytes": 11_520}
        member |= {"bytes": 30_000, "bits": 4.6, "tensors": [tensor]}
    change(folder / "summary.json", "packed", packed)
    teacher = {"generation": 0, "name": "vlad", "fold": None, "step": 8, "gap_validation": 0.25}
    change(folder / "summary.json", "teachers", [teacher])
    shutil.copytree(folder / "members" / "vlad", folder / "distillation" / "0" / "teachers" / "vlad")
    log = folder / "members" / "lstm" / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    lines[-1]["averaged"] = True
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
