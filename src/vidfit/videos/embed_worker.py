"""Many files to embeddings, in several processes: a file each, `KEY.npz` or the reason why not, `KEY.failed`.

A file that crashes the decoder takes its process with it. Those of that moment are tried again one by one, and the
rest goes on together.
"""

import signal
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vidfit.errors import DataError
from vidfit.files import replacing
from vidfit.processes import end_with_parent
from vidfit.videos.embed import Embedded, Embedder, Model
from vidfit.videos.extractor import Settings

# A process is replaced after this many files, so that leaks of libraries do not add up.
_FILES_A_PROCESS = 500


class Job(NamedTuple):
    """A file to embed, and where to: without suffix."""

    path: Path
    target: Path


def embed_files(
    jobs: Sequence[Job], settings: Settings, workers: int, models: Mapping[str, Model] | None = None
) -> Generator[tuple[Job, float], None, None]:
    """Embed files; yields each with its duration in seconds as it is finished, 0 for one that failed.

    Arguments:
        models: by modality, in place of the backbones' files; each process gets a pickle of them.
    """
    waiting = list(jobs)
    while waiting:
        # Not max_tasks_per_child: an executor hangs when all of its processes have done their last task.
        # https://github.com/python/cpython/issues/115634
        group, later = waiting[: workers * _FILES_A_PROCESS], waiting[workers * _FILES_A_PROCESS :]
        left = yield from _in_pool(group, settings, workers, models)
        # The file that ended a process is one of those handed out: one per process, and the queue of the next ones.
        suspects = left[: 2 * workers + 1]
        for job in suspects:
            if (yield from _in_pool([job], settings, 1, models)):
                _fail(job, "crashes the decoder")
                yield job, 0.0
        waiting = left[len(suspects) :] + later


def _in_pool(jobs: Sequence[Job], settings: Settings, workers: int, models: Mapping[str, Model] | None):
    """Returns the jobs that were under way when a process died, and those after them."""
    done: set[Job] = set()
    started_with = settings.model_dump_json(), models
    with ProcessPoolExecutor(workers, get_context("spawn"), _start, started_with) as pool:
        futures: dict[Future[float], Job] = {pool.submit(_embed, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                job = futures[future]
                duration = future.result()
                done.add(job)
                yield job, duration
        except BrokenProcessPool:
            pass
        except BaseException:
            # Stopping does not wait for videos that are under way. Python 3.14 has `kill_workers` for it.
            for process in list(pool._processes.values()):
                process.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    return [job for job in jobs if job not in done]


_embedder: Embedder | None = None


def _start(settings: str, models: Mapping[str, Model] | None) -> None:
    global _embedder
    # A Ctrl-C goes to all processes; the one that started this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    _embedder = Embedder(Settings.model_validate_json(settings), models)


def _embed(job: Job) -> float:
    assert _embedder is not None
    try:
        embedded = _embedder.embed(job.path)
    except DataError as error:
        _fail(job, str(error).removeprefix(f"{job.path}: "))
        return 0.0
    save(job.target, embedded)
    return embedded.duration


def _fail(job: Job, why: str) -> None:
    with replacing(job.target.with_suffix(".failed")) as partial:
        partial.write_text(why, encoding="utf-8", errors="backslashreplace")


def save(target: Path, embedded: Embedded) -> None:
    """Write a video's embeddings as `target` with the suffix .npz."""
    arrays = {f"embeddings.{name}": values for name, values in embedded.embeddings.items()}
    arrays |= {f"present.{name}": values for name, values in embedded.present.items()}
    with replacing(target.with_suffix(".npz")) as partial, partial.open("wb") as file:
        np.savez(file, duration=np.float64(embedded.duration), notes=np.array(embedded.notes, np.str_), **arrays)  # type: ignore[arg-type]


def load(path: Path) -> Embedded:
    """Read what `save` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        kinds: dict[str, dict[str, np.ndarray]] = {"embeddings": {}, "present": {}}
        for key in arrays.files:
            kind, _, modality = key.partition(".")
            if modality:
                kinds[kind][modality] = arrays[key]
        return Embedded(**kinds, duration=float(arrays["duration"]), notes=[str(note) for note in arrays["notes"]])
