"""What was tried: `fit.json`, by which a second call resumes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidfit.errors import OutputError, reason
from vidfit.files import write_text
from vidfit.fitting.task import MemberSettings

FIT = "fit.json"
# A kill loses the count of no more seconds.
_SAVED_EVERY = 5.0


class State:
    """What was tried, and whether it belongs to this data and budget.

    Arguments:
        directory: the run folder.
        origin: budget, shards and labels.

    Attributes:
        begun: settings of members that are or were tried, by name.
        tried: of members whose trying ended: `member`, `seconds`, `trainings`, `gap_of_best`.
        rounds: names of those that won a comparison with variations, in order.
        untried: names of members that there was no time for.
        seeds: from how many initial weights chosen members are trained.
        decisions: precision and recall at the thresholds, on videos not seen; empty unless they are cross-validated.
        seconds: what each member took so far, by name.
        spent: seconds of the time limit that are used, by earlier calls too.
        limit: seconds that this call may use, with those of earlier calls.

    Raises:
        OutputError: the file is damaged, or the folder holds something else.
    """

    def __init__(self, directory: Path, origin: Mapping[str, Any]) -> None:
        self._path, self._origin = directory / FIT, json.loads(json.dumps(origin))
        self.begun: dict[str, MemberSettings] = {}
        self.tried: dict[str, dict[str, Any]] = {}
        self.rounds: list[str] = []
        self.untried: list[str] = []
        self.seeds: dict[str, int] = {}
        self.decisions: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.spent = self._saved = self.limit = 0.0
        try:
            saved = json.loads(self._path.read_bytes())
            found, self.begun, self.tried = saved["settings"], saved["begun"], saved["tried"]
            self.rounds, self.untried, self.seeds = saved["rounds"], saved["untried"], saved["seeds"]
            self.seconds, self.spent = saved["seconds_of"], saved["seconds"]
            self.decisions = saved.get("decisions", {})  # an older version measured none
        except FileNotFoundError:
            if (directory / "recipe.yaml").exists():
                raise OutputError(f"{directory}: holds a run that is no fit; choose another -o") from None
            return
        except KeyError:
            raise OutputError(f"{self._path}: is of another version of vidfit; choose another run folder") from None
        except (OSError, ValueError, TypeError) as error:
            raise OutputError(f"{self._path}: cannot be read ({reason(error)}); choose another run folder") from error
        if found != self._origin:
            raise OutputError(
                f"{directory}: holds the fit of other videos or intervals, or of another budget; choose another -o"
            )

    @property
    def members(self) -> dict[str, MemberSettings]:
        """Those tried, as a recipe has them."""
        return {name: tried["member"] for name, tried in self.tried.items()}

    def spend(self, spent: float, name: str | None = None) -> None:
        """Note that `spent` seconds are used by now; those since the last note were a member's, if one is named."""
        if name:
            self.seconds[name] = self.seconds.get(name, 0.0) + spent - self.spent
        self.spent = spent
        if spent - self._saved > _SAVED_EVERY:
            self.save()

    def save(self) -> None:
        """Write it."""
        self._saved = self.spent
        document = {
            "settings": self._origin,
            "limit": self.limit,
            "seconds": round(self.spent, 1),
            "begun": self.begun,
            "seconds_of": {name: round(seconds, 1) for name, seconds in self.seconds.items()},
            "tried": self.tried,
            "rounds": self.rounds,
            "untried": self.untried,
            "seeds": self.seeds,
            "decisions": self.decisions,
        }
        write_text(self._path, json.dumps(document, indent=2) + "\n")
