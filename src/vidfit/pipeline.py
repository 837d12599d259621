"""A recipe, run: train, quantise and measure each member, pack the ensemble, measure the file.

Everything lies in one run folder:

    RUN/recipe.yaml                   the recipe as it was understood
    RUN/members/NAME/                 best.safetensors, last.safetensors, quantized.safetensors, log.jsonl
    RUN/model.onnx                    the packed file
    RUN/summary.json                  what came out (docs/format.md has its schema)
    RUN/stages.json                   what is done, and from which inputs

A stage whose inputs are unchanged is not done again, so a second call of the same command goes on where the first was
stopped. Inputs are compared by recipe keys and by the shards' names and sizes, not by their content. Whatever can be
known to be wrong before the first training step is refused then, and the folder left as it was.
"""

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import BaseModel, TypeAdapter

from vidfit import display
from vidfit.compression.member import QUANTIZED, load_member, quantize_member
from vidfit.errors import BudgetError, DataError, OutputError, RecipeError, reason
from vidfit.evaluation.evaluate import evaluate
from vidfit.features.batches import Batches
from vidfit.features.example import infer_spec, read_videos
from vidfit.features.shards import expand_shards
from vidfit.features.spec import FeatureSpec, Vocabulary
from vidfit.features.tfrecord import CorruptRecordError
from vidfit.files import replacing
from vidfit.models.classifier import ClassifierConfig, FrameClassifier
from vidfit.packing.graph import PackedMember, write_graph
from vidfit.packing.size import format_size, parse_size
from vidfit.recipe import MemberConfig, Recipe
from vidfit.runtime.predictor import BATCH_SIZE, load
from vidfit.training.checkpoint import BEST, LAST, MemberInfo
from vidfit.training.loop import train

MODEL = "model.onnx"
SUMMARY = "summary.json"

# To be raised when the same recipe leads to another result: a changed default, a changed formula.
FORMAT = 1


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
    """The stages of one recipe in one folder.

    Arguments:
        recipe: what to do.
        directory: the run folder; made if absent.
        overwrite: train members again whose settings differ from those that the folder's were trained with.
        members: which of the recipe's members will be trained; all where absent.
    """

    def __init__(
        self, recipe: Recipe, directory: Path, overwrite: bool = False, members: Sequence[str] | None = None
    ) -> None:
        self.recipe = recipe
        self.directory = directory
        self.names = list(members or recipe.members)
        data = recipe.data
        self.shards = {name: expand_shards(getattr(data, name)) for name in ("train", "validation", "eval")}
        _check_disjoint(self.shards)
        self.vocabulary = Vocabulary.from_csv(Path(data.vocabulary))
        self.spec: FeatureSpec = infer_spec(self.shards["train"], data.skip_corrupt)
        for which in self.shards:
            self._check_labelled(which)
        self.parameters = {name: self._count_parameters(name, config) for name, config in recipe.members.items()}
        self._check_budget()
        self._stages = _Stages(directory)
        for name in self.names:
            if self._trained_otherwise(name) and not overwrite:
                raise OutputError(
                    f"{self._folder(name)}: was trained with other settings or shards; "
                    "choose another run folder, or train it again with --overwrite"
                )
        make_folder(directory)
        _write_text(directory / "recipe.yaml", yaml.safe_dump(recipe.model_dump(), sort_keys=False))

    def all(self) -> dict[str, Any]:
        """Every stage; returns the summary."""
        members = [self.member(name) for name in self.recipe.members]
        summary = {"members": members, "packed": self.pack()}
        _write_text(self.directory / SUMMARY, json.dumps(summary, indent=2) + "\n")
        return summary

    def train(self, name: str) -> dict[str, Any]:
        """Train a member: its best validation GAP and the step it was reached at."""
        assert name in self.names
        config = self.recipe.members[name]
        folder = self._folder(name)

        def work() -> dict[str, Any]:
            info = MemberInfo(
                name=name,
                classifier=ClassifierConfig(encoder=config.encoder, family=config.family, head=config.head),
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

        if self._trained_otherwise(name):
            shutil.rmtree(folder)
        make_folder(folder)
        return self._stages.do(f"train {name}", self._training_inputs(name), [folder / BEST], work)

    def member(self, name: str) -> dict[str, Any]:
        """Train, quantise and measure a member: its row of the summary."""
        trained = self.train(name)
        folder = self._folder(name)
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
        return {
            "name": name,
            "family": self.recipe.members[name].family.type,
            "parameters": self.parameters[name],
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
            "pack": self.recipe.pack.model_dump(exclude_defaults=True),
            "members": [self._stages.inputs(f"train {name}") for name in names],
        }

        def work() -> dict[str, Any]:
            display.console.print(f"packing {len(names)} members under {format_size(budget)}")
            members = [
                PackedMember(load_member(self._folder(name) / QUANTIZED), weight) for name, weight in names.items()
            ]
            return {"members": write_graph(path, members, budget)}

        if path.exists() and path.stat().st_size > budget:
            path.unlink()  # of another budget; it must not be taken for this one's if packing fails
        packed = self._stages.do("pack", inputs, [path], work)
        inputs = {**inputs, "eval": _names_and_sizes(self.shards["eval"])}
        scores = self._stages.do("evaluate packed", inputs, [], lambda: self._evaluate(path, "packed"))
        return {"path": MODEL, "bytes": path.stat().st_size, "budget": budget, **packed, **scores}

    def _folder(self, name: str) -> Path:
        return self.directory / "members" / name

    def _training_inputs(self, name: str) -> dict[str, Any]:
        config = self.recipe.members[name]
        return {
            # Without defaults, so that a key that is added one day does not undo what was trained without it.
            "member": config.model_dump(exclude_defaults=True),
            "family": config.family.type,
            "head": config.head.type,
            "seed": self.recipe.seed,
            "train": _names_and_sizes(self.shards["train"]),
            "validation": _names_and_sizes(self.shards["validation"]),
            "vocabulary": self.vocabulary.names,
        }

    def _trained_otherwise(self, name: str) -> bool:
        """Whether the member's folder has checkpoints that are not known to be of these inputs."""
        trained = any((self._folder(name) / file).exists() for file in (BEST, LAST))
        return trained and not self._stages.begun(f"train {name}", self._training_inputs(name))

    def _check_labelled(self, which: str) -> None:
        """Reads up to the first label, in most corpora one record."""
        for shard in self.shards[which]:
            for video in read_videos(shard, self.spec, len(self.vocabulary)):
                if isinstance(video, CorruptRecordError):
                    if not self.recipe.data.skip_corrupt:
                        raise video
                elif len(video.labels):
                    return
        raise DataError(f"data.{which}: none of its videos has a label; give labelled shards")

    def _count_parameters(self, name: str, config: MemberConfig) -> int:
        """Weights of a member, built without memory; what its options cannot do with these shards shows here."""
        try:
            with torch.device("meta"):
                classifier = FrameClassifier(config, self.spec, len(self.vocabulary))
        except RecipeError as error:
            raise RecipeError(f"members.{name}.family.{error}") from error
        return sum(parameter.numel() for parameter in classifier.parameters())

    def _check_budget(self) -> None:
        """At 8 bits a weight takes a byte at least: what cannot fit then need not be trained."""
        budget = parse_size(self.recipe.pack.budget)
        bytes_needed = {name: self.parameters[name] for name in self.recipe.pack.members}
        if sum(bytes_needed.values()) > budget:
            each = ", ".join(f"{name} {format_size(size)}" for name, size in bytes_needed.items())
            raise BudgetError(
                f"pack.budget: the packed members take {format_size(sum(bytes_needed.values()))} at least ({each}), "
                f"more than {format_size(budget)}: leave a member out, make one smaller or raise the budget"
            )

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


class _Stage(BaseModel):
    """What a stage was begun from and, once it is done, its result."""

    inputs: str
    result: Any = None


class _Stages:
    """`stages.json`: the result of every stage that is done, with a digest of what it was done from."""

    def __init__(self, directory: Path):
        self._path = directory / "stages.json"
        self._summary = directory / SUMMARY
        self._stages: dict[str, _Stage] = {}
        try:
            self._stages = TypeAdapter(dict[str, _Stage]).validate_json(self._path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            pass  # whether a run folder can be made is told when it is made
        except (OSError, ValueError) as error:
            raise OutputError(
                f"{self._path}: cannot be read ({reason(error)}); choose another run folder, or remove this file and "
                "train again with --overwrite"
            ) from error

    def do(self, stage: str, inputs: Any, outputs: Iterable[Path], work: Callable[[], dict[str, Any]]) -> Any:
        if self.begun(stage, inputs) and all(path.exists() for path in outputs):
            result = self._stages[stage].result
            if result is not None:
                return result
        # What it tells of is about to change, and the work may fail.
        self._summary.unlink(missing_ok=True)
        self._write(stage, _Stage(inputs=_digest(inputs)))
        result = work()
        self._write(stage, _Stage(inputs=_digest(inputs), result=result))
        return result

    def inputs(self, stage: str) -> str:
        return self._stages[stage].inputs

    def begun(self, stage: str, inputs: Any) -> bool:
        """Whether the stage was begun, and from these inputs."""
        return stage in self._stages and self._stages[stage].inputs == _digest(inputs)

    def _write(self, name: str, stage: _Stage) -> None:
        self._stages[name] = stage
        document = {name: stage.model_dump(exclude_none=True) for name, stage in self._stages.items()}
        _write_text(self._path, json.dumps(document, indent=2) + "\n")


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless it is there.

    Raises:
        OutputError: it cannot be made, such as where a file has its name.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be made a folder ({error.strerror}); choose another") from error


def _digest(inputs: Any) -> str:
    return hashlib.sha256(json.dumps([FORMAT, inputs], sort_keys=True).encode()).hexdigest()


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
