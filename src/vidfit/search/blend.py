"""Predictions of members for held-out videos, and the GAP that a weighted average of some of them reaches.

The search asks for thousands of GAPs. A few hundred videos are too few for that: the highest of thousands is the
luckiest. So the search uses a steadier estimate, in two parts.

1. The blend of the float members. Its GAP is measured, with weights fitted to squared error. There are few such blends.
2. The loss by fewer bits. It is estimated as `c * nats^p` from the divergence between blend and float blend, with c and
   p fitted to all candidates. So fewer bits never look better by chance.

Each video keeps only the classes that any member finds likely. A blend is then a small matrix, and its GAP a sort.
Weights come from inner products that are computed once.

Shapes: R members, N candidates, V videos, C classes, U kept classes of a video, M members of a blend.
"""

from collections.abc import Sequence

import numpy as np

KEPT_CLASSES = 64
TOP_K = 20
# Fraction of the mean inner product. It makes the weights of equal members equal; they would be arbitrary otherwise.
_RIDGE = 1e-4
_SMALLEST = 1e-6
# Least GAP per nat: more bits count for something even if no loss can be measured.
_LEAST_COST = 1e-4
_POWERS = np.linspace(0.5, 1, 11)


class HeldOut:
    """Predictions for V labelled videos that no member was trained on.

    Arguments:
        members: predictions of each float member, float `[V, C]`, memory-mapped or not.
        candidates: predictions of each candidate, in the same form.
        member_of: index of each candidate's member.
        labels: bool `[V, C]`, true if the video has the label.
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
        """c and p of the loss `c * nats^p`."""

    def expected(self, candidates: Sequence[int], weights: Sequence[float] = ()) -> tuple[np.ndarray, float]:
        """Weights and expected GAP of a blend of candidates of different members.

        Arguments:
            candidates: their indices.
            weights: their weights, with sum 1. Fitted if empty.

        Returns:
            Weights, float64 `[M]`, at least 0 and with sum 1. Then the GAP of the float members with these weights,
            minus the expected loss by the candidates' divergence from them.
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
        """Measured GAP@20 of the weighted average of these candidates."""
        return self._gap(_blend(self._candidates_NVU, candidates, weights))

    def _gap(self, blend_VU: np.ndarray) -> float:
        return global_average_precision(blend_VU, self._hits_VU, self._positives)

    def _weights(self, members: Sequence[int]) -> np.ndarray:
        """Weights with the least squared error.

        Source: stacked regressions, Breiman 1996, with non-negative weights that sum to 1.
        """
        chosen = np.array(members)
        products_MM = self._products_RR[np.ix_(chosen, chosen)]
        ridge = _RIDGE * products_MM.trace() / len(chosen) + _SMALLEST
        return least_squares_on_simplex(
            products_MM + ridge * np.eye(len(chosen)), self._products_R[chosen] + ridge / len(chosen)
        )

    def _divergence(self, candidates: Sequence[int], weights: np.ndarray) -> float:
        """Divergence of the candidates' blend from the float members' blend: nats per video, over the kept classes."""
        members = self._member_of[np.array(candidates)]
        p = _blend(self._members_RVU, members, weights).clip(_SMALLEST, 1 - _SMALLEST)
        q = _blend(self._candidates_NVU, candidates, weights).clip(_SMALLEST, 1 - _SMALLEST)
        return max(0.0, float((p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum() / len(p)))

    def _fitted_cost(self) -> tuple[float, float]:
        """c and p, by least squares over all single candidates."""
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
    """GAP@20: average precision of one list with every video's best classes.

    Arguments:
        scores_VU: float.
        hits_VU: bool, true if the class is a label of the video.
        positives: number of labels of all videos, including those outside the U classes.
        top_k: classes taken from each video.

    Source: YouTube-8M (Abu-El-Haija et al. 2016), section 5.
    """
    top_k = min(top_k, scores_VU.shape[1])
    best = np.argpartition(-scores_VU, top_k - 1, axis=1)[:, :top_k]
    scores, hits = (np.take_along_axis(of, best, axis=1).ravel() for of in (scores_VU, hits_VU))
    places = np.flatnonzero(hits[np.argsort(-scores, kind="stable")])
    return float(((np.arange(len(places)) + 1) / (places + 1)).sum() / max(positives, 1))


def least_squares_on_simplex(products_MM: np.ndarray, products_M: np.ndarray) -> np.ndarray:
    """`argmin_w w'Aw - 2b'w` with `w >= 0` and `sum(w) = 1`, float64 `[M]`; A is positive definite.

    An active-set method. Weights that would be negative are set to 0. They are freed again if that lowers the error
    (the Karush-Kuhn-Tucker conditions).
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
