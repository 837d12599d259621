"""The recipes that ship: all are read, and the winners' nine members have the published sizes."""

from pathlib import Path

import pytest
import torch

from vidfit.features.spec import FeatureSpec, Modality
from vidfit.models.classifier import ClassifierConfig, VideoClassifier
from vidfit.recipe import load_recipe

FOLDER = Path(__file__).parents[1] / "recipes"
YOUTUBE_8M = FeatureSpec(modalities=(Modality(name="rgb", size=1024), Modality(name="audio", size=128)))

# Millions of weights, counted in the original graphs, and of all nine members together.
PUBLISHED = {"netvlad-256": 321.5, "netfv-96": 369.1, "dbof-4096": 37.2, "lstm-a": 19.2, "gru": 15.4}
TOTAL = 1116
MEMBERS = load_recipe(FOLDER / "yt8m-1gb.yaml").members
TODAY = load_recipe(FOLDER / "yt8m-best.yaml").members


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_valid(path: Path):
    assert load_recipe(path).members


def test_there_are_eight():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {
        "demo",
        "demo-videos",
        "audioset",
        "clips",
        "clips-segments",
        "yt8m-video-level",
        "yt8m-1gb",
        "yt8m-best",
    }


def millions(member: ClassifierConfig) -> float:
    with torch.device("meta"):
        model = VideoClassifier(member, YOUTUBE_8M, 3862)
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_winners_members_have_the_published_sizes(name: str):
    assert millions(MEMBERS[name]) == pytest.approx(PUBLISHED[name], abs=0.1)


def test_the_nine_together():
    assert len(MEMBERS) == 9
    assert sum(map(millions, MEMBERS.values())) == pytest.approx(TOTAL, abs=2)


def test_todays_members_fit_a_gigabyte_in_8_bits():
    """At 8 bits a weight takes a byte, and a twentieth more goes to scales and what stays float."""
    assert 600 < sum(map(millions, TODAY.values())) < 1000 / 1.05


@pytest.mark.parametrize(("name", "weights"), [("nextvlad-128", 88.889378), ("nextvlad-112", 78.643170)])
def test_todays_nextvlads_have_the_published_sizes(name: str, weights: float):
    assert millions(TODAY[name]) == pytest.approx(weights, abs=1e-6)


@pytest.mark.parametrize("name", MEMBERS)
def test_the_winners_members_run_at_full_size(name: str):
    """Large members on the meta device, which has shapes but no numbers, and no autocast, which recurrent ones need."""
    with torch.device("cpu" if MEMBERS[name].family.type in ("lstm", "gru") else "meta"):
        model = VideoClassifier(MEMBERS[name], YOUTUBE_8M, 3862).eval()
        frames = {it.name: torch.zeros(1, 2, it.size, dtype=torch.uint8) for it in YOUTUBE_8M.modalities}
    assert model(frames).shape == (1, 3862)
