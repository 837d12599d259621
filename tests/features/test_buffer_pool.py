"""Memory that is lent: used again once the last view is gone, and not before."""

import numpy as np
import pytest
import torch

from vidfit.features.buffer_pool import Memory

LIKE = np.zeros((1, 5), np.uint8)


def free_again(memory: Memory, rows: int = 4) -> bool:
    """Whether the next array is what the last one of sevens was; others have taken what the system has got back."""
    taken = [np.zeros((4, 5), np.uint8) for _ in range(100)]
    array = memory.array("rgb", rows, 4, LIKE)
    del taken
    return bool((array[:4] == 7).all())


def test_it_is_used_again():
    memory = Memory()
    memory.array("rgb", 1, 4, LIKE)[:] = 7
    assert free_again(memory)


@pytest.mark.parametrize(
    "keep",
    [
        lambda array: array,
        lambda array: array[1:3].T,
        lambda array: memoryview(array[:1]),
        lambda array: torch.from_numpy(array[2:]).view(-1)[1:],
        lambda array: torch.from_numpy(array).untyped_storage(),
    ],
)
def test_not_while_anything_holds_some_of_it(keep):
    memory = Memory()
    array = memory.array("rgb", 1, 4, LIKE)
    array[:] = 7
    kept = keep(array)
    del array
    assert not free_again(memory)
    del kept
    assert free_again(memory)


def test_what_is_too_small_or_of_another_name_is_not_used():
    memory = Memory()
    memory.array("rgb", 1, 4, LIKE)[:] = 7
    assert memory.array("audio", 1, 4, np.zeros((1, 2), np.float32)).dtype == np.float32
    assert memory.array("rgb", 5, 9, LIKE).shape == (9, 5)
    assert not free_again(memory)


def test_no_more_than_two_are_kept():
    memory = Memory()
    lent = [memory.array("rgb", 1, 4, LIKE) for _ in range(5)]
    for number in range(5):
        lent[number][:] = 7
    lent.clear()
    held = [memory.array("rgb", 1, 4, LIKE) for _ in range(2)]
    assert all((array == 7).all() for array in held)
    assert not free_again(memory)
