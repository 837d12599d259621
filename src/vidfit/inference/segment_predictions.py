"""Predict segments: the best K segments of each class, as a file for the YouTube-8M challenge of 2019.

Segments last 5 seconds and start at 0, 5, 10, ... of a video. Their probability is the mean of the timeline. The file
has the header `Class,Segments` and lines `class,video:start video:start ...`, best first.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidfit.errors import DataError, OutputError
from vidfit.evaluation.intervals import over_segments
from vidfit.evaluation.ranking import BEST, SegmentRanking
from vidfit.features.segments import SEGMENT_SECONDS
from vidfit.features.skipped import Skipped
from vidfit.features.spec import read_classes
from vidfit.files import write_table
from vidfit.inference.prediction_files import check_output
from vidfit.inference.predictor import BATCH_SIZE
from vidfit.inference.shard_timelines import ShardTimelines
from vidfit.inference.timeline import TimelineOptions
from vidfit.progress import OnProgress, silent


@dataclass
class WrittenSegments:
    """What a file of segments was made from."""

    videos: int
    segments: int
    classes: int
    skipped: Skipped


def predict_segments(
    model: Path | str,
    shards: str | Path | Sequence[str | Path],
    output: Path | str,
    *,
    top_k: int = BEST,
    classes: Path | str | None = None,
    window: float | None = None,
    hop: float | None = None,
    skip_corrupt: bool = False,
    overwrite: bool = False,
    threads: int = 0,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress = silent,
) -> WrittenSegments:
    """Write the segments in which a label is most probable, for each label.

    Nothing is kept of a call that is stopped. Memory is that of `SegmentRanking`.

    Arguments:
        output: a .csv file.
        top_k: segments written for each label.
        classes: a CSV file with the labels to write, a column `Index` as in the challenge's segment_label_ids.csv. None
            writes all.
        window, hop: of the timeline, as in `vidfit.label`.
        overwrite: replace an existing file.
        For the others see `vidfit.evaluate`.

    Raises:
        DataError: a record is damaged or does not fit the model, a video is there twice, or its id cannot stand in the
            file.
        ModelFileError: the model cannot be read, or has one frame per video.
        OutputError: the file exists, is no .csv, or cannot be written.
    """
    output = Path(output)
    if output.suffix.lower() != ".csv":
        raise OutputError(f"{output}: segments are written as .csv only; choose a name that ends in .csv")
    check_output(output, overwrite)
    passed = {"skip_corrupt": skip_corrupt, "threads": threads, "batch_size": batch_size, "on_progress": on_progress}
    videos = ShardTimelines(model, shards, TimelineOptions(window, hop), "predicting", **passed)
    known = len(videos.predictor.vocabulary)
    chosen = range(known) if classes is None else read_classes(classes, known)
    ranking, ids = SegmentRanking(len(chosen), top_k), list[str]()
    for video in videos:
        _check_id(video.id)
        probabilities_SC = over_segments(video.probabilities_TC, videos.timeline.rate)
        ranking.update(probabilities_SC[:, chosen])
        ids += [f"{video.id}:{SEGMENT_SECONDS * number}" for number in range(len(probabilities_SC))]
    write_table(output, ["Class", "Segments"], _rows(ranking, chosen, ids))
    return WrittenSegments(len(videos.seen), len(ids), len(chosen), videos.skipped)


def _rows(ranking: SegmentRanking, classes: Sequence[int], ids: Sequence[str]) -> Iterator[tuple[int, str]]:
    for column, label in enumerate(classes):
        yield label, " ".join([ids[int(number)] for number in ranking.best(column)])


def _check_id(video: str) -> None:
    if not video or re.search(r'[\s,"]', video):
        raise DataError(
            f"video {video!r}: its id has a space, a comma or a quote, which a file of segments cannot hold; write the "
            "shards with other ids"
        )
