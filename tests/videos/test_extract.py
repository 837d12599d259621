"""Videos to shards with small models of the tests' own, and what remains after a kill."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.lives import children
from tests.videos.making import BLUE, GREEN, RED, frames_at, plain, small_model, tone, write
from vidfit.errors import OutputError
from vidfit.features.shards import read_videos
from vidfit.features.spec import Video
from vidfit.files import path_in_table, read_table
from vidfit.locks import locked
from vidfit.progress import Progress
from vidfit.videos import embed_worker
from vidfit.videos.backbones import find_backbone
from vidfit.videos.embed import Embedder
from vidfit.videos.embed_worker import Job
from vidfit.videos.extract import Plan, extract, read_vocabulary, split_of
from vidfit.videos.extractor import Extractor, Settings, read_extractor
from vidfit.videos.sources import find_sources
from vidfit.videos.transform import ABSENT


class KilledError(Exception):
    """Stands for a kill."""


COLOURS = {"red": RED, "green": GREEN, "blue": BLUE}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A folder with `models` and twelve videos in `clips`, a folder per label; one has no sound, one is broken."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "models").mkdir()
    small_model(folder / "models", "colours", "rgb")
    small_model(folder / "models", "bands", "audio")
    for number, (name, colour) in enumerate(COLOURS.items()):
        (folder / "clips" / name).mkdir(parents=True)
        for clip in range(4):
            sound = None if (number, clip) == (0, 0) else tone(300 * (number + 1), 2 + clip)
            shade = np.clip(np.array(colour) + 6 * clip, 0, 255)
            show = lambda time, shade=shade: plain(shade.tolist())  # noqa: E731
            write(folder / "clips" / name / f"{clip}.mp4", show, frames_at(12, 2 + clip), sound)
    (folder / "clips" / "red" / "broken.mp4").write_bytes(b"nothing")
    return folder


def plan(corpus: Path, **changes) -> Plan:
    models = corpus / "models"
    settings = Settings(
        backbones=(
            find_backbone(str(models / "colours.onnx"), "rgb"),
            find_backbone(str(models / "bands.onnx"), "audio"),
        )
    )
    given = {
        "sources": find_sources([corpus / "clips"]),
        "settings": settings,
        "splits": {"train": 0.7, "validation": 0.3},
        "like": None,
        "vocabulary": None,
        "sizes": {"rgb": 3, "audio": 4},
    }
    return Plan(**{**given, **changes})


@pytest.fixture(scope="module")
def features(corpus) -> Path:
    output = corpus / "features"
    told: list[Progress] = []
    made = extract(plan(corpus), output, 1, told.append)
    assert (made.videos, made.failed) == (12, 1)
    assert [now.done for now in told if now.stage == "learning how to store features"] == [0, 1, 2]
    return output


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of something else than processes: one takes a second to start."""

    def embed_files(
        jobs: Sequence[Job], settings: Settings, workers: int, models: None
    ) -> Generator[tuple[Job, float], None, None]:
        monkeypatch.setattr(embed_worker, "_embedder", Embedder(settings))
        return ((job, embed_worker._embed(job)) for job in jobs)

    monkeypatch.setattr("vidfit.videos.extract.embed_files", embed_files)


def videos_of(features: Path) -> dict[str, Video]:
    read = [item for shard in sorted((features / "shards").glob("*.tfrecord")) for item in read_videos(shard)]
    return {item.id: item for item in read if isinstance(item, Video)}


def content(features: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(features)): path.read_bytes() for path in sorted(features.rglob("*")) if path.is_file()
    }


def test_every_video_is_a_record_with_its_labels(features):
    videos = videos_of(features)
    names = read_vocabulary(features)
    assert names == ("blue", "green", "red")
    assert len(videos) == 12
    for id, video in videos.items():
        assert [names[label] for label in video.labels] == [id.split("/")[0]]
        assert video.num_frames == 2 + int(id[-5])
        assert {name: frames.shape[1] for name, frames in video.frames.items()} == {"rgb": 3, "audio": 4}


def test_a_missing_modality_is_byte_127(features):
    videos = videos_of(features)
    assert (videos["red/0.mp4"].frames["audio"] == ABSENT).all()
    assert (videos["red/0.mp4"].frames["rgb"] != ABSENT).any()
    assert (videos["red/1.mp4"].frames["audio"] != ABSENT).any()


def test_what_fails_is_listed_with_its_reason(features, corpus):
    with (features / "failed.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["path"] == str(corpus / "clips" / "red" / "broken.mp4")
    assert row["reason"].startswith("is no video that can be opened")


@pytest.mark.usefixtures("in_process")
def test_intervals_are_kept_in_a_table_of_their_own(corpus, tmp_path, caplog):
    table = corpus / "clips" / "table.csv"
    table.write_text("path,label,start,end\nred/1.mp4,red,0.5,2\nred/1.mp4,dot,1,inf\nred/2.mp4,red,,\n")
    try:
        extract(plan(corpus, sources=find_sources([table]), splits={"train": 1.0}), tmp_path / "features", workers=1)
    finally:
        table.unlink()
    with (tmp_path / "features" / "segments.csv").open() as file:
        rows = [(row["path"], row["label"], float(row["start"]), float(row["end"])) for row in csv.DictReader(file)]
    assert rows == [("red/1.mp4", "dot", 1, pytest.approx(3, abs=0.1)), ("red/1.mp4", "red", 0.5, 2)]
    assert videos_of(tmp_path / "features")["red/1.mp4"].labels.tolist() == [0, 1]
    assert "2 intervals are kept in" in caplog.text


@pytest.mark.usefixtures("in_process")
def test_videos_with_the_same_features_are_told(features, corpus, tmp_path, caplog):
    clips = tmp_path / "clips"
    for name, copy in (("green", "2"), ("red", "1")):
        (clips / name).mkdir(parents=True)
        shutil.copy(corpus / "clips" / name / f"{copy}.mp4", clips / name)
    again = plan(corpus, like=read_extractor(features / "extractor.json"), vocabulary=read_vocabulary(features))
    extract(replace(again, sources=find_sources([clips])), tmp_path / "different", workers=1)
    assert "same features" not in caplog.text
    shutil.copy(corpus / "clips" / "red" / "1.mp4", clips / "green" / "red.mp4")
    extract(replace(again, sources=find_sources([clips])), tmp_path / "alike", workers=1)
    assert "red/1.mp4 has the same features as green/red.mp4 (such videos in all: 1)" in caplog.text


def test_two_workers_leave_the_same_bytes(features, corpus, tmp_path):
    extract(plan(corpus), tmp_path / "features", workers=2)
    assert content(tmp_path / "features") == content(features)


def test_who_stops_does_not_wait_for_a_video_under_way(corpus, tmp_path):
    # Reading it takes until somebody writes to it: here, for the test to end where the processes are waited for.
    os.mkfifo(tmp_path / "slow.mp4")
    writer = threading.Timer(60, lambda: os.close(os.open(tmp_path / "slow.mp4", os.O_WRONLY | os.O_NONBLOCK)))
    writer.start()
    jobs = [Job(corpus / "red" / "0.mp4", tmp_path / "a"), Job(tmp_path / "slow.mp4", tmp_path / "b")]
    embedded = embed_worker.embed_files(jobs, plan(corpus).settings, workers=2)
    assert next(embedded)[0] == jobs[0]
    embedded.close()
    waited = not writer.is_alive()
    writer.cancel()
    assert not waited
    assert not (tmp_path / "b.failed").exists()


def test_processes_that_have_done_their_share_are_replaced(features, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(embed_worker, "_FILES_A_PROCESS", 2)
    extract(plan(corpus), tmp_path / "features", workers=2)
    assert content(tmp_path / "features") == content(features)


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


@pytest.mark.parametrize(("killed", "torchrun"), [((), ()), (TORCHRUN, TORCHRUN)])
def test_a_killed_call_is_resumed_to_the_same_bytes(killed, torchrun, features, corpus, tmp_path):
    output, models = tmp_path / "features", corpus / "models"
    command = [
        "-m", "vidfit", "extract",
        corpus / "clips", "-o", output, "--split", "train=0.7,validation=0.3",
        "--image-model", models / "colours.onnx", "--sound-model", models / "bands.onnx", "--image-bytes", "3",
        "--sound-bytes", "4", "--workers", "1",
    ]  # fmt: skip
    process = subprocess.Popen([sys.executable, *killed, *map(str, command)], stdout=subprocess.PIPE)
    while not list((output / "embeddings").glob("*.npz")) and process.poll() is None:
        time.sleep(0.01)
    # Ranks outlive the torchrun that started them: left alone, they would finish.
    for killed_process in [*children(process.pid), process.pid]:
        os.kill(killed_process, signal.SIGKILL)
    process.communicate(timeout=60)  # ranks and workers write to the same pipe: it closes when they have ended
    again = subprocess.run([sys.executable, *torchrun, *map(str, command)], capture_output=True, text=True)
    # torchrun has an exit code of its own where a rank has one.
    assert again.returncode == (1 if torchrun else 3), again.stderr
    assert again.stdout.count("12 videos of 3 labels, 0:00:42 long") == 1
    assert "1 failed" in again.stdout
    assert content(output) == content(features)


def test_a_folder_in_use_is_refused(corpus, tmp_path):
    with locked(tmp_path), pytest.raises(OutputError, match="is writing here"):
        extract(plan(corpus), tmp_path, workers=1)


@pytest.mark.usefixtures("in_process")
def test_a_call_killed_while_it_tidies_up_is_finished(features, corpus, tmp_path, monkeypatch):
    output = tmp_path / "features"

    def die(folder: Path) -> None:
        next(folder.glob("*.npz")).unlink()
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", die)
        with pytest.raises(KilledError):
            extract(plan(corpus), output, workers=1)
    made = extract(plan(corpus), output, workers=1)
    assert (made.videos, made.failed, made.resumed) == (12, 1, 12)
    assert made.seconds == pytest.approx(sum(float(row["duration"]) for row in read_table(output / "videos.csv")))
    assert content(output) == content(features)


@pytest.mark.usefixtures("in_process")
def test_shards_of_a_killed_call_do_not_stay(features, corpus, tmp_path, monkeypatch):
    output = tmp_path / "features"

    def die(*arguments: object, indent: int) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(Extractor, "model_dump_json", die)
        with pytest.raises(KilledError):
            extract(plan(corpus, splits={"train": 0.3, "eval": 0.7}), output, workers=1)
    assert (output / "shards" / "eval-0000.tfrecord").exists()
    extract(plan(corpus), output, workers=1)
    assert content(output) == content(features)


def test_a_folder_with_shards_of_its_own_is_refused(corpus, tmp_path):
    (tmp_path / "shards").mkdir()
    with pytest.raises(OutputError, match="holds shards already"):
        extract(plan(corpus), tmp_path, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


@pytest.mark.usefixtures("in_process")
def test_names_that_are_not_utf_8_are_escaped(corpus, tmp_path):
    label = tmp_path / "clips" / os.fsdecode(b"caf\xe9")
    (tmp_path / "clips" / "red").mkdir(parents=True)
    label.mkdir()
    shutil.copy(corpus / "clips" / "red" / "1.mp4", label / os.fsdecode(b"\xe9.mp4"))
    shutil.copy(corpus / "clips" / "red" / "2.mp4", tmp_path / "clips" / "red")
    (label / os.fsdecode(b"broken-\xe9.mp4")).write_bytes(b"nothing")
    output = tmp_path / "features"
    extract(plan(corpus, sources=find_sources([tmp_path / "clips"])), output, workers=1)
    assert sorted(videos_of(output)) == ["caf\\udce9/\\udce9.mp4", "red/2.mp4"]
    assert read_vocabulary(output) == ("caf\\udce9", "red")
    (failed,) = read_table(output / "failed.csv")
    assert failed["path"].endswith("caf\\udce9/broken-\\udce9.mp4")
    paths = {path_in_table(row["path"]) for row in (failed, *read_table(output / "videos.csv"))}
    assert paths == set((tmp_path / "clips").rglob("*.mp4"))
    (output / "embeddings").mkdir()  # as a call leaves it that is killed while it tidies up
    again = extract(plan(corpus, sources=find_sources([tmp_path / "clips"])), output, workers=1)
    assert (again.videos, again.failed) == (2, 1)


@pytest.mark.usefixtures("in_process")
def test_like_uses_the_same_transform_and_vocabulary(features, corpus, tmp_path):
    like = read_extractor(features / "extractor.json")
    some = [source for source in find_sources([corpus / "clips"]) if source.id == "green/2.mp4"]
    again = plan(corpus, sources=some, like=like, vocabulary=read_vocabulary(features), splits={"eval": 1.0})
    extract(again, tmp_path / "features", workers=1)
    video = videos_of(tmp_path / "features")["green/2.mp4"]
    first = videos_of(features)["green/2.mp4"]
    assert video.labels.tolist() == first.labels.tolist()
    for name, frames in first.frames.items():
        np.testing.assert_array_equal(video.frames[name], frames)


def test_a_finished_folder_is_not_added_to(features, corpus):
    with pytest.raises(OutputError, match="is finished; for more videos"):
        extract(plan(corpus), features, workers=1)


def test_other_settings_do_not_resume_a_folder(corpus, tmp_path):
    (tmp_path / "embeddings").mkdir()
    (tmp_path / "embeddings" / "settings").write_text("others")
    with pytest.raises(OutputError, match="was begun with other settings or models"):
        extract(plan(corpus), tmp_path, workers=1)


def test_a_split_is_chosen_by_the_id_alone():
    splits = {"train": 0.8, "validation": 0.1, "eval": 0.1}
    chosen = [split_of(f"{number}.mp4", splits) for number in range(2000)]
    assert [round(chosen.count(name) / 2000, 1) for name in splits] == [0.8, 0.1, 0.1]
    assert split_of("7.mp4", splits) == chosen[7]
