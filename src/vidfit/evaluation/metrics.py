"""GAP@20, mAP, Hit@1 and PERR of a stream of batches, exact. Accuracy too, if each video has one label.

Each video keeps only its 20 best classes, as (class, score, hit). All labels count in the denominators, kept or not.
Scores are rounded to float32; sums are in float64. Memory is 7 bytes per kept class: the 1.1 M evaluation videos of
YouTube-8M take 0.2 GB, and 0.8 GB while they are sorted.

Among equal scores the earlier video comes first, and within a video the lower class.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vidfit.errors import VidfitError

DIVERGED: Final = "predictions hold NaN: the model's training diverged; train it with a lower learning rate"
# For top-5 accuracy.
_TOP: Final = 5


class Metrics:
    """Metrics of a stream of batches.

    Arguments:
        classes: size of the vocabulary, C.
        top_k: classes kept of each video; 20 in YouTube-8M's definition of GAP and mAP.
    """

    def __init__(self, classes: int, top_k: int = 20) -> None:
        self.classes = classes
        self.top_k = min(top_k, classes)
        self.videos = 0
        self.positives = np.zeros(classes, np.int64)
        """Videos that have each label, `[C]`."""
        self._hits_at_1 = 0
        self._hits_at_5 = 0
        self._one_label_each = True
        self._summed_perr = 0.0
        # Two bytes per class as a rule: NumPy sorts them in linear time.
        self._entry = np.dtype([("class", np.min_scalar_type(classes)), ("score", np.float32), ("hit", bool)])
        self._entries = [np.empty(0, self._entry)]

    def update(
        self, probabilities: np.ndarray, labels: np.ndarray, label_counts: NDArray[np.integer] | None = None
    ) -> None:
        """Add a batch.

        Arguments:
            probabilities: `[B, C]` float; scores are kept as float32.
            labels: with `label_counts`, class indices of all videos, concatenated, int64 `[L]`. Without it, multi-hot
                `[B, C]` of any dtype, nonzero if a video has the label.
            label_counts: int64 `[B]`, how many of `labels` belong to each video.

        Raises:
            VidfitError: a probability is NaN.
        """
        videos = len(probabilities)
        assert probabilities.shape == (videos, self.classes)
        positive = labels.astype(bool) if label_counts is None else multi_hot(labels, label_counts, self.classes)
        num_positives = positive.sum(axis=1)

        width = min(max(self.top_k, _TOP, num_positives.max(initial=0)), self.classes)
        best = top_classes(probabilities, width)
        scores = np.take_along_axis(probabilities, best, axis=1)
        hits = np.take_along_axis(positive, best, axis=1)

        # As in the original: a score of 0 never counts for PERR, though it does for GAP.
        counted = (np.arange(width) < num_positives[:, None]) & (scores > 0)
        self._summed_perr += float(((hits & counted).sum(axis=1) / np.maximum(num_positives, 1)).sum())
        self._hits_at_1 += int(positive[np.arange(videos), probabilities.argmax(axis=1)].sum())
        self._hits_at_5 += int(hits[:, :_TOP].any(axis=1).sum())
        self._one_label_each &= bool((num_positives == 1).all())
        self.positives += positive.sum(axis=0)
        self.videos += videos
        entries = np.empty(best[:, : self.top_k].size, self._entry)
        for field, values in (("class", best), ("score", scores), ("hit", hits)):
            entries[field] = values[:, : self.top_k].ravel()
        self._entries.append(entries)

    def merge(self, later: "Metrics") -> None:
        """Add the videos of another `Metrics` with the same settings, after the own ones."""
        self._summed_perr += later._summed_perr
        self._hits_at_1 += later._hits_at_1
        self._hits_at_5 += later._hits_at_5
        self._one_label_each &= later._one_label_each
        self.positives += later.positives
        self.videos += later.videos
        self._entries.extend(later._entries)

    def result(self) -> dict[str, float]:
        """The figures of all videos so far.

        Returns:
            gap: global average precision: average precision of one list with all videos' top 20, over all labels.
            map: mean over classes of average precision. A class's list has its entries in the videos' top 20. Classes
                without positives are left out, as in the YouTube-8M starter code and scikit-learn. Equal to
                `map_google`. NaN if no video has a label.
            map_google, map_winner: the two conventions by name. `map_winner` counts a class without positives as 0.
            hit_at_1: fraction of videos whose best class is a label.
            perr: precision at equal recall rate: mean over videos of the precision of as many classes as the video has
                labels; 0 for a video without labels.
            videos: number of videos.
            accuracy, top_5_accuracy: fraction of videos whose label is the best class, or among the best five. Only if
                each video has exactly one label.

        Source: YouTube-8M (Abu-El-Haija et al. 2016), section 5; the starter code and the 2018 winners' changes to it.
        """
        hits = self._sorted()["hit"]
        gap = _average_precisions(np.zeros(len(hits), np.uint8), hits, self.positives.sum(keepdims=True))[0]
        of_classes = self.average_precisions()
        has_positives = self.positives > 0
        map_google = float(of_classes[has_positives].mean()) if has_positives.any() else float("nan")
        videos = max(self.videos, 1)
        accuracies = {"accuracy": self._hits_at_1 / videos, "top_5_accuracy": self._hits_at_5 / videos}
        return {
            "gap": float(gap),
            "map": map_google,
            "map_google": map_google,
            "map_winner": float(of_classes.mean()),
            "hit_at_1": self._hits_at_1 / videos,
            "perr": self._summed_perr / videos,
            "videos": self.videos,
            **(accuracies if self.videos and self._one_label_each else {}),
        }

    def average_precisions(self) -> np.ndarray:
        """Average precision of each class so far, `[C]` float64, as `map` counts it; 0 without positives."""
        entries = self._sorted()
        return _average_precisions(entries["class"], entries["hit"], self.positives)

    def _sorted(self) -> np.ndarray:
        """All entries by falling score. They stay sorted, so a second call is fast."""
        entries = np.concatenate(self._entries)
        self._entries = [entries[np.argsort(-entries["score"], kind="stable")]]
        return self._entries[0]


def multi_hot(labels: np.ndarray, label_counts: NDArray[np.integer], classes: int) -> np.ndarray:
    """Which video has which label, bool `[B, C]`.

    Arguments:
        labels: class indices of all videos, concatenated, int64 `[L]`.
        label_counts: how many of them belong to each video, int64 `[B]`.
        classes: size of the vocabulary, C.
    """
    positive = np.zeros((len(label_counts), classes), bool)
    positive[np.repeat(np.arange(len(label_counts)), label_counts), labels] = True
    return positive


def top_classes(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices int64 `[B, k]` of the k best classes of each row of `scores` `[B, C]`, best first; k in 1..C.

    Among equal scores the lower index comes first, on every machine. With `np.argpartition` that would depend on the
    processor's vector width.

    Raises:
        VidfitError: a score is NaN.
    """
    classes = scores.shape[1]
    best = np.partition(scores, classes - k, axis=1)[:, classes - k :]
    if np.isnan(best).any():  # NaN sorts last
        raise VidfitError(DIVERGED)
    rows, columns = np.nonzero(scores >= best[:, :1])
    order = np.lexsort((-scores[rows, columns], rows))  # stable: columns rise
    rows, columns = rows[order], columns[order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    return columns[rank < k].reshape(-1, k)


def average_precision(
    scores: np.ndarray, hits: np.ndarray, positives: int | None = None, n: int | None = None
) -> float:
    """Non-interpolated average precision of one list.

    Arguments:
        scores: `[N]` float. The list is sorted by falling score; equal scores keep their order.
        hits: `[N]`, nonzero if an item is a positive.
        positives: number of positives there are to find. By default those in the list.
        n: use the best n items only. The best possible value is then 1, even with more than n positives.

    Returns:
        Mean over the positives of the precision at their ranks; 0 without positives.

    Source: YouTube-8M starter code, `AveragePrecisionCalculator.ap_at_n`.
    """
    hits = np.asarray(hits) > 0
    positives = int(hits.sum()) if positives is None else positives
    best = np.argsort(-np.asarray(scores), kind="stable")[:n]
    divisor = positives if n is None else min(positives, n)
    return float(_average_precisions(np.zeros(len(best), np.uint8), hits[best], np.array([divisor]))[0])


def _average_precisions(lists: np.ndarray, hits: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Average precision of each of G lists, `[G]` float64; 0 without positives.

    Arguments:
        lists: which list an entry belongs to, integers `[N]`. Entries are sorted by falling score.
        hits: bool `[N]`.
        positives: positives of each list, `[G]`.
    """
    by_list = np.argsort(lists, kind="stable")
    places = np.flatnonzero(hits[by_list])
    list_of_hit = lists[by_list[places]]
    rank = _places_in_lists(places, list_of_hit, np.bincount(lists, minlength=len(positives)))
    hits_so_far = _places_in_lists(
        np.arange(len(places)), list_of_hit, np.bincount(list_of_hit, minlength=len(positives))
    )
    summed = np.bincount(list_of_hit, weights=hits_so_far / rank, minlength=len(positives))
    return summed / np.maximum(positives, 1)


def _places_in_lists(places: np.ndarray, lists: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Places from 1 within each list, from places from 0 in all lists concatenated."""
    return places - (np.cumsum(sizes) - sizes)[lists] + 1
