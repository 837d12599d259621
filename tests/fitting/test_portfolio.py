"""The members that are tried: valid for data of every size, and within the budget."""

from itertools import islice

import pytest

from vidfit.features.spec import FeatureSpec, Modality
from vidfit.fitting.portfolio import Traits, portfolio
from vidfit.preflight import count_parameters
from vidfit.recipe import MemberConfig

TRAITS = {
    "few": Traits(videos=50, classes=2, size=16, frames=3, budget=10_000),
    "one frame": Traits(videos=60, classes=2, size=16, frames=1, budget=20_000),
    "clips": Traits(videos=500, classes=20, size=1408, frames=60, budget=2_000_000),
    "many labels": Traits(videos=12_000, classes=3862, size=1152, frames=1, budget=40_000_000),
    "huge": Traits(videos=3_000_000, classes=3862, size=1152, frames=300, budget=10**9),
}


@pytest.mark.parametrize("traits", TRAITS.values(), ids=list(TRAITS))
def test_members_are_valid_and_have_names_of_their_own(traits: Traits):
    members = list(islice(portfolio(traits), 40))
    assert len({name for name, _ in members}) == 40
    assert members[0][0] == "mean"
    dtype = "float32" if traits.frames == 1 else "uint8"
    spec = FeatureSpec(modalities=(Modality(name="rgb", size=traits.size, dtype=dtype),))
    for name, settings in members:
        member = MemberConfig.model_validate(settings)
        assert (member.training.steps or 0) >= 60
        # A few families take more than their share; `fit` passes over these.
        assert count_parameters(name, member, spec, traits.classes) <= 1.5 * traits.budget


@pytest.mark.parametrize("name", ["clips", "huge"])
def test_where_there_is_room_none_takes_more_than_half(name: str):
    traits = TRAITS[name]
    spec = FeatureSpec(modalities=(Modality(name="rgb", size=traits.size),))
    for member, settings in islice(portfolio(traits), 40):
        weights = count_parameters(member, MemberConfig.model_validate(settings), spec, traits.classes)
        assert weights <= traits.budget / 2


def test_more_videos_are_seen_less_often_by_larger_members():
    few, many = TRAITS["clips"], TRAITS["huge"]
    assert few.passes > many.passes
    assert few.hidden < many.hidden
    assert few.batch_size < many.batch_size


def test_a_small_budget_has_small_members():
    sizes = [Traits(5000, 20, 1152, 60, budget).hidden for budget in (50_000, 500_000, 5_000_000)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
