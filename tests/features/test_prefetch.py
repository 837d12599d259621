"""Reading ahead: the same items, never far ahead, errors in their place."""

import threading
from collections.abc import Iterator

import pytest

from vidfit.features.prefetch import read_ahead


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_the_same_items_in_the_same_order(count: int):
    assert list(read_ahead(range(count))) == list(range(count))


def test_several_sources_take_turns_until_each_ends():
    assert list(read_ahead("abcde", "12", "", "xyz")) == list("a1xb2yczde")


def test_the_next_item_is_drawn_while_one_is_in_use():
    drawn = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        drawn.set()
        yield 1

    for item in read_ahead(items()):
        if item == 0:
            assert drawn.wait(60)


def test_no_more_than_two_are_ahead():
    alive = most = 0

    class Item:
        def __init__(self) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    for _ in read_ahead(Item() for _ in range(100)):
        pass
    # The one in use, two ahead and one that is being made.
    assert most <= 4


def test_an_error_comes_in_its_place():
    def items() -> Iterator[int]:
        yield 0
        raise ValueError("record 1")

    found = read_ahead(items())
    assert next(found) == 0
    with pytest.raises(ValueError, match="record 1"):
        next(found)


def test_who_stops_early_leaves_no_thread():
    threads = threading.active_count()
    found = read_ahead(range(100))
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert threading.active_count() == threads
