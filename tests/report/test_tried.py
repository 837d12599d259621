"""The section "What was tried", of a run that `vidfit fit` made."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.report.conftest import change, section, words
from vidfit.errors import OutputError
from vidfit.report.page import write_report

TITLE = "What was tried"


def tried(family: str, steps: int, seconds: float, gap: float | None) -> dict[str, Any]:
    member = {"family": {"type": family, "dropout": 0.5}, "training": {"steps": steps, "batch_size": 64}}
    return {"member": member, "seconds": seconds} | ({} if gap is None else {"gap_of_best": gap})


def write_fit(folder: Path, **members: dict[str, Any]) -> None:
    document = {"settings": {"budget": 2_000_000}, "seconds": 150.0, "begun": {}, "tried": members}
    (folder / "fit.json").write_text(json.dumps(document))


def table_of(folder: Path) -> str:
    """The words of the table."""
    return words(section(write_report(folder), TITLE).split("<table>")[1].split("</table>")[0])


def test_each_member_has_its_gain_in_the_order_of_trying(folder: Path):
    write_fit(folder, zeta=tried("mean", 1_250, 27.8, 0.5), alpha=tried("dbof", 312, 80.2, 0.5625))
    head = "member steps seconds best GAP gain"
    assert table_of(folder) == f"{head} zeta 1,250 28 0.5000 alpha 312 80 0.5625 +0.0625"


def test_gains_are_differences_of_what_is_shown(folder: Path):
    write_fit(
        folder, zeta=tried("mean", 8, 1, 0.37753), alpha=tried("dbof", 8, 1, 0.38366), beta=tried("mean", 8, 1, 0.38365)
    )
    assert re.findall(r"0\.\d{4} ([+-][\d.]+)", table_of(folder)) == ["+0.0062", "-0.0001"]
    write_fit(folder, zeta=tried("mean", 8, 1, 0.38366), alpha=tried("dbof", 8, 1, 0.38364))
    assert table_of(folder).endswith("0.3836 -0.0001")


def test_chosen_members_have_their_weight_over_all_seeds(folder: Path):
    write_fit(
        folder, vlad=tried("netvlad", 8, 1, 0.5), lstm=tried("lstm", 8, 1, 0.5625), dbof=tried("dbof", 8, 1, 0.5625)
    )
    summary = json.loads((folder / "summary.json").read_text())
    named = {"vlad": 0.25, "vlad-seed-2": 0.25, "dbof": 0.25, "dbof-seed-2": 0.25}
    members = [{"name": name, "weight": weight, "bits": 8.0} for name, weight in named.items()]
    change(folder / "summary.json", "packed", summary["packed"] | {"members": members})
    change(folder / "summary.json", "members", [summary["members"][0] | {"name": name} for name in named])
    cells = table_of(folder).split("gain ")[1]
    assert cells == "vlad 50% 8 1 0.5000 lstm 8 1 0.5625 +0.0625 dbof 50% 8 1 0.5625 +0.0000"
    said = words(section(write_report(folder), "The packed file"))
    assert "members 2 of 3 tried, from 4 trainings" in said


def test_what_was_given_up_shows_how_many_trainings_it_had(folder: Path):
    for part in range(5):
        (folder / "folds" / str(part)).mkdir(parents=True)
    write_fit(folder, a=tried("mean", 8, 1, 0.5) | {"trainings": 5}, b=tried("dbof", 4, 1, 0.5) | {"trainings": 2})
    assert table_of(folder).endswith("a 5 of 5 8 1 0.5000 b 2 of 5 4 1 0.5000 +0.0000")
    said = words(section(write_report(folder), TITLE))
    assert "A member that adds nothing after two trainings is given up." in said
    assert "fewer where time was short" in said


def test_linear_members_see_all_videos(folder: Path):
    solved = tried("mean", 60, 1, 0.5)
    solved["member"]["training"]["solver"] = "lbfgs"
    write_fit(folder, **{"mean-c10": solved, "dbof": tried("dbof", 312, 80.2, 0.5625)})
    said = words(section(write_report(folder), TITLE))
    assert "A training learns from 64 videos in each of its “steps”." in said
    assert "Linear models, such as mean-c10, see all videos in each." in said
    write_fit(folder, **{"mean-c10": solved})
    assert "A training learns" not in write_report(folder).read_text()


def test_one_member_has_no_column_of_gains(folder: Path):
    write_fit(folder, zeta=tried("mean", 1_250, 27.8, 0.5))
    assert table_of(folder) == "member steps seconds best GAP zeta 1,250 28 0.5000"


def test_the_time_of_members_and_the_rest_are_the_whole(folder: Path):
    write_fit(folder, a=tried("mean", 8, 30, 0.5), b=tried("dbof", 8, 60, 0.6))
    change(folder / "fit.json", "limit", 180.0)
    said = words(section(write_report(folder), TITLE))
    assert "Time used: 2 min 30 s of 3 min. Trying these members took 1 min 30 s. The other 1 min went to" in said
    assert "time used 2 min 30 s of 3 min" in words(section(write_report(folder), "The packed file"))
    change(folder / "fit.json", "seconds", 248.0)
    write_fit_seconds = {"a": 30.3, "b": 178.3}
    tried_now = json.loads((folder / "fit.json").read_text())["tried"]
    change(
        folder / "fit.json",
        "tried",
        {name: it | {"seconds": write_fit_seconds[name]} for name, it in tried_now.items()},
    )
    said = words(section(write_report(folder), TITLE))
    assert "Time used: 4 min 8 s of 3 min. Trying these members took 3 min 29 s. The other 39 s went to" in said


def test_members_without_time_are_named(folder: Path):
    write_fit(folder, a=tried("mean", 8, 30, 0.5))
    change(folder / "fit.json", "untried", ["deep", "dbof"])
    assert "Too little time was left for deep, dbof." in words(section(write_report(folder), TITLE))
    assert "a longer --time (2 members were not tried)" in words(section(write_report(folder), "The packed file"))
    change(folder / "fit.json", "untried", ["deep"])
    assert "(1 member was not tried)" in words(section(write_report(folder), "The packed file"))


def test_a_fit_that_was_killed_blames_no_lack_of_time(folder: Path):
    write_fit(folder)
    change(folder / "fit.json", "untried", ["deep", "dbof"])
    (folder / "summary.json").unlink()
    said = words(section(write_report(folder), TITLE))
    assert said == "What was tried Not tried yet: deep, dbof."


def test_a_loss_is_told_too(folder: Path):
    write_fit(folder, first=tried("mean", 8, 1, 0.5), second=tried("dbof", 8, 1, 0.4975))
    assert table_of(folder).endswith("0.4975 -0.0025")


def test_a_member_that_was_stopped_has_no_gain(folder: Path):
    write_fit(folder, a=tried("mean", 8, 1, 0.5), b=tried("dbof", 9, 2, None), c=tried("lstm", 7, 3, 0.625))
    assert table_of(folder).endswith("b 9 2 - c 7 3 0.6250 +0.1250")


def test_it_says_on_which_videos_was_measured(folder: Path):
    write_fit(folder, first=tried("mean", 8, 1, 0.5))
    assert "on validation videos that did not choose it" in section(write_report(folder), TITLE)
    (folder / "folds" / "0").mkdir(parents=True)
    said = section(write_report(folder), TITLE)
    assert "on videos its models had not seen" in said
    assert "did not choose" not in said
    assert "trainings" in table_of(folder)


def test_a_run_of_a_recipe_has_no_such_section(folder: Path):
    assert TITLE not in write_report(folder).read_text()


def test_without_eval_shards_the_fit_gives_the_gap(unmeasured: Path):
    write_fit(unmeasured, a=tried("mean", 8, 1, 0.5), b=tried("dbof", 8, 1, 0.5625))
    said = words(section(write_report(unmeasured), "The packed file"))
    assert "GAP 0.5625 score from 0 to 1, on videos its models had not seen" in said
    assert "precision" not in said
    assert "No eval videos were given." in said
    change(unmeasured / "fit.json", "decisions", {"precision": 0.75, "recall": 0.5})
    said = words(section(write_report(unmeasured), "The packed file"))
    assert "precision 75% of the labels that it gives are right, on videos its models had not seen" in said
    assert "recall 50%" in said


def test_with_eval_shards_their_scores_stand_alone(folder: Path):
    write_fit(folder, a=tried("mean", 8, 1, 0.5))
    change(folder / "fit.json", "decisions", {"precision": 0.0625, "recall": 0.5})
    said = words(section(write_report(folder), "The packed file"))
    assert len(re.findall(r"\bGAP \d", said)) == 1
    assert "6%" not in said


def test_a_fit_that_cannot_be_read(folder: Path):
    (folder / "fit.json").write_text('{"tried": 3}')
    with pytest.raises(OutputError, match=r"fit\.json: cannot be read \(.+\); remove it"):
        write_report(folder)


@pytest.mark.parametrize(("others", "batches"), [(True, True), (False, False)])
def test_steps_of_a_linear_model_are_not_said_to_see_a_batch(folder: Path, others: bool, batches: bool):
    linear = tried("mean", 60, 1, 0.5)
    linear["member"]["training"]["solver"] = "lbfgs"
    write_fit(folder, linear=linear, **({"dbof": tried("dbof", 312, 8, 0.5625)} if others else {}))
    said = words(section(write_report(folder), TITLE))
    assert ("64 videos in each" in said) == batches
    assert "fewer where time was short" not in said
    assert "see all videos in each" in said
