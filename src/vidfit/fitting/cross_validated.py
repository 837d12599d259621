"""Few videos: each member is trained once without each part, and predicts it. The chosen are trained again on all."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vidfit.errors import BudgetError
from vidfit.evaluation.decisions import Decisions
from vidfit.evaluation.metrics import multi_hot
from vidfit.evaluation.thresholds import LEVELS, LevelCounts
from vidfit.evaluation.thresholds import choose as choose_levels
from vidfit.features.shards import read_videos
from vidfit.features.spec import Video
from vidfit.files import write_table
from vidfit.fitting.choice import choose, odds_factor, scale_odds
from vidfit.fitting.clock import Clock, TimeUp
from vidfit.fitting.portfolio import is_solved
from vidfit.fitting.state import State
from vidfit.fitting.task import GRAPH_BYTES, MemberSettings, Task
from vidfit.pipeline import Run
from vidfit.quantization.member import load_member
from vidfit.recipe import Recipe
from vidfit.search.blend import global_average_precision
from vidfit.search.candidates import member_bytes
from vidfit.sizes import format_size
from vidfit.training.checkpoint import BEST
from vidfit.training.validation import predict

THRESHOLDS = "thresholds.csv"
# At the thresholds, on videos that members had not seen.
_MEASURED = ("precision", "recall")
# After so many parts, a member that adds nothing to the best average of these parts is given up.
_PARTS_TO_PROVE = 2
_MOST_SEEDS = 5
# How much longer training, quantising and packing take than training.
_WITH_PACKING = 1.2

log = logging.getLogger(__name__)


class CrossValidated:
    """Members are judged by all videos; `Validated` has the same methods.

    Arguments:
        task: what is fitted.
        parts: its videos.
        state: members that were tried.
    """

    trainings_of_rival = 1.0
    packing = 0.02
    """Part of the time that packing may take: nothing is searched for."""
    measured = "on videos not seen"

    def __init__(self, task: Task, parts: list[list[Path]], state: State) -> None:
        self._task, self._parts, self._state = task, parts, state
        self._kept: dict[str, list[np.ndarray]] = {}  # what was said of each part
        # What a training takes of those kept, and of the one that is tried.
        self._seconds: dict[str, float] = {}
        self._bytes: dict[str, int] = {}
        self.trainings = len(parts) + 1.0
        self.described = f"each member is trained {len(parts)} times, each time without a part, which measures it"

    def restore(self) -> None:
        """Read what members predicted in an earlier call."""
        for name, tried in self._state.tried.items():
            self._keep(name, [self._predicted(name, tried["member"], part) for part in range(tried["trainings"])])

    def try_member(self, name: str, settings: MemberSettings, has_time: Callable[[], bool]) -> int:
        """Train a member without each part. Returns the number of trainings.

        It ends early where the member adds nothing to the best average so far, or where time is up.
        """
        predictions: list[np.ndarray] = []
        for part in range(len(self._parts)):
            if part and not self._is_trained(name, part) and not has_time():
                break
            try:
                predictions.append(self._predicted(name, settings, part))
            except TimeUp:
                if not part:
                    raise
                break
            self._seconds[name] = self._seconds_again(name)
            gap = self._gap(predictions[part], part)
            log.info("%s: GAP %.4f on part %d of %d, which it has not seen", name, gap, part + 1, len(self._parts))
            if len(predictions) == _PARTS_TO_PROVE < len(self._parts) and not self._adds(name, predictions):
                log.info("%s: given up, for it adds nothing to the best average on these parts", name)
                break
        self._keep(name, predictions)
        return len(predictions)

    @property
    def unfinished(self) -> frozenset[str]:
        """Members that there was no time to train without each part."""
        return frozenset(name for name, parts in self._kept.items() if len(parts) < len(self._parts))

    def rate_rival(self, name: str, settings: MemberSettings) -> float:
        """GAP on the first part of the best average so far with this member, which has half of the weight."""
        members = {of: weight / 2 for of, weight in self.choose(self._state.members)[0].items()}
        rival_VC = self._predicted(name, settings, 0)
        blend_VC = rival_VC / 2 + sum(weight * self._kept[of][0] for of, weight in members.items())
        return self._gap(np.asarray(blend_VC), 0)

    def choose(self, members: Mapping[str, MemberSettings]) -> tuple[dict[str, float], float]:
        """Which of these are in the best average within the budget, with weights, and its GAP."""
        kept = {name: parts for name, parts in self._kept.items() if name in members}
        return self._chosen(kept) if kept else ({}, 0.0)

    def seconds_to_finish(self) -> float:
        """What training all that may be chosen on all videos takes, by the trainings without a part."""
        return sum(self._seconds.values())

    def final_recipe(self, clock: Clock) -> Recipe:
        """The chosen members with their weights, on all videos, each from several initial weights if there is time."""
        chosen, _ = self.choose(self._state.members)
        if not chosen:
            least = format_size(self._task.common_bytes + min(self._bytes.values()))
            raise BudgetError(f"--budget: no member fits; the smallest file takes {least}")
        seeds = self._seeds(list(chosen), clock)
        names = {
            name if seed == 1 else f"{name}-seed-{seed}": name for name in chosen for seed in range(1, seeds[name] + 1)
        }
        most = max(seeds.values())
        often = f", each from up to {most} initial weights" if most > 1 else ""
        log.info("training the chosen on all %s videos%s", f"{self._task.videos:,}", often)
        return self._task.recipe(
            {name: self._state.members[of] for name, of in names.items()},
            [shard for part in self._parts for shard in part],
            [],
            self._task.dataset.eval,
            {"members": {name: chosen[of] / seeds[of] for name, of in names.items()}} | self._decisions(chosen),
        )

    def _predicted(self, name: str, settings: MemberSettings, number: int) -> np.ndarray:
        """What a member says of a part that it has not seen, float32 `[V, C]`."""
        folder = self._folder(number)
        others = [shard for place, part in enumerate(self._parts) if place != number for shard in part]
        # Nothing validates, so checkpoints on the way are not needed.
        training = settings["training"] | {"validate_every": settings["training"]["steps"]}
        members = {name: settings | {"training": training}}
        run = Run(self._task.recipe(members, others, []), folder, on_progress=self._task.on_progress)
        run.train(name)
        member = load_member(folder / "members" / name / BEST)
        if name not in self._bytes:
            self._bytes[name] = member_bytes(member.quantized()) + GRAPH_BYTES
        classifier = member.classifier()
        return np.concatenate([predict(classifier, batch) for batch in run.data.batches(self._parts[number])])

    def _keep(self, name: str, predictions: list[np.ndarray]) -> None:
        """Remember a member that has predicted all parts, or enough of them and the best average of these has it."""
        enough = len(predictions) >= _PARTS_TO_PROVE or not self._kept
        if len(predictions) == len(self._parts) or (enough and self._adds(name, predictions)):
            self._kept[name], self._seconds[name] = predictions, self._seconds_again(name)
        elif name not in self._kept:
            self._seconds.pop(name, None)

    def _adds(self, name: str, predictions: list[np.ndarray]) -> bool:
        return name in self._chosen({**self._kept, name: predictions})[0]

    def _chosen(self, predictions: dict[str, list[np.ndarray]]) -> tuple[dict[str, float], float]:
        """Members, weights and GAP on the parts that all have predicted."""
        parts = min(map(len, predictions.values()))
        cut = {name: np.concatenate(own[:parts]) for name, own in predictions.items()}
        labels_VC = np.concatenate(self._labels[:parts])
        return choose(cut, labels_VC, self._bytes, self._task.room)

    @cached_property
    def _labels(self) -> list[np.ndarray]:
        """Of the videos of each part, bool `[V, C]`."""
        return [_labels(part, len(self._task.data.vocabulary)) for part in self._parts]

    def _gap(self, scores_VC: np.ndarray, part: int) -> float:
        return global_average_precision(scores_VC, self._labels[part], int(self._labels[part].sum()))

    def _seconds_again(self, name: str) -> float:
        trainings = sum(self._is_trained(name, part) for part in range(len(self._parts)))
        return self._state.seconds.get(name, 0.0) / max(trainings, 1)

    def _is_trained(self, name: str, part: int) -> bool:
        """Whether the training without a part is done, perhaps by an earlier call."""
        return (self._folder(part) / "members" / name / BEST).exists()

    def _folder(self, part: int) -> Path:
        return self._task.directory / "folds" / str(part)

    def _seeds(self, chosen: list[str], clock: Clock) -> dict[str, int]:
        """From how many initial weights each member is trained on all videos, as bytes and time allow.

        Their average errs less than one of them; with few videos, initial weights matter much. A member that is solved
        exactly is trained once.
        """
        key, seeds = " ".join(chosen), self._state.seeds
        again = [name for name in chosen if not is_solved(self._state.members[name])]
        if key not in seeds:  # a second call has less time, and must find the same
            once = [name for name in chosen if name not in again]
            time_left = clock.left - _WITH_PACKING * sum(self._seconds[name] for name in once)
            takes = _WITH_PACKING * sum(self._seconds[name] for name in again)
            room = self._task.room - sum(self._bytes[name] for name in once)
            copies = room // max(sum(self._bytes[name] for name in again), 1)
            seeds[key] = max(1, min(_MOST_SEEDS, copies, int(time_left / max(takes, 1e-3))))
            self._state.save()
        return {name: seeds[key] if name in again else 1 for name in chosen}

    def _decisions(self, weights: dict[str, float]) -> dict[str, Any]:
        """Odds and thresholds of the file, chosen by what members say of videos that they have not seen."""
        parts = min(len(self._kept[name]) for name in weights)
        labels_VC = np.concatenate(self._labels[:parts])
        blend_VC = sum(weight * np.concatenate(self._kept[name][:parts]) for name, weight in weights.items())
        odds = odds_factor(np.asarray(blend_VC), labels_VC)
        seen = scale_odds(np.asarray(blend_VC), odds), np.nonzero(labels_VC)[1], labels_VC.sum(axis=1)
        counts = LevelCounts(labels_VC.shape[1])
        counts.update(*seen)
        decisions = Decisions(LEVELS[choose_levels(counts.result(), self._task.precision)])
        decisions.update(*seen)
        rows = [
            (name, f"{it['threshold']:.6f}", *("" if it[key] is None else f"{it[key]:.4f}" for key in _MEASURED))
            for name, it in zip(self._task.data.vocabulary.names, decisions.labels(), strict=True)
        ]
        path = self._task.directory / THRESHOLDS
        write_table(path, ("label", "threshold", *_MEASURED), rows)
        result = decisions.result()
        self._state.decisions = {key: result[f"micro_{key}"] for key in _MEASURED}
        self._state.save()  # the report reads it
        return {"thresholds": str(path.resolve()), "odds": odds}


def _labels(shards: Sequence[Path], classes: int) -> np.ndarray:
    labels = [video.labels for shard in shards for video in read_videos(shard) if isinstance(video, Video)]
    return multi_hot(np.concatenate(labels), np.array([len(own) for own in labels]), classes)
