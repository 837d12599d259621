"""What each family gives alone: GAP in float and in 8 bits, bytes and milliseconds, over several seeds.

    python benchmarks/families.py recipes/clips.yaml
    python benchmarks/families.py recipes/audioset.yaml --hidden 512 --steps 530

Data and training are the recipe's; its members are not used. Hidden layers are equally wide. GAP is measured on the
eval shards, and nothing is chosen by it. The packed file multiplies in integers, so its GAP holds what these cost too.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track
from table import fastest, options, publish

import vidfit
from vidfit.export.graph import PackedMember, write_graph
from vidfit.pipeline import Run
from vidfit.quantization.member import load_member
from vidfit.recipe import Recipe, load_recipe
from vidfit.training.checkpoint import BEST

BATCH_SIZE = 8


def settings(hidden: int) -> dict[str, dict[str, Any]]:
    """One member of each family, its hidden layers so wide."""
    head = {"type": "logistic", "dropout": 0.5}
    vlad = {"hidden": hidden, "relu": True, "gating": False, "dropout": 0.5}
    encoder = {"hidden": hidden, "dropout": 0.3}
    dbof = {"type": "dbof", "clusters": hidden, "dropout": 0.3} | {"hidden": hidden, "relu": True, "gating": False}
    members = {
        "mean": {"family": {"type": "mean"}, "head": {"type": "logistic"}, "training": {"learning_rate": 0.03}},
        "netvlad": {"family": {"type": "netvlad", "clusters": 8, **vlad}, "head": head},
        "netfv": {"family": {"type": "netfv", "clusters": 8, **vlad}, "head": head},
        "dbof, max": {"family": {**dbof, "pooling": "max"}, "head": head},
        "dbof, gated": {"family": {**dbof, "pooling": "gated"}, "head": head},
        "nextvlad": {"family": {"type": "nextvlad", "clusters": 16, "groups": 8, "hidden": hidden}, "head": head},
        "lstm": {"family": {"type": "lstm", "cells": hidden // 2}, "head": head},
        "gru": {"family": {"type": "gru", "cells": hidden // 2}, "head": head},
        "attention": {
            "encoder": encoder,
            "family": {"type": "attention", "heads": 8, "values": hidden, "hidden": hidden, "dropout": 0.5},
            "head": head,
        },
    }
    for pooling in ("max", "log-sum-exp", "attention", "mean", "noisy-or"):
        family = {"type": "frame-classifier", "pooling": pooling, "dropout": 0.4}
        members[f"frame-classifier, {pooling}"] = {"encoder": encoder, "family": family}
    # It counts frames as prediction does.
    members["frame-classifier, noisy-or"]["training"] = {"sampling": "none"}
    return members


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--hidden", type=int, default=256, help="width of hidden layers (default 256)")
    parser.add_argument("--steps", type=int, help="in place of the recipe's")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--family", action="append", help="only this one; may be repeated")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, ("distill=null",))
    members = settings(arguments.hidden)
    for name in set(members) - set(arguments.family or members):
        del members[name]
    # All of them now: a member that the recipe does not suit shows before hours of training.
    recipes = {
        name: [one_member(recipe, member, seed, arguments.steps) for seed in range(arguments.seeds)]
        for name, member in members.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name, seeds in track(recipes.items(), description="families"):
            found = [measured(it, Path(folder) / f"{name} {it.seed}") for it in seeds]
            rows.append({"family": name} | {key: summary([it[key] for it in found]) for key in found[0]})
    publish(f"Families, {arguments.recipe.stem}, hidden layers of {arguments.hidden}", rows, arguments.json)


def one_member(recipe: Recipe, member: dict[str, Any], seed: int, steps: int | None) -> Recipe:
    """The recipe with this member alone."""
    values = recipe.model_dump(exclude_unset=True, by_alias=True)
    training = values.pop("training") | ({"steps": steps, "validate_every": max(1, steps // 5)} if steps else {})
    member = member | {"training": training | member.get("training", {})}
    return Recipe.model_validate(
        values | {"seed": seed, "members": {"one": member}, "pack": {"budget": "1GB", "members": ["one"]}}
    )


def measured(recipe: Recipe, folder: Path) -> dict[str, float]:
    """Train, pack in 8 bits and measure one member."""
    run = Run(recipe, folder)
    run.train("one")
    member = load_member(folder / "members" / "one" / BEST)
    file = folder / "one.onnx"
    write_graph(file, [PackedMember(member.quantized(), 1.0)], 10**9)
    shards = [str(shard) for shard in run.data.shards["eval"]]
    gap, gap_packed = (vidfit.evaluate(it, shards, threads=1)["gap"] for it in (folder / "members" / "one", file))
    batch = next(iter(run.data.batches(run.data.shards["eval"], BATCH_SIZE)))
    packed = vidfit.load(file, threads=1)
    return {
        "GAP": gap,
        "in 8 bits": gap_packed,
        "MB": file.stat().st_size / 1e6,
        "ms / video": fastest(lambda: packed.predict_batch(batch), seconds=1.0) / BATCH_SIZE * 1e3,
    }


def summary(values: list[float]) -> str:
    """Mean and, where they differ, standard deviation."""
    spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):.4f}" + (f" ± {spread:.4f}" if spread > 5e-5 else "")


if __name__ == "__main__":
    main()
