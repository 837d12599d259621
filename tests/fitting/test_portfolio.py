"""The members that are tried: valid for data of every size, and within the budget."""

import pytest

from vidfit.features.spec import FeatureSpec, Modality
from vidfit.fitting.portfolio import Traits, portfolio, variations
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
    members = list(portfolio(traits))
    for number, (name, settings) in enumerate(members[:], start=2):
        members += variations(name, settings, number).items()
    assert len({name for name, _ in members}) == len(members)
    assert members[0][0] == "mean"
    dtype = "float32" if traits.frames == 1 else "uint8"
    spec = FeatureSpec(modalities=(Modality(name="rgb", size=traits.size, dtype=dtype),))
    for name, settings in members:
        member = MemberConfig.model_validate(settings)
        assert (member.training.steps or 0) >= 60
        count_parameters(name, member, spec, traits.classes)
    # A few families take more than their share; `fit` passes over these.
    for name, settings in portfolio(traits):
        weights = count_parameters(name, MemberConfig.model_validate(settings), spec, traits.classes)
        assert weights <= 1.5 * traits.budget


@pytest.mark.parametrize("name", ["clips", "huge"])
def test_where_there_is_room_none_takes_more_than_half(name: str):
    traits = TRAITS[name]
    spec = FeatureSpec(modalities=(Modality(name="rgb", size=traits.size),))
    for member, settings in portfolio(traits):
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


@pytest.mark.parametrize(
    ("number", "what", "of"),
    [
        (2, "dropout", lambda member: member["family"]["dropout"]),
        (3, "width", lambda member: member["encoder"]["hidden"]),
        (4, "rate", lambda member: member["training"]["learning_rate"]),
    ],
)
def test_a_round_varies_one_setting_both_ways(number: int, what: str, of):
    member = dict(portfolio(TRAITS["clips"]))["frames-attention"]
    rivals = variations("frames-attention-7-half-rate", member, number)
    own = f"frames-attention-{number}"
    assert list(rivals) == [own, f"{own}-half-{what}", f"{own}-double-{what}"]
    plain, less, more = map(of, rivals.values())
    assert rivals[own] == member
    assert less < plain < more


def test_a_linear_model_has_no_width_to_vary():
    assert list(variations("mean", dict(portfolio(TRAITS["clips"]))["mean"], 3)) == ["mean-3"]


def test_the_linear_baselines_come_first():
    assert [name for name, _ in portfolio(TRAITS["clips"])][:2] == ["mean", "mean-and-max"]


def test_with_many_labels_families_that_pool_first_come_first():
    assert [name for name, _ in portfolio(TRAITS["huge"])][2:5] == ["dbof", "netvlad", "frames-attention"]
    assert [name for name, _ in portfolio(TRAITS["clips"])][2:4] == ["frames-attention", "dbof"]
