"""The model card of a packed file: README.md of its repository."""

import json
from pathlib import Path
from typing import Any, Final

from vidfit.export.metadata import PackedInfo
from vidfit.sizes import format_size
from vidfit.videos.backbones import EFFICIENTNET_LITES, YAMNET
from vidfit.videos.extractor import parse_extractor

_MOST_LABELS: Final = 100
_LICENCES: Final = {
    **dict.fromkeys((it.name for it in EFFICIENTNET_LITES), "Apache-2.0"),
    YAMNET.name: "Apache-2.0; the package that carries its weights states none",
}
_METRICS: Final = {"gap": "GAP@20", "map": "mAP", "hit_at_1": "Hit@1", "perr": "PERR"}


def write_card(model: Path, info: PackedInfo, name: str) -> str:
    """The card's text: YAML between `---`, then Markdown.

    Arguments:
        model: the packed file; metrics come from the run folder that it lies in.
        info: its metadata.
        name: `owner/name` of the repository.
    """
    parts = [
        "---\nlibrary_name: vidfit\npipeline_tag: video-classification\ntags: [onnx, vidfit]\n---",
        f"# {name.partition('/')[2]}",
        f"Labels videos with {len(info.vocabulary):,} labels. One ONNX file of {format_size(model.stat().st_size)}.",
        f'```python\nimport vidfit\n\nmodel = vidfit.load("hf://{name}")\n```',
        "## Metrics",
        _metrics(_summary(model)),
        "## Members",
        "\n".join(
            f"- {it['name']}: {it['family']}, {it['bits']:.3g} bits, weight {it['weight']:.2f}" for it in info.members
        ),
        "## Input",
        _inputs(info, model),
        "## Labels",
        _labels(info.vocabulary),
        "## Limits",
        "It knows these labels only, and was measured on videos like those of its training. Check it on yours before "
        "you rely on it: `vidfit evaluate`.",
    ]
    return "\n\n".join(parts) + "\n"


def _summary(model: Path) -> dict[str, Any] | None:
    """What the run measured of exactly this file."""
    for folder in model.resolve().parents[:2]:
        if (folder / "summary.json").is_file():
            packed = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["packed"]
            if (folder / packed["path"]).resolve() == model.resolve():
                return packed
    return None


def _metrics(packed: dict[str, Any] | None) -> str:
    if packed is None or packed.get("gap") is None:
        return "None were measured. Measure it on labelled shards with `vidfit evaluate model.onnx SHARDS`."
    rows = [f"| {title} | {packed[key]:.4f} |" for key, title in _METRICS.items() if packed.get(key) is not None]
    told = "Measured on the run's eval shards, which took no part in training or selection: "
    command = "`vidfit evaluate model.onnx SHARDS`."
    budget = f"It was packed for a budget of {format_size(packed['budget'])}."
    return "\n".join(["| metric | value |", "| --- | --- |", *rows, "", told + command, "", budget])


def _inputs(info: PackedInfo, model: Path) -> str:
    lines = [f"- `{it.name}`: {it.dtype} `[B, T, {it.size}]`" for it in info.spec.modalities]
    if info.extractor is None:
        return "\n".join([*lines, "", "How the features were made is not known to the file."])
    settings = parse_extractor(info.extractor, model).settings
    where = ", which are in the file" if info.carried else ""
    lines += ["", f"`vidfit label` makes these from videos, {settings.rate:g} a second, with these models{where}:", ""]
    lines += [f"- {it.name} (licence: {_LICENCES.get(it.name, 'see its authors')})" for it in settings.backbones]
    return "\n".join(lines)


def _labels(vocabulary: tuple[str, ...]) -> str:
    # One line in backticks each, whatever a label holds.
    shown = [" ".join(label.replace("`", "'").split()) for label in vocabulary[:_MOST_LABELS]]
    more = len(vocabulary) - len(shown)
    return ", ".join(f"`{label}`" for label in shown) + (f" and {more:,} more" if more else "")
