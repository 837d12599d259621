"""The search of one run: its members' candidates, the frontier over them, and what each ensemble reaches.

Slow results are computed once and kept in `RUN/packing`.
"""

from functools import cached_property
from typing import Any

from vidfit.export.metadata import metadata_bytes
from vidfit.progress import OnProgress, Progress, silent
from vidfit.search.blend import HeldOut
from vidfit.search.budget import Ensemble, explore
from vidfit.search.candidates import StoredCandidate, candidates_of, float_predictions
from vidfit.search.run_members import RunMembers
from vidfit.search.validation import Validation


class Search:
    """What a run's members can become in one file.

    Arguments:
        members: the members to choose from.
        on_progress: called while candidates are made and ensembles are tried.
    """

    def __init__(self, members: RunMembers, on_progress: OnProgress = silent) -> None:
        self.members = members
        self._on_progress = on_progress
        self._frontiers: dict[float | None, list[Ensemble]] = {}

    def frontier(self, max_ms: float | None = None) -> list[Ensemble]:
        """The best ensembles, by rising bytes and rising expected GAP.

        Arguments:
            max_ms: most milliseconds per video; None means no limit.

        Raises:
            BudgetError: every member alone is slower than `max_ms`.
        """
        if max_ms not in self._frontiers:
            self._frontiers[max_ms] = explore(
                self.candidates,
                self._selecting,
                self.common_bytes,
                max_ms,
                lambda tried: self._on_progress(Progress("searching", tried, None, "ensembles")),
                self.members.weights,
            )
        return self._frontiers[max_ms]

    def describe(self, ensemble: Ensemble) -> dict[str, Any]:
        """What is known of an ensemble before its file is written: bytes, ms, GAP on both halves, members."""
        chosen = [self.candidates[place] for place in ensemble.candidates]
        return {
            "bytes": ensemble.bytes,
            "ms": ensemble.ms,
            "gap_selection": self._selecting.gap(ensemble.candidates, ensemble.weights),
            "gap_confirmation": self._confirming.gap(ensemble.candidates, ensemble.weights),
            "members": [
                {"name": candidate.member, "weight": weight, "bits": candidate.bits, "bytes": candidate.bytes}
                for candidate, weight in zip(chosen, ensemble.weights, strict=True)
            ],
        }

    @property
    def common_bytes(self) -> int:
        """Bytes of a file without members."""
        info = self.members.info
        return metadata_bytes(info.spec, info.vocabulary, info.extractor)

    @cached_property
    def validation(self) -> Validation:
        """The videos that select and confirm.

        Raises:
            DataError: there are too few.
        """
        return Validation(self.members.batches("validation"))

    @cached_property
    def candidates(self) -> list[StoredCandidate]:
        """The candidates of all members."""
        calibration = self.members.batches("train")
        return [
            candidate
            for name, file in self.members.files.items()
            for candidate in candidates_of(
                name, file, self.members.folder(name), calibration, self.validation, self._on_progress
            )
        ]

    @cached_property
    def _selecting(self) -> HeldOut:
        return self._held_out(slice(None, self.validation.selecting))

    @cached_property
    def _confirming(self) -> HeldOut:
        return self._held_out(slice(self.validation.selecting, None))

    def _held_out(self, videos: slice) -> HeldOut:
        names = list(self.members.files)
        return HeldOut(
            [float_predictions(self.members.folder(name))[videos] for name in names],
            [candidate.predictions()[videos] for candidate in self.candidates],
            [names.index(candidate.member) for candidate in self.candidates],
            self.validation.labels_VC[videos],
        )
