"""Sizes as people write them."""

import pytest

from vidfit.errors import BudgetError
from vidfit.sizes import count_of, format_gain, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1GB", 1_000_000_000),
        ("1GiB", 1_073_741_824),
        ("20MB", 20_000_000),
        ("1.5 MB", 1_500_000),
        ("10kb", 10_000),
        ("4096", 4096),
        ("512 B", 512),
    ],
)
def test_units(text: str, size: int):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "many", "1 TB", "-1MB", "0", "1,5MB", "0.1B", "nan", "infMB"])
def test_what_is_no_size_is_refused_with_the_way_out(text: str):
    with pytest.raises(BudgetError, match="1GiB"):
        parse_size(text)


@pytest.mark.parametrize(("size", "text"), [(999, "999 B"), (1000, "1.0 kB"), (3_940_000, "3.9 MB"), (2e9, "2.00 GB")])
def test_format(size: float, text: str):
    assert format_size(size) == text


def test_one_is_no_plural():
    assert [count_of(number, "member") for number in (0, 1, 2, 1_200)] == [
        "0 members",
        "1 member",
        "2 members",
        "1,200 members",
    ]


@pytest.mark.parametrize(
    ("before", "after", "gain"),
    [(0.84170, 0.84175, "+0.0000"), (0.84174, 0.84176, "+0.0001"), (0.5, 0.49996, "+0.0000"), (0.5, 0.25, "-0.2500")],
)
def test_a_gain_is_the_difference_of_what_is_shown(before: float, after: float, gain: str):
    assert format_gain(before, after) == gain
