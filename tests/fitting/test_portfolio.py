"""The members that are tried: valid for data of every size, and within the budget."""

import math

import pytest

from vidfit.features.spec import FeatureSpec, Modality
from vidfit.fitting.portfolio import Traits, is_solved, portfolio, variations
from vidfit.fitting.task import MemberSettings
from vidfit.preflight import count_parameters
from vidfit.recipe import MemberConfig

TRAITS = {
    "few": Traits(videos=50, classes=2, size=16, frames=3),
    "one frame": Traits(videos=60, classes=2, size=16, frames=1),
    "clips": Traits(videos=500, classes=20, size=1408, frames=60),
    "intervals": Traits(videos=500, classes=20, size=1408, frames=60, intervals="segments.csv"),
    "long": Traits(videos=500, classes=20, size=1408, frames=300),
    "medium": Traits(videos=20_000, classes=527, size=128, frames=10),
    "many labels": Traits(videos=12_000, classes=3862, size=1152, frames=1),
    "huge": Traits(videos=3_000_000, classes=3862, size=1152, frames=300),
}


def members(traits: Traits, most: float = math.inf) -> dict[str, MemberSettings]:
    """The portfolio, each member of at most so many weights if hidden layers of 16 allow it."""
    return dict(portfolio(traits, lambda settings: weights(traits, settings) <= most))


def weights(traits: Traits, settings: MemberSettings) -> int:
    dtype = "float32" if traits.frames == 1 else "uint8"
    spec = FeatureSpec(modalities=(Modality(name="rgb", size=traits.size, dtype=dtype),))
    return count_parameters("member", MemberConfig.model_validate(settings), spec, traits.classes)


@pytest.mark.parametrize("traits", TRAITS.values(), ids=list(TRAITS))
@pytest.mark.parametrize("most", [0, math.inf])
def test_members_are_valid_and_have_names_of_their_own(traits: Traits, most: float):
    found = list(members(traits, most).items())
    assert found[0][1]["family"]["type"] == "mean"
    for number, (name, settings) in enumerate(found[:], start=2):
        if not is_solved(settings):
            found += variations(name, settings, number).items()
    assert len({name for name, _ in found}) == len(found)
    for _, settings in found:
        assert (MemberConfig.model_validate(settings).training.steps or 0) >= 60
        assert weights(traits, settings) > 0


@pytest.mark.parametrize(("name", "most"), [("clips", 10**5), ("huge", 10**7)])
def test_a_member_that_is_too_large_becomes_narrower(name: str, most: int):
    wide, narrow = members(TRAITS[name]), members(TRAITS[name], most)
    for member, settings in narrow.items():
        fits = weights(TRAITS[name], wide[member]) <= most
        assert (settings == wide[member]) == fits
        assert weights(TRAITS[name], settings) <= most
    assert not all(settings == wide[member] for member, settings in narrow.items())


def test_more_videos_are_seen_less_often_by_larger_members():
    few, many = TRAITS["clips"], TRAITS["huge"]
    assert few.passes > many.passes
    assert few.hidden < many.hidden
    assert few.batch_size < many.batch_size


@pytest.mark.parametrize(
    ("number", "what", "of"),
    [
        (2, "dropout", lambda member: member["family"]["dropout"]),
        (3, "width", lambda member: member["encoder"]["hidden"]),
        (4, "rate", lambda member: member["training"]["learning_rate"]),
    ],
)
def test_a_round_varies_one_setting_both_ways(number: int, what: str, of):
    member = members(TRAITS["clips"])["frames-attention"]
    rivals = variations("frames-attention-7-half-rate", member, number)
    own = f"frames-attention-{number}"
    assert list(rivals) == [own, f"{own}-half-{what}", f"{own}-double-{what}"]
    plain, less, more = map(of, rivals.values())
    assert rivals[own] == member
    assert less < plain < more


def test_a_linear_model_has_no_width_to_vary():
    assert list(variations("mean", members(TRAITS["huge"])["mean"], 3)) == ["mean-3"]


@pytest.mark.parametrize(("name", "penalties"), [("few", 5), ("clips", 5), ("medium", 2)])
def test_linear_models_come_first_with_several_penalties(name: str, penalties: int):
    found = members(TRAITS[name])
    linear = [member for member, settings in found.items() if is_solved(settings)]
    assert list(found)[: len(linear)] == linear
    means = [found[member] for member in linear if not found[member]["family"]["max"]]
    assert len({settings["head"]["l2"] for settings in means}) == len(means) == penalties


def test_more_videos_than_memory_holds_are_not_solved():
    assert not any(map(is_solved, members(TRAITS["huge"]).values()))


def test_with_many_labels_families_that_pool_first_come_first():
    def order(name: str) -> list[str]:
        return [member for member, it in members(TRAITS[name]).items() if it["family"]["type"] != "mean"]

    assert order("huge")[:3] == ["dbof", "netvlad", "frames-attention"]
    assert order("clips")[:3] == ["frames-attention", "frames-noisy-or", "dbof"]
    assert order("long")[:3] == ["frames-attention", "dbof", "frames-log-sum-exp"]


def test_with_intervals_members_that_learn_seconds_come_first():
    found = members(TRAITS["intervals"])
    pooling = [name for name, it in found.items() if it["family"]["type"] != "mean"]
    assert pooling[:3] == ["seconds-log-sum-exp", "seconds-max", "seconds-attention"]
    assert "segments" in found["seconds-max"]["training"]
    assert not any(name.startswith("seconds") for name in members(TRAITS["clips"]))


@pytest.mark.parametrize(
    ("frames", "classes", "batch"), [(60, 20, 64), (300, 500, 64), (1000, 20, 20), (3600, 20, None)]
)
def test_members_that_learn_seconds_hold_few_frames_in_memory(frames: int, classes: int, batch: int | None):
    traits = Traits(videos=500, classes=classes, size=1408, frames=frames, intervals="segments.csv")
    found = members(traits)
    assert ("seconds-max" in found) == (batch is not None)
    if batch:
        training = found["seconds-max"]["training"]
        assert training["batch_size"] == batch
        # Each video is seen as often as with larger batches.
        assert training["steps"] * batch == pytest.approx(traits.steps / 2 * traits.batch_size, rel=0.02)
