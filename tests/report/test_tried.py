"""The section "What was tried", of a run that `vidfit fit` made."""

import json
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
    head = "member family steps seconds best GAP gain"
    assert table_of(folder) == f"{head} zeta mean 1,250 28 0.5000 alpha dbof 312 80 0.5625 +0.0625"


def test_one_member_has_no_column_of_gains(folder: Path):
    write_fit(folder, zeta=tried("mean", 1_250, 27.8, 0.5))
    assert table_of(folder) == "member family steps seconds best GAP zeta mean 1,250 28 0.5000"


def test_the_time_of_members_and_the_rest_are_the_whole(folder: Path):
    write_fit(folder, a=tried("mean", 8, 30, 0.5), b=tried("dbof", 8, 60, 0.6))
    change(folder / "fit.json", "limit", 180.0)
    said = words(section(write_report(folder), TITLE))
    assert "Time used: 2 min 30 s of 3 min. Trying these members took 1 min 30 s. The other 1 min went to" in said
    assert "time used 2 min 30 s of 3 min" in words(section(write_report(folder), "The packed file"))


def test_members_without_time_are_named(folder: Path):
    write_fit(folder, a=tried("mean", 8, 30, 0.5))
    change(folder / "fit.json", "untried", ["deep", "dbof"])
    assert "No time was left for deep, dbof." in words(section(write_report(folder), TITLE))
    assert "more time (--time; 2 members were not tried)" in words(section(write_report(folder), "The packed file"))


def test_a_loss_is_told_too(folder: Path):
    write_fit(folder, first=tried("mean", 8, 1, 0.5), second=tried("dbof", 8, 1, 0.4975))
    assert table_of(folder).endswith("0.4975 -0.0025")


def test_a_member_that_was_stopped_has_no_gain(folder: Path):
    write_fit(folder, a=tried("mean", 8, 1, 0.5), b=tried("dbof", 9, 2, None), c=tried("lstm", 7, 3, 0.625))
    assert table_of(folder).endswith("b dbof 9 2 - c lstm 7 3 0.6250 +0.1250")


def test_it_says_on_which_videos_was_measured(folder: Path):
    write_fit(folder, first=tried("mean", 8, 1, 0.5))
    assert "on validation videos that did not choose it" in section(write_report(folder), TITLE)
    (folder / "folds").mkdir()
    said = section(write_report(folder), TITLE)
    assert "on videos its models had not seen" in said
    assert "did not choose" not in said
    assert "trainings" in table_of(folder)


def test_a_run_of_a_recipe_has_no_such_section(folder: Path):
    assert TITLE not in write_report(folder).read_text()


def test_without_eval_shards_the_fit_gives_the_gap(unmeasured: Path):
    write_fit(unmeasured, a=tried("mean", 8, 1, 0.5), b=tried("dbof", 8, 1, 0.5625))
    said = words(section(write_report(unmeasured), "The packed file"))
    assert "GAP@20 0.5625 score from 0 to 1, on videos its models had not seen" in said
    assert "No eval videos were given. Mark some in the column split of your table" in said


def test_with_eval_shards_their_gap_stands_alone(folder: Path):
    write_fit(folder, a=tried("mean", 8, 1, 0.5))
    assert words(section(write_report(folder), "The packed file")).count("GAP@20") == 1


def test_a_fit_that_cannot_be_read(folder: Path):
    (folder / "fit.json").write_text('{"tried": 3}')
    with pytest.raises(OutputError, match=r"fit\.json: cannot be read \(.+\); remove it"):
        write_report(folder)
