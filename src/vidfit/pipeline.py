"""A recipe, run: train, quantise and measure each member, pack the ensemble, measure the file.

Everything lies in one run folder:

    RUN/recipe.yaml                   the recipe as it was understood
    RUN/members/NAME/                 best.safetensors, last.safetensors, quantized.safetensors, log.jsonl
    RUN/model.onnx                    the packed file
    RUN/summary.json                  what came out (docs/format.md has its schema)
    RUN/stages.json                   what is done, and from which inputs

A stage whose inputs are unchanged is not done again, so a second call of the same command goes on where the first was
stopped. Inputs are compared by recipe keys and by the shards' names and sizes, not by their content.
"""

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from vidfit import display
from vidfit.compression.member import QUANTIZED, load_member, quantize_member
from vidfit.errors import DataError, OutputError
from vidfit.evaluation.evaluate import evaluate
from vidfit.features.batches import Batches
from vidfit.features.example import infer_spec
from vidfit.features.shards import expand_shards
from vidfit.features.spec import FeatureSpec, Vocabulary
from vidfit.files import replacing
from vidfit.packing.graph import PackedMember, write_graph
from vidfit.packing.size import format_size, parse_size
from vidfit.recipe import Recipe
from vidfit.runtime.predictor import BATCH_SIZE, load
from vidfit.training.checkpoint import BEST, MemberInfo
from vidfit.training.loop import train

MODEL = "model.onnx"


def run(recipe: Recipe, directory: Path | str, overwrite: bool = False) -> dict[str, Any]:
    """Do every stage of a recipe that is not done yet.

    Arguments:
        recipe: what to do.
        directory: the run folder; made if absent.
        overwrite: train members again whose settings differ from those that the folder's were trained with.

    Returns:
        The summary, which is also in `summary.json`.

    Raises:
        VidfitError: whatever a stage meets; see `vidfit.errors`.
    """
    return Run(recipe, Path(directory), overwrite).all()


class Run:
    """The stages of one recipe in one folder."""

    def __init__(self, recipe: Recipe, directory: Path, overwrite: bool = False):
        self.recipe = recipe
        self.directory = directory
        self.overwrite = overwrite
        data = recipe.data
        self.shards = {name: expand_shards(getattr(data, name)) for name in ("train", "validation", "eval")}
        _check_disjoint(self.shards)
        self.vocabulary = Vocabulary.from_csv(Path(data.vocabulary))
        self.spec: FeatureSpec = infer_spec(self.shards["train"])
        directory.mkdir(parents=True, exist_ok=True)
        _write_text(directory / "recipe.yaml", yaml.safe_dump(recipe.model_dump(), sort_keys=False))
        self._stages = _Stages(directory / "stages.json")

    def all(self) -> dict[str, Any]:
        """Every stage; returns the summary."""
        members = [self.member(name) for name in self.recipe.members]
        summary = {"members": members, "packed": self.pack()}
        _write_text(self.directory / "summary.json", json.dumps(summary, indent=2) + "\n")
        return summary

    def train(self, name: str) -> dict[str, Any]:
        """Train a member: its best validation GAP and the step it was reached at."""
        config = self.recipe.members[name]
        folder = self.directory / "members" / name
        inputs = {
            "member": config.model_dump(),
            "seed": self.recipe.seed,
            "train": _names_and_sizes(self.shards["train"]),
            "validation": _names_and_sizes(self.shards["validation"]),
            "vocabulary": self.vocabulary.names,
        }

        def work() -> dict[str, Any]:
            info = MemberInfo(
                name=name,
                classifier=config,
                spec=self.spec,
                vocabulary=self.vocabulary.names,
                step=0,
                gap_validation=-1.0,
            )
            # Members of the same architecture must not start from the same weights.
            seed = self.recipe.seed * 65_537 + zlib.crc32(name.encode()) % 65_537
            training = config.training
            batches = self._batches("train", training.batch_size, training.shuffle_buffer, seed, training.workers)
            with display.training_bar(name) as show:
                best = train(info, training, batches, self._batches("validation"), folder, seed, show)
            display.console.print(f"{name}: best validation GAP {best.gap_validation:.4f} at step {best.step}")
            return {"step": best.step, "gap_validation": best.gap_validation}

        stage = f"train {name}"
        if self._stages.begun_otherwise(stage, inputs) and folder.exists():
            if not self.overwrite:
                raise OutputError(
                    f"{folder}: was trained with other settings or shards; "
                    "choose another run folder, or train it again with --overwrite"
                )
            shutil.rmtree(folder)
        return self._stages.do(stage, inputs, [folder / BEST], work)

    def member(self, name: str) -> dict[str, Any]:
        """Train, quantise and measure a member: its row of the summary."""
        trained = self.train(name)
        folder = self.directory / "members" / name
        lineage = self._stages.inputs(f"train {name}")
        self._stages.do(
            f"quantize {name}", lineage, [folder / QUANTIZED], lambda: {"path": str(quantize_member(folder))}
        )
        scores = {}
        for form, file in (("float32", folder / BEST), ("quantized", folder / QUANTIZED)):
            inputs = {"member": lineage, "eval": _names_and_sizes(self.shards["eval"])}
            scores[form] = self._stages.do(
                f"evaluate {name} {form}",
                inputs,
                [],
                lambda file=file, form=form: self._evaluate(file, f"{name} {form}"),
            )
        classifier = load_member(folder).classifier()
        return {
            "name": name,
            "family": self.recipe.members[name].family.type,
            "parameters": sum(parameter.numel() for parameter in classifier.parameters()),
            **trained,
            "gap": scores["float32"]["gap"],
            "map": scores["float32"]["map"],
            "gap_quantized": scores["quantized"]["gap"],
            "bytes_float32": (folder / BEST).stat().st_size,
            "bytes_quantized": (folder / QUANTIZED).stat().st_size,
        }

    def pack(self) -> dict[str, Any]:
        """Pack the recipe's members and measure the file: `packed` of the summary."""
        path = self.directory / MODEL
        names = self.recipe.pack.members
        budget = parse_size(self.recipe.pack.budget)
        inputs = {
            "pack": self.recipe.pack.model_dump(),
            "members": [self._stages.inputs(f"train {name}") for name in names],
        }

        def work() -> dict[str, Any]:
            display.console.print(f"packing {len(names)} members under {format_size(budget)}")
            folder = self.directory / "members"
            members = [PackedMember(load_member(folder / name / QUANTIZED), weight) for name, weight in names.items()]
            return {"members": write_graph(path, members, budget)}

        packed = self._stages.do("pack", inputs, [path], work)
        inputs = {**inputs, "eval": _names_and_sizes(self.shards["eval"])}
        scores = self._stages.do("evaluate packed", inputs, [], lambda: self._evaluate(path, "packed"))
        return {"path": MODEL, "bytes": path.stat().st_size, "budget": budget, **packed, **scores}

    def _evaluate(self, model: Path, description: str) -> dict[str, Any]:
        predictor = load(model)
        batches = display.counted(self._batches("eval"), f"evaluating {description}")
        result = evaluate(predictor.predict_batch, batches, len(self.vocabulary))
        return {key: result[key] for key in ("gap", "map", "hit_at_1", "perr")}

    def _batches(
        self, which: str, batch_size: int = BATCH_SIZE, shuffle_buffer: int = 0, seed: int = 0, workers: int = 0
    ) -> Batches:
        return Batches(
            self.shards[which],
            self.spec,
            len(self.vocabulary),
            batch_size,
            shuffle_buffer=shuffle_buffer,
            seed=seed,
            workers=workers,
            skip_corrupt=self.recipe.data.skip_corrupt,
        )


class _Stages:
    """`stages.json`: the result of every stage that is done, with a digest of what it was done from."""

    def __init__(self, path: Path):
        self._path = path
        self._done: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}

    def do(self, stage: str, inputs: Any, outputs: Iterable[Path], work: Callable[[], Any]) -> Any:
        digest = _digest(inputs)
        entry = self._done.get(stage)
        if entry and entry["inputs"] == digest and "result" in entry and all(path.exists() for path in outputs):
            return entry["result"]
        self._write(stage, {"inputs": digest})
        result = work()
        self._write(stage, {"inputs": digest, "result": result})
        return result

    def inputs(self, stage: str) -> str:
        return self._done[stage]["inputs"]

    def begun_otherwise(self, stage: str, inputs: Any) -> bool:
        """Whether the stage was begun from other inputs than these."""
        return stage in self._done and self._done[stage]["inputs"] != _digest(inputs)

    def _write(self, stage: str, entry: dict[str, Any]) -> None:
        self._done[stage] = entry
        _write_text(self._path, json.dumps(self._done, indent=2) + "\n")


def _digest(inputs: Any) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _names_and_sizes(shards: list[Path]) -> list[tuple[str, int]]:
    return [(shard.name, shard.stat().st_size) for shard in shards]


def _check_disjoint(shards: dict[str, list[Path]]) -> None:
    for first, second in (("train", "validation"), ("train", "eval"), ("validation", "eval")):
        common = {path.resolve() for path in shards[first]} & {path.resolve() for path in shards[second]}
        if common:
            raise DataError(f"{min(common)}: is in both data.{first} and data.{second}; a shard may be in one only")


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
