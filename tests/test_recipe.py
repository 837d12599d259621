"""Recipes: what is inherited, and one line that names the key for every mistake."""

from pathlib import Path

import pytest
import yaml

from vidfit.errors import DataError, RecipeError
from vidfit.features.shards import expand_shards
from vidfit.recipe import Recipe, load_recipe
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
        (["training.stepz=5"], r"yaml: unknown key training\.stepz; the keys here are solver, steps, .*averaging$"),
        (["members.vlad.training.stepz=5"], r"unknown key members\.vlad\.training\.stepz; .*averaging$"),
        (["members.vlad.family.clusterz=5"], r"unknown key members\.vlad\.family\.clusterz; .* clusters, hidden"),
        (["members.mean.encoder={hiden: 5}"], r"unknown key members\.mean\.encoder\.hiden; .* hidden, dropout"),
        (["dada=5"], "unknown key dada; the keys here are seed, data, .*pack$"),
        (["dada=5", "pack.budgets=1", "training.stepz=5"], r"\(and 2 more mistakes\)$"),
        (["members.vlad.family.type=transformer"], "members.vlad.family: .*transformer"),
        (["members.vlad.family.clusters=0"], "clusters: give a number greater than 0 or a mapping .* values, not 0$"),
        (["members.vlad.family.clusters={rgb: 0}"], "members.vlad.family.clusters.rgb: .*greater than 0, not 0$"),
        (["training.steps=0"], "yaml: training.steps: .*greater than 0, not 0$"),
        (["members.vlad.training.steps=0"], "members.vlad.training.steps: .*greater than 0, not 0$"),
        (["training.steps=many"], "yaml: training.steps: give a whole number, not 'many'$"),
        (["training.steps=[1"], r"^--set training\.steps=\[1: not YAML: "),
        (["data.train=2020-13-45"], "^--set data.train=2020-13-45: not YAML: month"),
        (["training.segments={context: Video}"], r"segments\.context: give a number or 'video', not 'Video'$"),
        (["training=5"], "yaml: training: give a mapping of keys to values, not 5"),
        (["members.mean.training=3"], "members.mean.training: give a mapping of keys to values, not 3$"),
        (["training.epochs=3"], "training: .*either steps or epochs"),
        (["seed=-1"], "seed: give a number of at least 0, not -1$"),
        (["seed=2147483648"], "seed: give a number of at most 2147483647, not 2147483648$"),
        (["pack.budget=lots"], "pack.budget: .*1GiB"),
        (["pack.members=[vladimir]"], "'vladimir', which is not among members: mean, vlad"),
        (["pack.members={vlad: 0}"], r"pack\.members\.vlad: .*greater than 0"),
        (["pack.members={vlad: .nan}"], r"pack\.members\.vlad: .*finite"),
        (["pack.members={vlad: .inf}"], r"pack\.members\.vlad: .*finite"),
        (["pack.members=[[vlad]]"], r"pack\.members: give a mapping of keys to values, not \[\["),
        (["pack.members=[]"], r"pack\.members: .*at least 1"),
        (["members={}"], "members"),
        (["members.mean.family=mean"], r"mean\.family: give a mapping such as \{type: mean\}, not 'mean'$"),
        (["members.mean.head=5"], r"members\.mean\.head: give a mapping such as \{type: \.\.\.\}, not 5$"),
        (["members.mean.family={}"], r"members\.mean\.family: missing key type$"),
        (["members.mean=null"], r"members\.mean: give a mapping of keys to values, not null$"),
        (["pack.budget=2.5GBB"], r"pack\.budget: budget '2\.5GBB': write a number of bytes such as 1GB"),
        (["pack.budget=0.5"], r"pack\.budget: budget '0\.5': write a number of bytes such as 1GB"),
        (["pack.budget=[1GB]"], r"pack\.budget: give text, not \[\"1GB\"\]$"),
        (["members.mean.head=null"], r"members\.mean: missing key head; only a frame-classifier does without"),
        (["members.mean.family={type: frame-classifier}"], r"members\.mean: a frame-classifier decides itself; remove"),
        (["pack.frame_probabilities=true"], r"needs a packed member of type frame-classifier; add one"),
        (
            ["members.mean.head=null", "members.mean.family={type: frame-classifier, pooling: noisy-or}"],
            r"members\.mean: pooling noisy-or counts frames as prediction does; it needs training\.sampling: none",
        ),
        (["members.mean.head={type: logistic, l3: 1}"], r"unknown key members\.mean\.head\.l3; .* l2, dropout"),
        (["members.mean.encoder={hidden: [4, 0]}"], r"encoder\.hidden\.1: give a number greater than 0, not 0"),
        (["pack.portable=2"], r"pack\.portable: give true or false, not 2$"),
        (["training={steps: 5, steps: 6}"], r"^--set training=.*: lines 1 and 1: the key steps stands twice"),
        (["pack.members={no: 1}"], r"^--set .*: line 1: the key no is not text in YAML; write 'no' in quotes"),
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


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {steps: 1}\nseed: 1\ntraining: {steps: 2}\n", "lines 1 and 3: the key training stands twice"),
        ("members:\n  a:\n    head: 1\n  b: 2\n  a: 3\n", "lines 2 and 5: the key a stands twice"),
        ("a: [{b: 1, c: 2,\n 'b': 3}]\n", "lines 1 and 2: the key b stands twice"),
        ("members:\n  no: 1\n", "line 2: the key no is not text in YAML; write 'no' in quotes"),
        ("members:\n  1: 1\n", "line 2: the key 1 is not text in YAML; write '1' in quotes"),
        ("members:\n  2024-01-01: 1\n", "line 2: the key 2024-01-01 is not text"),
        ("members:\n  ? [a, b]\n  : 1\n", "line 2: a key is not text in YAML"),
    ],
)
def test_keys_are_text_and_stand_once(tmp_path: Path, text: str, message: str):
    path = written(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_merge_keys_are_no_repetition(tmp_path: Path):
    text = yaml.safe_dump({key: RECIPE[key] for key in ("data", "pack")}) + (
        "training: &base {steps: 5, batch_size: 2}\n"
        "members:\n"
        "  vlad: {family: {type: mean}, head: {type: logistic}, training: {<<: *base, steps: 7}}\n"
    )
    training = load_recipe(written(tmp_path, text)).members["vlad"].training
    assert (training.steps, training.batch_size) == (7, 2)


def test_quoted_names_that_yaml_would_not_read_as_text(tmp_path: Path):
    members = {"no": RECIPE["members"]["mean"], "1": RECIPE["members"]["mean"]}
    recipe = load(tmp_path, members=members, pack={"budget": "1MB"})
    assert set(recipe.members) == {"no", "1"}


def test_a_tilde_is_the_users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/ada")
    recipe = load(tmp_path, "data.train=~/a*", "data.vocabulary=~/names.csv", "distill={soft_labels: ~/soft}")
    assert (recipe.data.train, recipe.data.vocabulary) == (["/home/ada/a*"], "/home/ada/names.csv")
    assert recipe.distill is not None
    assert recipe.distill.soft_labels == "/home/ada/soft"


@pytest.mark.parametrize("folder", ["[2024] clips", "run[1]", "a*b?"])
def test_a_recipes_folder_is_taken_literally(tmp_path: Path, folder: str):
    for place in (tmp_path / folder, tmp_path / "run1", tmp_path / "aXbY"):
        (place / "train").mkdir(parents=True)
        (place / "train" / "a.tfrecord").write_bytes(b"")
    recipe = load(tmp_path / folder, "data.validation=train/*.tfrecord", "data.eval=train/b.tfrecord")
    for patterns in (recipe.data.train, recipe.data.validation):
        assert expand_shards(patterns) == [tmp_path / folder / "train" / "a.tfrecord"]
    with pytest.raises(DataError, match="no file matches"):
        expand_shards(recipe.data.eval)


def test_a_folder_that_is_not_utf_8_survives_a_copy(tmp_path: Path):
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    recipe = load(folder, "data.eval=x\udcff")
    assert recipe.data.eval == [f"{folder}/x\udcff"]
    (folder / "copy.yaml").write_text(yaml.safe_dump(recipe.model_dump(by_alias=True)))
    assert load_recipe(folder / "copy.yaml") == recipe


@pytest.mark.parametrize("text", ["- a list", "key: [unclosed", "\x00", "just words"])
def test_what_is_no_recipe(tmp_path: Path, text: str):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        load_recipe(path)


def test_a_missing_recipe(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"nowhere\.yaml: cannot read the recipe"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_a_codebook_is_told_that_it_was_removed(tmp_path: Path):
    with pytest.raises(RecipeError, match=r"quantize\.codebook was removed, levels are always evenly spaced; remove"):
        load(tmp_path, "quantize={codebook: kmeans}")


def test_the_default_codebook_of_older_run_folders_is_ignored(tmp_path: Path):
    assert load(tmp_path, "quantize={codebook: uniform}") == load(tmp_path)


ONLY_TRAINED = {"train": "train", "vocabulary": "names.csv"}


def test_validation_and_eval_may_be_absent(tmp_path: Path):
    data = load(tmp_path, data=ONLY_TRAINED).data
    assert (data.validation, data.eval) == ([], [])


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"pack": {"budget": "1MB"}}, "a search for members needs data.validation; give it, or name pack.members"),
        ({"training": {"steps": 9, "batch_size": 8, "patience": 2}}, "patience needs data.validation"),
    ],
)
def test_what_needs_validation_says_so(tmp_path: Path, replaced: dict, message: str):
    with pytest.raises(RecipeError, match=message):
        load(tmp_path, data=ONLY_TRAINED, **replaced)


def test_given_thresholds_are_found_beside_the_recipe(tmp_path: Path):
    pack = {"budget": "1MB", "members": ["mean"], "thresholds": "own.csv"}
    assert load(tmp_path, pack=pack).pack.thresholds == str(tmp_path / "own.csv")
    with pytest.raises(RecipeError, match="precision chooses thresholds, and thresholds gives them; remove one"):
        load(tmp_path, pack=pack | {"precision": 0.9})


def test_every_key_has_a_description():
    schema = Recipe.model_json_schema()
    keys = {
        f"{name}.{key}": value
        for name, part in schema["$defs"].items()
        for key, value in part["properties"].items()
        if key != "type" and "$ref" not in str(value)
    }
    assert len(keys) > 60
    assert [key for key, value in keys.items() if not value.get("description")] == []
