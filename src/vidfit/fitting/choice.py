"""Which members go into the file, with which weights, by what they say of videos that they have not seen."""

from collections.abc import Mapping

import numpy as np

from vidfit.search.blend import HeldOut

# A member that gives less is left out: so small a gain is chance, and its bytes are not.
_LEAST_GAIN = 5e-4
# As part of the log loss.
_LEAST_LOSS = 0.01


def choose(
    predictions: Mapping[str, np.ndarray], labels_VC: np.ndarray, bytes_of: Mapping[str, int], budget: int
) -> tuple[dict[str, float], float]:
    """Members and weights, chosen one by one: each time the member with which the average gains most.

    Arguments:
        predictions: of each member, float `[V, C]`.
        labels_VC: bool.
        bytes_of: what each takes in the file.
        budget: bytes of all together.

    Returns:
        Name -> weight, sum 1, and GAP of the average. No members if none fits.

    Source: forward selection of ensembles, Caruana et al. 2004; weights as in `search/blend.py`.
    """
    names = list(predictions)
    every = [predictions[name] for name in names]
    held_out = HeldOut(every, every, range(len(names)), labels_VC)
    chosen: list[int] = []
    weights, best = np.ones(0), 0.0
    while True:
        room = budget - sum(bytes_of[names[place]] for place in chosen)
        tried = [
            (held_out.expected([*chosen, place])[1], place)
            for place, name in enumerate(names)
            if place not in chosen and bytes_of[name] <= room
        ]
        gap, place = max(tried, default=(-1.0, -1))
        if place < 0 or (chosen and gap < best + _LEAST_GAIN):
            break
        chosen, best = [*chosen, place], gap
        weights = held_out.expected(chosen)[0]
    kept = {names[place]: float(weight) for place, weight in zip(chosen, weights, strict=True) if weight > 0}
    return kept, best


def scale_odds(probabilities: np.ndarray, factor: float) -> np.ndarray:
    """`f p / (1 + (f - 1) p)`: the odds `p / (1 - p)` times f. It rises with p, so no ranking changes."""
    return factor * probabilities / (1 + (factor - 1) * probabilities)


def odds_factor(probabilities_VC: np.ndarray, labels_VC: np.ndarray) -> float:
    """The factor of all odds with which a blend's log loss is least; 1 where that gains next to nothing.

    An average of members that disagree is less sure than each, so its probabilities are too low where videos are few.
    A factor of the odds is a bias on the logits.

    Arguments:
        probabilities_VC: of videos not seen, float.
        labels_VC: bool.

    Source: Platt scaling without a slope; Platt 1999, "Probabilistic outputs for support vector machines".
    """
    factors = np.exp(np.linspace(-2, 2, 81))
    halves = [slice(0, None, 2), slice(1, None, 2)]
    losses = np.array(
        [[_log_loss(scale_odds(probabilities_VC[half], f), labels_VC[half]) for f in factors] for half in halves]
    )
    # Each half is measured with the factor that the other chose: the gain must hold on videos that did not choose it.
    unscaled = len(factors) // 2
    gains = losses[:, unscaled] - losses[[0, 1], losses.argmin(axis=1)[::-1]]
    if gains.min() <= 0 or gains.sum() <= _LEAST_LOSS * losses[:, unscaled].sum():
        return 1.0
    return round(float(factors[losses.sum(axis=0).argmin()]), 4)


def _log_loss(probabilities_VC: np.ndarray, labels_VC: np.ndarray) -> float:
    p = probabilities_VC.clip(1e-6, 1 - 1e-6)
    return float(-np.where(labels_VC, np.log(p), np.log1p(-p)).sum(axis=1).mean())
