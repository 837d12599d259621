"""What files, folders, globs and tables name."""

import json
import os

import pytest

from tests.videos.making import RED, frames_at, plain, write
from vidfit.errors import DataError
from vidfit.videos.sources import Interval, Source, check_labelled, find_sources


@pytest.fixture
def folder(tmp_path):
    made = write(tmp_path / "made.mp4", lambda time: plain(RED), frames_at(12, 1)).read_bytes()
    (tmp_path / "made.mp4").unlink()
    for name in ("cat/a.mp4", "cat/b.bin", "dog/deep/c.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(made)
    (tmp_path / "cat" / "notes.txt").write_text("hello")
    (tmp_path / "cat" / "._a.mp4").write_text("hello")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "dog" / "broken.mp4").write_text("no video")
    return tmp_path


def table(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


def test_a_folder_is_searched_by_content_and_names_labels(folder):
    found = {source.id: source.labels for source in find_sources([folder])}
    assert found == {
        "cat/a.mp4": {"cat"},
        "cat/b.bin": {"cat"},
        "dog/broken.mp4": {"dog"},
        "dog/deep/c.mp4": {"dog"},
    }


def test_a_link_to_nothing_is_a_video_that_fails_later(folder):
    (folder / "cat" / "linked.mp4").symlink_to(folder / "gone.mp4")
    (folder / "cat" / "linked.txt").symlink_to(folder / "gone.txt")
    assert [source.id for source in find_sources([folder / "cat"])] == ["a.mp4", "b.bin", "linked.mp4"]

    (named,) = find_sources([folder / "cat" / "linked.mp4"])
    assert (named.id, named.path) == ("linked.mp4", folder / "cat" / "linked.mp4")


def test_a_pipe_and_a_device_are_refused(folder):
    os.mkfifo(folder / "pipe.mp4")
    for name in (folder / "pipe.mp4", f"{folder}/p*", "/dev/null"):
        with pytest.raises(DataError, match=r"(pipe\.mp4|null): is a pipe or a device, .*; save the video as a file"):
            find_sources([name])


def test_an_empty_name_is_not_the_current_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(DataError, match="a video has an empty name"):
        find_sources([""])


def test_a_tilde_is_the_home_folder_or_itself(folder, monkeypatch):
    (folder / "cat" / "a.mp4").rename(folder / "cat" / "~nobody.mp4")
    monkeypatch.setenv("HOME", str(folder))
    assert [source.id for source in find_sources(["~/cat/*.mp4"])] == ["~nobody.mp4"]
    monkeypatch.chdir(folder / "cat")
    assert [source.id for source in find_sources(["~nobody.mp4"])] == ["~nobody.mp4"]


@pytest.mark.parametrize("name", ["run[1]", "[2024] clips"])
def test_brackets_of_a_folder_are_no_pattern(folder, name):
    (folder / "cat").rename(folder / name)
    assert [source.path for source in find_sources([f"{folder / name}/*.mp4"])] == [folder / name / "a.mp4"]


def test_folders_named_after_splits_hold_folders_of_labels(folder):
    for split, name in (("train", "cat"), ("Val", "cat"), ("test", "dog")):
        (folder / "sorted" / split / name).mkdir(parents=True)
        (folder / "sorted" / split / name / "a.mp4").write_bytes((folder / "cat" / "a.mp4").read_bytes())
    found = {source.id: (source.split, source.labels) for source in find_sources([folder / "sorted"])}
    assert found == {
        "train/cat/a.mp4": ("train", {"cat"}),
        "Val/cat/a.mp4": ("validation", {"cat"}),
        "test/dog/a.mp4": ("eval", {"dog"}),
    }


def test_a_video_beside_folders_is_told_and_ends_labels(folder, caplog):
    (folder / "stray.gif").write_bytes((folder / "cat" / "a.mp4").read_bytes())
    assert all(not source.labels for source in find_sources([folder]))
    assert "stray.gif lies beside folders, so their names are not taken for labels" in caplog.text
    caplog.clear()
    find_sources([folder], labels_count=False)
    assert not caplog.text


def test_a_glob_and_a_file_name_videos(folder):
    assert [source.id for source in find_sources([f"{folder}/cat/*.mp4"])] == ["a.mp4"]
    assert [source.id for source in find_sources([folder / "dog" / "deep" / "c.mp4"])] == ["c.mp4"]


def test_tables_of_labels_and_of_intervals_go_together(folder):
    labels = table(folder, "labels.csv", "path,labels\ncat/a.mp4,cat;indoors\n")
    segments = table(folder, "segments.csv", "path,label,start,end\ncat/a.mp4,meow,0.5,2\ncat/a.mp4,cat,0,1.5\n")
    (source,) = find_sources([labels, segments])
    assert source.labels == {"cat", "indoors", "meow"}
    assert source.intervals == [Interval("meow", 0.5, 2), Interval("cat", 0, 1.5)]


def test_json_lines_name_labels_and_segments(folder):
    row = {"path": "cat/a.mp4", "labels": ["cat\u2028big"], "segments": [{"label": "meow", "start": 1, "end": 2}]}
    (source,) = find_sources([table(folder, "videos.jsonl", json.dumps(row, ensure_ascii=False) + "\n")])
    assert (source.labels, source.intervals) == ({"cat\u2028big", "meow"}, [Interval("meow", 1, 2)])


def test_vertex_ai_imports_are_read(folder):
    rows = "TRAINING,gs://bucket/cat/a.mp4,meow,1.0,2.5\ntest,gs://bucket/x/dog/deep/c.mp4,bark,0,3\n"
    first, second = find_sources([table(folder, "import.csv", rows)])
    assert (first.id, first.split, first.intervals) == ("cat/a.mp4", "train", [Interval("meow", 1, 2.5)])
    assert (second.id, second.split, second.labels) == ("dog/deep/c.mp4", "eval", {"bark"})
    row = {
        "videoGcsUri": "gs://bucket/cat/a.mp4",
        "timeSegmentAnnotations": [{"displayName": "meow", "startTime": "1.5s", "endTime": "3s"}],
        "dataItemResourceLabels": {"aiplatform.googleapis.com/ml_use": "validation"},
    }
    (third,) = find_sources([table(folder, "import.jsonl", json.dumps(row))])
    assert (third.split, third.intervals) == ("validation", [Interval("meow", 1.5, 3)])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "Path,Labels\ncat/a.mp4,cat;indoors\n"),
        ("labels.csv", 'path;labels\ncat/a.mp4;"cat;indoors"\n'),
        ("labels.csv", '\ufeff"path"\t"labels"\ncat/a.mp4\tcat;indoors\n'),
        ("labels.tsv", "path\tlabel\ncat/a.mp4\tcat;indoors\n"),
    ],
)
def test_spreadsheets_write_tables_in_several_ways(folder, name, text):
    (source,) = find_sources([table(folder, name, text)])
    assert (source.id, source.labels) == ("cat/a.mp4", {"cat", "indoors"})


def test_a_label_with_a_comma_is_one_and_told(folder, caplog):
    (source,) = find_sources([table(folder, "labels.csv", 'path,labels\ncat/a.mp4,"cat,indoors"\n')])
    assert source.labels == {"cat,indoors"}
    assert "'cat,indoors' counts as one label; put `;` between several" in caplog.text
    caplog.clear()
    find_sources([table(folder, "labels.csv", 'path,labels\ncat/a.mp4,"speech, male;cat"\n')])
    assert not caplog.text


def test_a_table_without_a_column_of_labels_is_told(folder, caplog):
    (source,) = find_sources([table(folder, "labels.csv", "path,tags\ncat/a.mp4,cat\n")])
    assert not source.labels
    assert "has no column `labels`, so its videos have none; it has path, tags" in caplog.text
    caplog.clear()
    find_sources([table(folder, "labels.csv", "path,split\ncat/a.mp4,train\n")])
    assert not caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label,start,end\na.mp4,cat,3,2\n", "line 2: start 3 and end 2 are no interval"),
        ("path,label,start,end\na.mp4,cat,x,2\n", "line 2: start 'x' and end '2' are no seconds"),
        ("path,label,start,end\na.mp4,cat,1,\n", "line 2: start '1' and end '' are no seconds"),
        ("path,label,start,end\na.mp4,,1,2\n", "line 2: has an interval without a label"),
        ("a.mp4,cat,,2\n", "line 1: start '' and end '2' are no seconds"),
        ("path,labels\na.mp4,cat,dog\n", "line 2: has 3 columns, the header 2"),
        ("path,labels\n,cat\n", "line 2: has no path"),
        (
            "file,label\na.mp4,cat\n",
            "line 1: has no column `path`; found: file, label; begin with a header such as path,labels$",
        ),
        ("path,labels,split\na.mp4,cat,best\n", "line 2: split 'best' is none of"),
        ("gs://bucket/gone.mp4,cat\n", "line 1: gs://bucket/gone.mp4 lies in a bucket; copy"),
    ],
)
def test_a_wrong_row_is_named(folder, text, message):
    with pytest.raises(DataError, match=message):
        find_sources([table(folder, "labels.csv", text)])


def test_two_videos_of_one_id_are_refused(folder):
    other = folder / "other"
    other.mkdir()
    (other / "a.mp4").write_bytes((folder / "cat" / "a.mp4").read_bytes())
    with pytest.raises(DataError, match=r"would both be called a\.mp4"):
        find_sources([folder / "cat" / "a.mp4", other / "a.mp4"])


def test_a_name_that_matches_nothing_is_refused(folder):
    with pytest.raises(DataError, match=r"gone\.mp4: does not exist; give videos"):
        find_sources([folder / "gone.mp4"])
    with pytest.raises(DataError, match=r"gone\*: matches no file; give videos"):
        find_sources([folder / "gone*"])


def test_a_folder_with_a_table_of_labels_is_told(tmp_path, caplog):
    plain, names = [Source("a.mp4", tmp_path / "a.mp4")], [tmp_path]
    with pytest.raises(DataError, match="no video has labels; give a table with `path,labels`, or"):
        check_labelled(plain, names)
    table(tmp_path, "notes.csv", "path;size\na.mp4;3\n")
    path = table(tmp_path, "names.csv", "Path;Label\na.mp4;cat\n")
    with pytest.raises(DataError) as error:
        check_labelled(plain, names)
    advice = f"{path} looks like a table of labels: give that instead of the folder"
    assert str(error.value) == f"no video has labels; {advice}"
    check_labelled([Source("cat/a.mp4", tmp_path / "cat" / "a.mp4", {"cat"})], names)
    assert advice in caplog.text
    caplog.clear()
    check_labelled([Source("a.mp4", tmp_path / "a.mp4", {"cat"})], [path])
    assert not caplog.text
