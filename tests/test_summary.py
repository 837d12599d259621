"""What a run and a frontier say at their end."""

import json
from pathlib import Path

import pytest

from vidfit.summary import print_frontier, print_summary


def test_the_summary_says_what_each_generation_reached(finished: Path, capsys: pytest.CaptureFixture[str]):
    summary = json.loads((finished / "summary.json").read_text())
    folds = [(0, 0, 0.25), (0, 1, 0.75), (1, 0, 0.6), (1, 1, 0.7)]
    summary["teachers"] = [
        {"generation": generation, "name": "vlad", "fold": fold, "gap_validation": gap}
        for generation, fold, gap in folds
    ]
    print_summary(summary, finished)
    gap = summary["members"][1]["gap_validation"]
    assert f"validation GAP of vlad by generation: 0.5000 -> 0.6500 -> {gap:.4f}\n" in capsys.readouterr().out


def test_the_summary_says_how_good_decisions_are(finished: Path, capsys: pytest.CaptureFixture[str]):
    summary = json.loads((finished / "summary.json").read_text())
    summary["packed"] |= {"accuracy": 0.75, "top_5_accuracy": 0.875, "micro_f1": 0.5, "macro_f1": 0.25}
    summary["packed"] |= {"micro_precision": 0.75, "micro_recall": 0.375}
    print_summary(summary, finished)
    said = capsys.readouterr().out
    assert "accuracy: 0.7500, top-5 accuracy 0.8750\n" in said
    assert "75% of labels given are right, 38% of true ones are given (micro F1 0.5000, macro 0.2500)\n" in said


def test_the_closing_table_has_words_to_the_left_and_numbers_to_the_right(
    finished: Path, capsys: pytest.CaptureFixture[str]
):
    summary = json.loads((finished / "summary.json").read_text())
    print_summary(summary, finished)
    heading, *rows = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    assert [row.split()[0] for row in rows] == [*(member["name"] for member in summary["members"]), "packed"]
    assert all(not row.startswith(" ") for row in rows)
    assert {len(row) for row in (heading, *rows)} == {len(heading)}
    assert heading.endswith("bits  weight")
    end = heading.index("  mAP") + len("  mAP")
    for row, member in zip(rows, summary["members"], strict=False):
        assert row[:end].endswith(f"{member['map']:.4f}")


def test_a_frontier_has_the_best_baseline_that_takes_no_more_bytes(capsys: pytest.CaptureFixture[str]):
    print_frontier(
        {
            "baselines": {"best member": [{"gap": 0.5, "bytes": 900}, {"gap": 0.6, "bytes": 2000}]},
            "points": [
                {"budget": 800, "bytes": 790, "gap": 0.4, "members": [{"name": "mean", "bits": 4.0}]},
                {"budget": 1000, "bytes": 950, "gap": 0.55, "members": [{"name": "lstm", "bits": 8.0}]},
            ],
        }
    )
    assert capsys.readouterr().out.splitlines() == [
        "bytes  vidfit  best member  members",
        "790 B  0.4000            -  mean 4.0 bits",
        "950 B  0.5500       0.5000  lstm 8.0 bits",
    ]


def test_columns_without_values_are_left_out(finished: Path, capsys: pytest.CaptureFixture[str]):
    summary = json.loads((finished / "summary.json").read_text())
    unknown = dict.fromkeys(("gap", "map", "gap_quantized"))
    summary["members"] = [member | unknown | {"parameters": 7_700} for member in summary["members"]]
    summary["packed"] |= dict.fromkeys(("gap", "map", "hit_at_1", "perr"))
    print_summary(summary, finished)
    heading, *rows = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    assert heading.split() == ["member", "family", "params", "float32", "8-bit", "bits", "weight"]
    assert all("7.70 k" in row for row in rows[:-1])
