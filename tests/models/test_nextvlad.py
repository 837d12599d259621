"""NeXtVLAD's size against the published models; its formula is held to float64 in test_formulas.py."""

import pytest
import torch

from vidfit.errors import RecipeError
from vidfit.features.spec import FeatureSpec, Modality
from vidfit.models.classifier import ClassifierConfig, VideoClassifier

YOUTUBE_8M = FeatureSpec(modalities=(Modality(name="rgb", size=1024), Modality(name="audio", size=128)))


def build(**options: object) -> VideoClassifier:
    family = {"type": "nextvlad", "groups": {"rgb": 8, "audio": 4}, "hidden": 2048, **options}
    config = ClassifierConfig.model_validate({"family": family, "head": {"type": "logistic"}})
    with torch.device("meta"):
        return VideoClassifier(config, YOUTUBE_8M, 3862)


@pytest.mark.parametrize(
    ("clusters", "reduction", "published"),
    [({"rgb": 128, "audio": 64}, 8, 88_889_378), ({"rgb": 112, "audio": 56}, 16, 78_643_170)],
)
def test_it_has_the_published_number_of_weights(clusters: dict[str, int], reduction: int, published: int) -> None:
    model = build(clusters=clusters, reduction=reduction)
    assert sum(parameter.numel() for parameter in model.parameters()) == published


def test_groups_divide_each_modality() -> None:
    with pytest.raises(RecipeError, match=r"^groups: 2 \* 1024 values of rgb cannot be divided among 3 groups"):
        build(clusters=4, groups=3)


def test_a_gate_needs_units() -> None:
    with pytest.raises(RecipeError, match="reduction: 4096 leaves nothing of 2048"):
        build(clusters=4, reduction=4096)
