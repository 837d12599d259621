"""Recipes: what is inherited, and one line that names the key for every mistake."""

from pathlib import Path

import pytest
import yaml

from vidfit.errors import RecipeError
from vidfit.recipe import load_recipe

RECIPE = {
    "seed": 3,
    "data": {"train": "train", "validation": ["a.tfrecord", "b.tfrecord"], "eval": "/abs", "vocabulary": "names.csv"},
    "training": {"steps": 100, "batch_size": 16},
    "members": {
        "mean": {"family": {"type": "mean"}, "head": {"type": "logistic"}},
        "vlad": {
            "family": {"type": "netvlad", "clusters": {"rgb": 8, "audio": 4}, "hidden": 16},
            "head": {"type": "moe", "experts": 2},
            "training": {"batch_size": 8},
        },
    },
    "pack": {"budget": "4MB", "members": ["vlad"]},
}


def load(tmp_path: Path, *overrides: str, **replaced):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **replaced}))
    return load_recipe(path, overrides)


def test_members_inherit_training_and_may_override_it(tmp_path: Path):
    recipe = load(tmp_path)
    assert recipe.members["mean"].training.batch_size == 16
    assert recipe.members["vlad"].training.batch_size == 8
    assert recipe.members["vlad"].training.steps == 100


def test_paths_are_relative_to_the_recipe(tmp_path: Path):
    data = load(tmp_path).data
    assert data.train == [str(tmp_path / "train")]
    assert data.validation == [str(tmp_path / "a.tfrecord"), str(tmp_path / "b.tfrecord")]
    assert data.eval == ["/abs"]
    assert data.vocabulary == str(tmp_path / "names.csv")


def test_a_list_of_packed_members_means_equal_weights(tmp_path: Path):
    assert load(tmp_path).pack.members == {"vlad": 1.0}
    assert load(tmp_path, pack={"budget": "1GB", "members": {"vlad": 2, "mean": 1}}).pack.members["vlad"] == 2


def test_overrides(tmp_path: Path):
    recipe = load(tmp_path, "training.steps=7", "pack.budget=1GiB", "members.mean.training.sample_frames=3")
    assert recipe.members["vlad"].training.steps == 7
    assert recipe.members["mean"].training.sample_frames == 3
    assert recipe.pack.budget == "1GiB"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pack.budgets=1GB"], "unknown key pack.budgets"),
        (["training.stepz=5"], "unknown key members.mean.training.stepz"),
        (["members.vlad.family.clusterz=5"], "unknown key members.vlad.family.*clusterz"),
        (["members.vlad.family.type=transformer"], "members.vlad.family.*transformer"),
        (["training.steps=0"], "members.mean.training.steps: .*greater than 0"),
        (["training.steps=many"], "members.mean.training.steps: .*integer"),
        (["pack.budget=lots"], "pack.budget: .*1GiB"),
        (["pack.members=[vladimir]"], "'vladimir', which is not among members: mean, vlad"),
        (["pack.members={vlad: 0}"], "pack.members: .*weight above 0"),
        (["members={}"], "members"),
        (["training"], "--set training: write key.key=value"),
        (["seed.x=1"], "--set seed.x=1: seed is not a mapping"),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(tmp_path: Path, overrides: list[str], message: str):
    with pytest.raises(RecipeError, match=message) as caught:
        load(tmp_path, *overrides)
    assert "\n" not in str(caught.value)


def test_a_missing_key_is_named(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"missing key data\.vocabulary"):
        load(tmp_path, data={"train": "a", "validation": "b", "eval": "c"})


@pytest.mark.parametrize("text", ["- a list", "key: [unclosed", "\x00", "just words"])
def test_what_is_no_recipe(tmp_path: Path, text: str):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        load_recipe(path)


def test_a_missing_recipe(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"nowhere\.yaml: cannot read the recipe"):
        load_recipe(tmp_path / "nowhere.yaml")
