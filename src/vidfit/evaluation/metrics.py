"""GAP@20, mAP, Hit@1 and PERR, streamed: batches go in, at any moment the figures so far come out.

Of each video only its 20 best classes are kept, as (class, score, hit); every positive counts in the denominators, kept
or not. Results are exact, on the scores rounded to float32 and summed in float64, up to `max_entries` kept entries: by
default 2,097,152, that is 104,857 videos, in 34 MB (about 0.2 GB for the second in which they are put in order). Beyond
that, memory stays where it is and GAP and mAP become approximations: neighbouring scores of a class are merged into one
entry (mean score, count, hits), which leaves 271 bins for each of 3,862 classes; a class with fewer entries than that
stays exact. With 65 bins a class the error was 2e-4 of GAP and 3e-4 of mAP, and it falls with the square of the bins.

Of equal scores the earlier video comes first, and within a video the lower class.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from vidfit.errors import VidfitError

MAX_ENTRIES: Final = 1 << 21

# What is kept: `count` classes of videos, `hits` of them labels, of the same class and (about) the same score.
_ENTRY = np.dtype([("class", np.int32), ("score", np.float32), ("count", np.int32), ("hits", np.int32)])


class Metrics:
    """Metrics of a stream of batches.

    Arguments:
        classes: size of the vocabulary, C.
        top_k: classes kept of each video, 20 in YouTube-8M's definition of GAP and mAP.
        max_entries: entries (`top_k` a video) held before neighbours are merged.
    """

    def __init__(self, classes: int, top_k: int = 20, max_entries: int = MAX_ENTRIES) -> None:
        self.classes = classes
        self.top_k = min(top_k, classes)
        self.max_entries = max_entries
        self.videos = 0
        self.positives = np.zeros(classes, np.int64)
        """Videos that have each label, `[C]`."""
        self._hits_at_1 = 0
        self._summed_perr = 0.0
        self._entries = [np.empty(0, _ENTRY)]
        self._num_entries = 0

    def update(
        self, probabilities: np.ndarray, labels: np.ndarray, label_counts: NDArray[np.integer] | None = None
    ) -> None:
        """Takes in a batch.

        Arguments:
            probabilities: `[B, C]` float; scores are kept as float32.
            labels: with `label_counts`, class indices of all videos one after another, int64 `[L]`; without, a
                multi-hot `[B, C]` of any dtype, nonzero where a video has the label.
            label_counts: int64 `[B]`, how many of `labels` belong to each video.

        Raises:
            VidfitError: a probability is NaN.
        """
        videos = len(probabilities)
        assert probabilities.shape == (videos, self.classes)
        positive = labels.astype(bool) if label_counts is None else multi_hot(labels, label_counts, self.classes)
        num_positives = positive.sum(axis=1)

        width = min(max(self.top_k, num_positives.max(initial=0)), self.classes)
        best = top_classes(probabilities, width)
        scores = np.take_along_axis(probabilities, best, axis=1)
        hits = np.take_along_axis(positive, best, axis=1)

        # As in the original: a score of 0 never counts for PERR, though it does for GAP.
        counted = (np.arange(width) < num_positives[:, None]) & (scores > 0)
        self._summed_perr += float(((hits & counted).sum(axis=1) / np.maximum(num_positives, 1)).sum())
        self._hits_at_1 += int(positive[np.arange(videos), probabilities.argmax(axis=1)].sum())
        self.positives += positive.sum(axis=0)
        self.videos += videos
        entries = np.empty(best[:, : self.top_k].size, _ENTRY)
        for field, values in (("class", best), ("score", scores), ("hits", hits)):
            entries[field] = values[:, : self.top_k].ravel()
        entries["count"] = 1
        self._keep(entries)

    def merge(self, later: "Metrics") -> None:
        """Takes in what another of the same settings took in, as videos that come after these."""
        self._summed_perr += later._summed_perr
        self._hits_at_1 += later._hits_at_1
        self.positives += later.positives
        self.videos += later.videos
        self._keep(later._merged_list())

    def result(self) -> dict[str, float]:
        """The figures of everything taken in so far.

        Returns:
            gap: global average precision. All videos' top 20 in one list, best first; average precision of that list
                over all positives of the videos.
            map: mean over classes of average precision, a class's list being its entries in the videos' top 20.
                Classes without positives are left out, as in the YouTube-8M starter code and scikit-learn: the same
                number as `map_google`. NaN if no video has a label.
            map_google, map_winner: the two conventions by name; `map_winner` counts a class without positives as 0.
            hit_at_1: share of videos whose best class is a label.
            perr: precision at equal recall rate, mean over videos of the precision of as many classes as the video has
                labels; 0 for a video without labels.
            videos: how many were taken in.

        Source: YouTube-8M (Abu-El-Haija et al. 2016), section 5; the starter code and the 2018 winners' changes to it.
        """
        entries = self._merged_list()
        total_positives = self.positives.sum(keepdims=True)
        everything_in_one_list = np.zeros_like(entries["class"])
        gap = _average_precisions(everything_in_one_list, entries, total_positives)[0]
        of_classes = self.average_precisions()
        has_positives = self.positives > 0
        map_google = float(of_classes[has_positives].mean()) if has_positives.any() else float("nan")
        videos = max(self.videos, 1)
        return {
            "gap": float(gap),
            "map": map_google,
            "map_google": map_google,
            "map_winner": float(of_classes.mean()),
            "hit_at_1": self._hits_at_1 / videos,
            "perr": self._summed_perr / videos,
            "videos": self.videos,
        }

    def average_precisions(self) -> np.ndarray:
        """Average precision of each class so far, `[C]` float64, as `map` counts it; 0 without positives."""
        entries = self._merged_list()
        return _average_precisions(entries["class"], entries, self.positives)

    def _keep(self, entries: np.ndarray) -> None:
        self._entries.append(entries)
        self._num_entries += len(entries)
        if self._num_entries > self.max_entries:
            bins = max(1, self.max_entries // (2 * self.classes))
            self._entries = [_merge_neighbours(self._merged_list(), bins)]
            self._num_entries = len(self._entries[0])

    def _merged_list(self) -> np.ndarray:
        self._entries = [np.concatenate(self._entries)]
        return self._entries[0]


def multi_hot(labels: np.ndarray, label_counts: NDArray[np.integer], classes: int) -> np.ndarray:
    """Which video has which label, bool `[B, C]`.

    Arguments:
        labels: class indices of all videos one after another, int64 `[L]`.
        label_counts: how many of them belong to each video, int64 `[B]`.
        classes: size of the vocabulary, C.
    """
    positive = np.zeros((len(label_counts), classes), bool)
    positive[np.repeat(np.arange(len(label_counts)), label_counts), labels] = True
    return positive


def top_classes(scores: np.ndarray, k: int) -> np.ndarray:
    """Indices int64 `[B, k]` of the k best classes of each row of `scores` `[B, C]`, best first; k in 1..C.

    Of equal scores the lower index comes first, on every machine: `np.argpartition` would leave that to the
    processor's vector width.

    Raises:
        VidfitError: a score is NaN.
    """
    classes = scores.shape[1]
    best = np.partition(scores, classes - k, axis=1)[:, classes - k :]
    if np.isnan(best).any():  # NaN sorts last
        raise VidfitError("predictions hold NaN: the model's training diverged; train it with a lower learning rate")
    rows, columns = np.nonzero(scores >= best[:, :1])
    order = np.lexsort((-scores[rows, columns], rows))  # stable: columns rise
    rows, columns = rows[order], columns[order]
    return columns[_exclusive_cumsum(np.ones_like(rows), rows) < k].reshape(-1, k)


def average_precision(
    scores: np.ndarray, hits: np.ndarray, positives: int | None = None, n: int | None = None
) -> float:
    """Non-interpolated average precision of one list.

    Arguments:
        scores: `[N]` float; the list is ordered by falling score, equal scores as they come.
        hits: `[N]`, nonzero where an item is a positive.
        positives: number of positives that could have been found; by default those in the list.
        n: look at the best n items only; the best possible value is then 1 even with more than n positives.

    Returns:
        Mean over the positives of the precision at each one's rank; 0 without positives.

    Source: YouTube-8M starter code, `AveragePrecisionCalculator.ap_at_n`.
    """
    hits = np.asarray(hits) > 0
    positives = int(hits.sum()) if positives is None else positives
    best = np.argsort(-np.asarray(scores), kind="stable")[:n]
    divisor = positives if n is None else min(positives, n)
    entries = np.zeros(len(best), _ENTRY)
    entries["score"], entries["count"], entries["hits"] = -np.arange(len(best)), 1, hits[best]
    return float(_average_precisions(entries["class"], entries, np.array([divisor]))[0])


def _average_precisions(lists: np.ndarray, entries: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Average precision `[G]` float64 of each of G lists; entry i belongs to list `lists[i]`; 0 without positives.

    The hits of a merged entry lie somewhere among its items: all get the precision at the entry's middle, which for an
    entry of one item is the exact value.
    """
    order = np.lexsort((-entries["score"], lists))
    lists, count, hits = lists[order], entries["count"][order], entries["hits"][order]
    before_count, before_hits = _exclusive_cumsum(count, lists), _exclusive_cumsum(hits, lists)
    precision = (before_hits + (hits + 1) / 2) / (before_count + (count + 1) / 2)
    summed = np.bincount(lists, weights=hits * precision, minlength=len(positives))
    return summed / np.maximum(positives, 1)


def _merge_neighbours(entries: np.ndarray, bins: int) -> np.ndarray:
    """At most `bins` entries a class: neighbours merged where a class has more, as they are elsewhere.

    A bin holds about the same share of the class's items plus of its hits everywhere: hits are few and lie at the top,
    where average precision is decided and quantiles of the items alone would be coarse.
    """
    entries = entries[np.lexsort((entries["score"], entries["class"]))]
    classes = entries["class"]
    items, hits = (np.bincount(classes, weights=entries[field])[classes] for field in ("count", "hits"))
    weight = entries["count"] / items + entries["hits"] / np.maximum(hits, 1)
    middle = (_exclusive_cumsum(weight, classes) + weight / 2) / (1 + (hits > 0))
    rank = _exclusive_cumsum(np.ones(len(entries), np.int64), classes)
    crowded = np.bincount(classes)[classes] > bins
    bin_of_entry = np.where(crowded, np.minimum(middle * bins, bins - 1).astype(np.int64), rank)

    first = np.flatnonzero((np.diff(classes, prepend=-1) != 0) | (np.diff(bin_of_entry, prepend=-1) != 0))
    merged = entries[first]
    for field in ("count", "hits"):
        merged[field] = np.add.reduceat(entries[field], first)
    merged["score"] = np.add.reduceat(entries["score"] * entries["count"].astype(np.float64), first) / merged["count"]
    return merged


def _exclusive_cumsum(values: np.ndarray, lists: np.ndarray) -> np.ndarray:
    """Sum of the values before each entry in its own list; equal `lists` stand together."""
    before = np.cumsum(values, dtype=np.result_type(values, np.int64)) - values
    starts = np.flatnonzero(np.diff(lists, prepend=-1))
    return before - np.repeat(before[starts], np.diff(starts, append=len(lists)))
