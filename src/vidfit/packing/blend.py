"""Held-out predictions of many models, and what a weighted average of some of them reaches.

A search asks this thousands of times, so of each video only the classes that can come among its best are kept: those
that any of the models finds likeliest. A blend is then a small matrix, its GAP a sort, and the best weights for squared
error follow from inner products that are taken once for all pairs of models.

Shapes: N models, V videos, C classes, U kept classes of a video, M models of a blend.
"""

from collections.abc import Sequence

import numpy as np

KEPT_CLASSES = 64
TOP_K = 20
# Of the inner products' mean: enough for models that say the same, whose weights would be anything otherwise.
_RIDGE = 1e-4


class HeldOut:
    """Predictions of N models for V labelled videos that none of them was trained on.

    Arguments:
        predictions: of each model, float `[V, C]`; may be memory-mapped.
        labels: bool `[V, C]`, where a video has the label.
    """

    def __init__(self, predictions: Sequence[np.ndarray], labels: np.ndarray) -> None:
        videos, classes = labels.shape
        likeliest = np.zeros((videos, classes), np.float32)
        for prediction in predictions:
            np.maximum(likeliest, prediction, out=likeliest)
        kept = min(KEPT_CLASSES, classes)
        columns_VU = np.argpartition(-likeliest, kept - 1, axis=1)[:, :kept]
        self._hits_VU = np.take_along_axis(labels, columns_VU, axis=1)
        self._positives = int(labels.sum())
        self._scores_NVU = np.stack(
            [np.take_along_axis(prediction, columns_VU, axis=1).astype(np.float32) for prediction in predictions]
        )
        flat = self._scores_NVU.reshape(len(predictions), -1)
        self._products_NN = (flat @ flat.T).astype(np.float64)
        self._products_N = (flat @ self._hits_VU.ravel().astype(np.float32)).astype(np.float64)

    def gap(self, models: Sequence[int], weights: Sequence[float] | np.ndarray) -> float:
        """GAP@20 of the weighted average of these models."""
        blend_VU = np.zeros_like(self._scores_NVU[0])
        for model, weight in zip(models, weights, strict=True):
            blend_VU += np.float32(weight) * self._scores_NVU[model]
        return global_average_precision(blend_VU, self._hits_VU, self._positives)

    def weights(self, models: Sequence[int]) -> np.ndarray:
        """Weights `[M]` float64, none below 0 and their sum 1, for which the blend's squared error is least.

        Source: stacked regressions, Breiman 1996, with non-negative weights that sum to 1.
        """
        chosen = np.array(models)
        products_MM = self._products_NN[np.ix_(chosen, chosen)]
        ridge = _RIDGE * products_MM.trace() / len(chosen)
        return least_squares_on_simplex(
            products_MM + ridge * np.eye(len(chosen)), self._products_N[chosen] + ridge / len(chosen)
        )


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
