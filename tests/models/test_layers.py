"""Options by modality, and the errors of wrong ones."""

import pytest
from pydantic import ValidationError

from tests.models.test_formulas import SPEC
from vidfit.errors import RecipeError
from vidfit.models.classifier import ClassifierConfig, VideoClassifier
from vidfit.models.pooled import per_modality


def test_an_option_is_for_all_modalities_or_by_name() -> None:
    assert per_modality(5, SPEC, "clusters") == [5, 5, 5]
    assert per_modality({"c": 1, "a": 2, "b": 3}, SPEC, "clusters") == [2, 3, 1]


@pytest.mark.parametrize("field", ["clusters", "pooling"])
def test_unknown_modality_names_the_field_and_the_modalities(field: str) -> None:
    value = {"clusters": {"a": 4, "b": 4, "rgb": 4}, "pooling": {"a": "soft", "b": "soft"}}[field]
    family = {"type": "dbof", "hidden": 4, "clusters": 4, field: value}
    config = ClassifierConfig.model_validate({"family": family, "head": {"type": "logistic"}})
    with pytest.raises(RecipeError, match=rf"^{field}: .*\['a', 'b', 'c'\]"):
        VideoClassifier(config, SPEC, 2)


@pytest.mark.parametrize(
    ("family", "field"),
    [
        ({"type": "netvlad", "hidden": 4, "clusters": 4, "cluster": 3}, "cluster"),
        ({"type": "netvlad", "hidden": 0, "clusters": 4}, "hidden"),
        ({"type": "netfv", "hidden": 4, "clusters": {"a": 0}}, "clusters"),
        ({"type": "dbof", "hidden": 4, "clusters": 4, "pooling": "hard"}, "pooling"),
        ({"type": "lstm", "cells": 5}, "cells"),
        ({"type": "transformer"}, "family"),
    ],
)
def test_wrong_options_are_errors_that_name_the_field(family: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError) as error:
        ClassifierConfig.model_validate({"family": family, "head": {"type": "logistic"}})
    assert field in str(error.value.errors()[0]["loc"])
