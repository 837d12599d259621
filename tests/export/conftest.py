"""What tests of several modules here share."""

from collections.abc import Iterator

import numpy as np
import pytest

from tests.export.web_node import Node, node_process


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """One Node process for the tests of a module."""
    with node_process() as ask:
        yield ask


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(5)
