"""Which members go into the file, with which weights, by what they say of videos that they have not seen."""

from collections.abc import Mapping

import numpy as np

from vidfit.search.blend import HeldOut

# A member that gives less is left out: so small a gain is chance, and its bytes are not.
_LEAST_GAIN = 5e-4


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
