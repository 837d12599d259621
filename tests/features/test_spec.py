"""Feature specs, and vocabularies joined on their index column."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from vidfit.errors import DataError
from vidfit.features.spec import FeatureSpec, Modality, Vocabulary


def test_slices_follow_the_order_of_modalities():
    spec = FeatureSpec(modalities=(Modality(name="rgb", size=1024), Modality(name="audio", size=128)))
    assert spec.slices() == {"rgb": slice(0, 1024), "audio": slice(1024, 1152)}
    assert spec.total_size == 1152
    assert spec.level == "frame"


def test_floats_are_video_level():
    assert FeatureSpec(modalities=(Modality(name="mean_rgb", size=3, dtype="float32"),)).level == "video"


@pytest.mark.parametrize(
    "modalities",
    [
        (),
        (Modality(name="a", size=1), Modality(name="a", size=2)),
        (Modality(name="a", size=1), Modality(name="b", size=1, dtype="float32")),
    ],
    ids=["none", "same name", "bytes and floats"],
)
def test_inconsistent_specs_are_refused(modalities):
    with pytest.raises(ValidationError):
        FeatureSpec(modalities=modalities)


@pytest.mark.parametrize("name", ["num_frames", "probabilities"])
def test_names_of_the_packed_file_are_refused(name: str):
    with pytest.raises(ValidationError, match=f"'{name}' is taken in the packed file"):
        Modality(name=name, size=1)


@pytest.mark.parametrize(
    "text",
    [
        'label_id,label_name\n2,"Car, fast"\n0,Game\n1,Dog\n',
        "Index,TrainVideoCount,KnowledgeGraphId,Name,WikiUrl,Vertical1,Vertical2,Vertical3,WikiDescription\n"
        '2,9,/m/2,"Car, fast",u,v,,,d\n0,7,/m/0,Game,u,v,,,"two\nlines"\n1,8,/m/1,Dog,u,v,,,d\n',
        'index,mid,display_name\n2,/m/2,"Car, fast"\n0,/m/0,Game\n1,/m/1,Dog\n',
    ],
    ids=["label_names.csv", "vocabulary.csv", "class_labels_indices.csv"],
)
def test_rows_are_joined_on_the_index_not_on_their_order(tmp_path: Path, text: str):
    path = tmp_path / "names.csv"
    path.write_text(text)
    assert Vocabulary.from_csv(path).names == ("Game", "Dog", "Car, fast")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name,number\na,0\n", "line 1: header 'name,number' is unknown"),
        ("", "line 1: header '' is unknown"),
        ("label_id,label_name\n", "no classes"),
        ("label_id,label_name\n0,a\n0,b\n", "line 3: index 0 occurs twice"),
        ("label_id,label_name\n0,a\n2,b\n", "no line has index 1"),
        ("label_id,label_name\n0,a\nx,b\n", "line 3: index 'x' is no whole number"),
        ("label_id,label_name\n-1,a\n", "line 2: index '-1' is no whole number"),
        ("label_id,label_name\n,a\n", "line 2: index '' is no whole number"),
        ("index,mid,display_name\n0,/m/0\n", "line 2: has 2 columns, but the header has 3"),
        ("Index,Name,Vertical\n0,a,v\n1,b, c,v\n", "line 3: has 4 columns, but the header has 3"),
        ('label_id,label_name\n0,a\n1, "b, c"\n', "line 3: has 3 columns, but the header has 2"),
        ('label_id,label_name\n0,a\n\n1,"b\n2,c\n', "line 4: cannot be read (unexpected end of data); close"),
        ('label_id,label_name\n0,"a\n1,"b"\n', "line 2: cannot be read (',' expected after '\"'); close its quotes"),
        ('label_id,label_name\n0,"a\n1,b"\n', "line 2: the name does not end on this line; close its quote"),
        ("label_id,label_name,label_name\n0,a,b\n", "line 1: has two columns label_name"),
    ],
)
def test_bad_vocabularies_name_file_and_line(tmp_path: Path, text: str, problem: str):
    path = tmp_path / "names.csv"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        Vocabulary.from_csv(path)
    assert str(path) in str(caught.value)
    assert problem in str(caught.value)


def test_unquoted_commas_in_the_last_column_are_the_names(tmp_path: Path):
    """As in YouTube-8M's own label_names.csv."""
    path = tmp_path / "names.csv"
    path.write_text("label_id,label_name\n0,Nike, Inc.\n1,Warhammer 40,000: Dawn\n")
    assert Vocabulary.from_csv(path).names == ("Nike, Inc.", "Warhammer 40,000: Dawn")


def test_missing_or_binary_vocabularies_name_the_file(tmp_path: Path):
    (tmp_path / "binary.csv").write_bytes(b"label_id,label_name\n0,\xff\xfe\n")
    for name in ("absent.csv", "binary.csv"):
        with pytest.raises(DataError, match=name):
            Vocabulary.from_csv(tmp_path / name)


def test_real_vocabularies(data_dir: Path):
    audioset = Vocabulary.from_csv(data_dir / "audioset" / "class_labels_indices.csv")
    assert len(audioset) == 527
    assert audioset.names[:2] == ("Speech", "Male speech, man speaking")
    youtube = Vocabulary.from_csv(data_dir / "yt8m-video-level" / "label_names.csv")
    assert len(youtube) == 3862
    assert youtube.names[:2] == ("Game", "Video game")
    assert youtube.names[271] == "Nike, Inc."
