"""Recipes: what is inherited, and one line that names the key for every mistake."""

from pathlib import Path

import pytest
import yaml

from vidfit.errors import RecipeError
from vidfit.recipe import load_recipe
from vidfit.training.averaging import AveragingConfig

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
    weighted = load(tmp_path, pack={"budget": "1GB", "members": {"vlad": 2, "mean": 1}})
    assert weighted.pack.members == {"vlad": 2, "mean": 1}


def test_overrides(tmp_path: Path):
    recipe = load(tmp_path, "training.steps=7", "pack.budget=1GiB", "members.mean.training.sample_frames=3")
    assert recipe.members["vlad"].training.steps == 7
    assert recipe.members["mean"].training.sample_frames == 3
    assert recipe.pack.budget == "1GiB"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["pack.budgets=1GB"], "unknown key pack.budgets"),
        (["training.stepz=5"], r"yaml: unknown key training\.stepz; the keys here are steps, .*averaging$"),
        (["members.vlad.training.stepz=5"], r"unknown key members\.vlad\.training\.stepz; .*averaging$"),
        (["members.vlad.family.clusterz=5"], r"unknown key members\.vlad\.family\.clusterz; .* clusters, hidden"),
        (["members.mean.encoder={hiden: 5}"], r"unknown key members\.mean\.encoder\.hiden; .* hidden, dropout"),
        (["dada=5"], "unknown key dada; the keys here are seed, data, .*pack$"),
        (["dada=5", "pack.budgets=1", "training.stepz=5"], r"\(and 2 more mistakes\)$"),
        (["members.vlad.family.type=transformer"], "members.vlad.family: .*transformer"),
        (["members.vlad.family.clusters=0"], "members.vlad.family.clusters: .*greater than 0$"),
        (["members.vlad.family.clusters={rgb: 0}"], "members.vlad.family.clusters.rgb: .*greater than 0$"),
        (["training.steps=0"], "yaml: training.steps: .*greater than 0$"),
        (["members.vlad.training.steps=0"], "members.vlad.training.steps: .*greater than 0$"),
        (["training.steps=many"], "yaml: training.steps: .*integer"),
        (["training.steps=[1"], r"^--set training\.steps=\[1: not YAML: "),
        (["data.train=2020-13-45"], "^--set data.train=2020-13-45: not YAML: month"),
        (["training=5"], "yaml: training: .*dictionary"),
        (["members.mean.training=3"], "members.mean.training: .*dictionary"),
        (["training.epochs=3"], "training: .*either steps or epochs"),
        (["seed=-1"], "seed: .*greater than or equal to 0"),
        (["seed=2147483648"], "seed: .*less than or equal to 2147483647"),
        (["pack.budget=lots"], "pack.budget: .*1GiB"),
        (["pack.members=[vladimir]"], "'vladimir', which is not among members: mean, vlad"),
        (["pack.members={vlad: 0}"], r"pack\.members\.vlad: .*greater than 0"),
        (["pack.members={vlad: .nan}"], r"pack\.members\.vlad: .*finite"),
        (["pack.members={vlad: .inf}"], r"pack\.members\.vlad: .*finite"),
        (["pack.members=[[vlad]]"], r"pack\.members: .*dictionary"),
        (["pack.members=[]"], r"pack\.members: .*at least 1"),
        (["members={}"], "members"),
        (["=1"], "--set =1: write key.key=value"),
        (["training"], "--set training: write key.key=value"),
        (["seed.x=1"], "--set seed.x=1: seed is not a mapping"),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(tmp_path: Path, overrides: list[str], message: str):
    with pytest.raises(RecipeError, match=message) as caught:
        load(tmp_path, *overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "message"),
    [
        ("training.decay=0.5", r"training\.decay was renamed: write lr_decay$"),
        ("members.vlad.training.clip_norm=1", r"members\.vlad\.training\.clip_norm .* write per_tensor_clip_norm$"),
        ("training.averaging={steps: 5, half_life: 4}", r"averaging\.half_life .* ema_decay, .* 1 - 1/half_life$"),
        ("distill={generations: 1, lambda: 0.5}", r"distill\.lambda was renamed: write weight$"),
        ("members.mean.family={type: dbof, hidden: 4, clusters: 2, form: max}", r"family\.form .* write pooling$"),
    ],
)
def test_an_old_key_is_told_its_new_name(tmp_path: Path, old: str, message: str):
    with pytest.raises(RecipeError, match=message):
        load(tmp_path, old)


@pytest.mark.parametrize("name", ["..", ".", "a/b", "", "-o", "best.safetensors/..", "/abs", "a\n"])
def test_a_members_name_is_a_folders(tmp_path: Path, name: str):
    members = {**RECIPE["members"], name: RECIPE["members"]["mean"]}
    with pytest.raises(RecipeError, match=r"members: .* cannot name a member's folder; use letters, digits"):
        load(tmp_path, members=members)


def test_a_budget_may_be_a_number(tmp_path: Path):
    assert load(tmp_path, "pack.budget=4096").pack.budget == "4096"


def test_a_member_may_count_epochs_where_the_others_count_steps(tmp_path: Path):
    members = load(tmp_path, "members.vlad.training.epochs=3").members
    assert (members["vlad"].training.steps, members["vlad"].training.epochs) == (None, 3)
    assert (members["mean"].training.steps, members["mean"].training.epochs) == (100, None)


def test_the_written_recipe_reads_the_same(tmp_path: Path):
    recipe = load(tmp_path, "members.vlad.training.epochs=3", "members.mean.encoder={hidden: 8}")
    (tmp_path / "copy.yaml").write_text(yaml.safe_dump(recipe.model_dump(by_alias=True)))
    assert load_recipe(tmp_path / "copy.yaml") == recipe


def test_a_member_changes_a_part_of_the_shared_averaging(tmp_path: Path):
    shared = "training.averaging={steps: 5, keep: always}"
    members = load(tmp_path, shared, "members.vlad.training.averaging={method: equal}").members
    assert members["vlad"].training.averaging == AveragingConfig(steps=5, keep="always", method="equal")
    assert load(tmp_path, shared, "members.vlad.training.averaging=null").members["vlad"].training.averaging is None


def test_the_settings_of_distillation(tmp_path: Path):
    recipe = load(tmp_path, "distill={generations: 2, teachers: [vlad], weight: 0.7}")
    assert recipe.distill is not None
    assert recipe.distill.weight == 0.7
    (tmp_path / "copy.yaml").write_text(yaml.safe_dump(recipe.model_dump(by_alias=True)))
    assert load_recipe(tmp_path / "copy.yaml") == recipe
    with pytest.raises(RecipeError, match=r"distill\.teachers names 'x', which is not among members: mean, vlad"):
        load(tmp_path, "distill={generations: 1, teachers: [x]}")


def test_soft_labels_lie_beside_the_recipe(tmp_path: Path):
    distill = load(tmp_path, "distill.soft_labels=soft").distill
    assert distill is not None
    assert distill.soft_labels == str(tmp_path / "soft")


def test_a_missing_key_is_named(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"missing key data\.vocabulary"):
        load(tmp_path, data={"train": "a", "validation": "b", "eval": "c"})
    with pytest.raises(RecipeError, match=r"missing key members\.vlad\.family\.hidden$"):
        load(tmp_path, "members.vlad.family={type: netvlad, clusters: 2}")


@pytest.mark.parametrize("text", ["- a list", "key: [unclosed", "\x00", "just words"])
def test_what_is_no_recipe(tmp_path: Path, text: str):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        load_recipe(path)


def test_a_missing_recipe(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"nowhere\.yaml: cannot read the recipe"):
        load_recipe(tmp_path / "nowhere.yaml")
