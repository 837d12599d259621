"""Held-out predictions of members, float and at narrower widths, and what a weighted average of some of them reaches.

A search asks this thousands of times, and a few hundred videos cannot tell two good answers apart: whoever takes the
highest GAP among thousands takes the luckiest. So the search goes by something steadier, in two parts. What the float
members' blend reaches is measured, as GAP, with weights fitted to squared error: there are few sets of members. What
their widths cost is expected from the blend's divergence from the float one, at the GAP that divergence costs the
candidates on average: `c nats^p`, with c and p fitted to them all. That way fewer bits never look better by chance.

Of each video only the classes that can come among its best are kept: those that any member finds likeliest. A blend is
then a small matrix, its GAP a sort, and weights follow from inner products that are taken once.

Shapes: R members, N candidates, V videos, C classes, U kept classes of a video, M members of a blend.
"""

from collections.abc import Sequence

import numpy as np

KEPT_CLASSES = 64
TOP_K = 20
# Of the inner products' mean: enough for members that say the same, whose weights would be anything otherwise.
_RIDGE = 1e-4
_SMALLEST = 1e-6
# GAP a nat at least: where no loss can be measured, bits still count for something.
_LEAST_COST = 1e-4
_POWERS = np.linspace(0.5, 1, 11)


class HeldOut:
    """Predictions for V labelled videos that no member was trained on.

    Arguments:
        members: of each float member, `[V, C]`; like all predictions here, float and maybe memory-mapped.
        candidates: of each member at some narrower widths, `[V, C]`.
        member_of: of each candidate, its member's place.
        labels: bool `[V, C]`, where a video has the label.
    """

    def __init__(
        self,
        members: Sequence[np.ndarray],
        candidates: Sequence[np.ndarray],
        member_of: Sequence[int],
        labels: np.ndarray,
    ) -> None:
        likeliest = np.zeros(labels.shape, np.float32)
        for prediction in members:
            np.maximum(likeliest, prediction, out=likeliest)
        kept = min(KEPT_CLASSES, labels.shape[1])
        columns_VU = np.argpartition(-likeliest, kept - 1, axis=1)[:, :kept]

        def cut(predictions: Sequence[np.ndarray]) -> np.ndarray:
            return np.stack([np.take_along_axis(own, columns_VU, axis=1).astype(np.float32) for own in predictions])

        self._members_RVU, self._candidates_NVU = cut(members), cut(candidates)
        self._member_of = np.array(member_of)
        self._hits_VU = np.take_along_axis(labels, columns_VU, axis=1)
        self._positives = int(labels.sum())
        flat = self._members_RVU.reshape(len(members), -1)
        self._products_RR = (flat @ flat.T).astype(np.float64)
        self._products_R = (flat @ self._hits_VU.ravel().astype(np.float32)).astype(np.float64)
        self._blends: dict[tuple[tuple[int, ...], tuple[float, ...]], tuple[np.ndarray, float]] = {}
        self.cost = self._fitted_cost()
        """c and p."""

    def expected(self, candidates: Sequence[int], weights: Sequence[float] = ()) -> tuple[np.ndarray, float]:
        """Weights and expected GAP of a blend of these candidates, of a different member each.

        Arguments:
            candidates: their places.
            weights: of each, their sum 1; fitted where absent.

        Returns:
            Weights float64 `[M]`, none below 0 and their sum 1; and the float members' GAP with them, less what the
            divergence of the candidates' blend from theirs is expected to cost.
        """
        chosen = np.array(candidates)
        members = tuple(self._member_of[chosen].tolist())
        key = members, tuple(weights)
        if key not in self._blends:
            own = np.array(weights) if weights else self._weights(members)
            self._blends[key] = own, self._gap(_blend(self._members_RVU, members, own))
        own, gap = self._blends[key]
        cost, power = self.cost
        return own, gap - cost * self._divergence(candidates, own) ** power

    def gap(self, candidates: Sequence[int], weights: Sequence[float] | np.ndarray) -> float:
        """GAP@20 of the weighted average of these candidates, as it is measured."""
        return self._gap(_blend(self._candidates_NVU, candidates, weights))

    def _gap(self, blend_VU: np.ndarray) -> float:
        return global_average_precision(blend_VU, self._hits_VU, self._positives)

    def _weights(self, members: Sequence[int]) -> np.ndarray:
        """Of the least squared error.

        Source: stacked regressions, Breiman 1996, with non-negative weights that sum to 1.
        """
        chosen = np.array(members)
        products_MM = self._products_RR[np.ix_(chosen, chosen)]
        ridge = _RIDGE * products_MM.trace() / len(chosen) + _SMALLEST
        return least_squares_on_simplex(
            products_MM + ridge * np.eye(len(chosen)), self._products_R[chosen] + ridge / len(chosen)
        )

    def _divergence(self, candidates: Sequence[int], weights: np.ndarray) -> float:
        """Of the candidates' blend from that of their members, nats a video, over the kept classes."""
        members = self._member_of[np.array(candidates)]
        p = _blend(self._members_RVU, members, weights).clip(_SMALLEST, 1 - _SMALLEST)
        q = _blend(self._candidates_NVU, candidates, weights).clip(_SMALLEST, 1 - _SMALLEST)
        return max(0.0, float((p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum() / len(p)))

    def _fitted_cost(self) -> tuple[float, float]:
        """By least squares over all candidates alone."""
        one = np.ones(1)
        away = np.array([self._divergence([place], one) for place in range(len(self._candidates_NVU))])
        of_member = [self._gap(scores_VU) for scores_VU in self._members_RVU]
        lost = np.array([of_member[member] - self.gap([place], one) for place, member in enumerate(self._member_of)])
        fits = []
        for power in _POWERS.tolist():
            raised = away**power
            cost = max(_LEAST_COST, float(raised @ lost) / max(float(raised @ raised), _SMALLEST))
            fits.append((float(np.square(lost - cost * raised).sum()), cost, power))
        _, cost, power = min(fits)
        return cost, power


def _blend(scores: np.ndarray, places: Sequence[int] | np.ndarray, weights: Sequence[float] | np.ndarray) -> np.ndarray:
    blend_VU = np.zeros_like(scores[0])
    for place, weight in zip(places, weights, strict=True):
        blend_VU += np.float32(weight) * scores[place]
    return blend_VU


def global_average_precision(scores_VU: np.ndarray, hits_VU: np.ndarray, positives: int, top_k: int = TOP_K) -> float:
    """GAP@20: average precision of all videos' best classes in one list.

    Arguments:
        scores_VU: float.
        hits_VU: bool, where the class is a label of the video.
        positives: labels of all videos, those that are not among the U classes included.
        top_k: classes taken of each video.

    Source: YouTube-8M (Abu-El-Haija et al. 2016), section 5.
    """
    top_k = min(top_k, scores_VU.shape[1])
    best = np.argpartition(-scores_VU, top_k - 1, axis=1)[:, :top_k]
    scores, hits = (np.take_along_axis(of, best, axis=1).ravel() for of in (scores_VU, hits_VU))
    places = np.flatnonzero(hits[np.argsort(-scores, kind="stable")])
    return float(((np.arange(len(places)) + 1) / (places + 1)).sum() / max(positives, 1))


def least_squares_on_simplex(products_MM: np.ndarray, products_M: np.ndarray) -> np.ndarray:
    """`argmin_w w'Aw - 2b'w` with `w >= 0` and `sum(w) = 1`, float64 `[M]`; A is positive definite.

    An active-set method: weights that would be negative are set to 0 and come back where the error would fall by it
    (the conditions of Karush, Kuhn and Tucker).
    """
    size = len(products_M)
    free = np.ones(size, bool)
    weights = np.full(size, 1 / size)
    for _ in range(4 * size):
        used = np.flatnonzero(free)
        system = np.ones((len(used) + 1, len(used) + 1))
        system[:-1, :-1], system[-1, -1] = products_MM[np.ix_(used, used)], 0
        solution = np.linalg.solve(system, np.append(products_M[used], 1.0))
        if solution[:-1].min() < 0:
            free[used[solution[:-1].argmin()]] = False
            continue
        weights = np.zeros(size)
        weights[used] = solution[:-1]
        slope = products_MM @ weights - products_M + solution[-1]
        worst = int(np.where(free, np.inf, slope).argmin())
        if free.all() or slope[worst] >= -1e-9 * np.abs(products_M).max():
            break
        free[worst] = True
    return weights
