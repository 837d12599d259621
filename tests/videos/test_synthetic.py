"""The demo's clips: what the tables say is in the files, and nothing else."""

import csv
from pathlib import Path

import numpy as np
import pytest

from tests.videos.making import av
from vidfit.videos.synthetic import LABELS, write_clips


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder, 4, seed=3)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_labels_are_those_of_the_intervals(clips: Path):
    labels = {row["path"]: set(row["labels"].split(";")) for row in rows(clips / "labels.csv")}
    found: dict[str, set[str]] = {}
    for row in rows(clips / "segments.csv"):
        found.setdefault(row["path"], set()).add(row["label"])
    assert found == labels
    assert set.union(*labels.values()) <= set(LABELS)


def test_a_shape_or_sound_is_there_in_its_interval_alone(clips: Path):
    for row in rows(clips / "labels.csv"):
        intervals = [row_ for row_ in rows(clips / "segments.csv") if row_["path"] == row["path"]]
        spread, loudness = measured(clips / row["path"])
        for kind, values in ((LABELS[:3], spread), (LABELS[3:], loudness)):
            spans = [(float(it["start"]), float(it["end"])) for it in intervals if it["label"] in kind]
            inside = [any(start + 0.5 < time < end - 0.5 for start, end in spans) for time in values]
            outside = [all(time < start - 0.5 or time > end + 0.5 for start, end in spans) for time in values]
            levels = np.array(list(values.values()))
            if spans:
                assert levels[inside].min() > 1.5 * levels[outside].max()


def measured(path: Path) -> tuple[dict[float, float], dict[float, float]]:
    """Spread of the pixels and loudness of the sound, by time."""
    spread, samples = {}, []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0, audio=0):
            if isinstance(frame, av.VideoFrame):
                spread[float(frame.time)] = float(frame.to_ndarray(format="gray").std())
            else:
                samples.append(frame.to_ndarray()[0])
    sound = np.concatenate(samples)
    quarter = 4000
    return spread, {
        place / 16000 + 0.125: float(np.abs(sound[place : place + quarter]).max())
        for place in range(0, len(sound) - quarter, quarter)
    }


def test_a_clip_depends_on_seed_and_number_alone(clips: Path, tmp_path: Path):
    write_clips(tmp_path, 2, seed=3)
    assert (tmp_path / "001.mp4").read_bytes() == (clips / "001.mp4").read_bytes()
