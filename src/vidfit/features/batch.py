"""One batch: videos of any length, the bytes of all their frames one after another.

Videos stay as long and as small as they are stored. A batch is put together video by video (`Filling`), in memory that
batches before it had (`Memory`).

Legend: B videos, N frames of all videos together, T frames of the longest, D feature size, L labels, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vidfit.features.buffer_pool import Memory
from vidfit.features.segments import RatedSegments
from vidfit.features.skipped import NOTHING, Skipped
from vidfit.features.spec import FeatureSpec, Video


@dataclass
class Batch:
    """Several videos of any length.

    Attributes:
        ids: `B` ids.
        frames: modality name -> `[N, D]` uint8 (float32 at video level), videos one after another.
        num_frames: `[B]` int64, always on the CPU: to read it from a GPU would wait for all that is under way there.
        labels: `[L]` int64, videos one after another.
        label_counts: `[B]` int64, labels of each video; 0 where a video is not labelled. On the CPU as well.
        segments: of each of the `B` videos, the segments that people rated.
        skipped: what was left out since the previous batch.
    """

    ids: list[str]
    frames: dict[str, Tensor]
    num_frames: Tensor
    labels: Tensor
    label_counts: Tensor
    segments: list[RatedSegments]
    skipped: Skipped = NOTHING

    def __len__(self) -> int:
        return len(self.ids)

    def padded(self) -> dict[str, Tensor]:
        """Modality name -> `[B, T, D]`, zero after each video's end."""
        lengths = self.num_frames.tolist()
        if not lengths:
            return {name: frames.unsqueeze(1) for name, frames in self.frames.items()}
        return {
            name: pad_sequence(list(frames.split(lengths)), batch_first=True) for name, frames in self.frames.items()
        }

    def rows(self, index: Tensor) -> "Batch":
        """Some of the videos, those of `index` `[B']` int64, in its order; the records skipped stay with the whole."""
        lengths, counts = self.num_frames.tolist(), self.label_counts.tolist()
        places = index.tolist()
        labels = self.labels.split(counts)
        frames = {name: whole.split(lengths) for name, whole in self.frames.items()}
        return Batch(
            ids=[self.ids[place] for place in places],
            frames={name: torch.cat([parts[place] for place in places]) for name, parts in frames.items()},
            num_frames=self.num_frames[index],
            labels=torch.cat([labels[place] for place in places]),
            label_counts=self.label_counts[index],
            segments=[self.segments[place] for place in places],
        )

    def multi_hot(self, classes: int) -> Tensor:
        """`[B, C]` float32 where the labels are: 1 where a video has the label."""
        device = self.labels.device
        targets_BC = torch.zeros(len(self), classes, device=device)
        videos_L = torch.arange(len(self)).repeat_interleave(self.label_counts)
        targets_BC[sent(videos_L, device), self.labels] = 1
        return targets_BC

    def ratings(self, classes: int) -> tuple[Tensor, Tensor]:
        """What people said of the N segments, video by video, two of float32 `[N, C]` on the device of the labels.

        The first is 1 where a label holds. The second is the labels' weights: 1 where one was rated, 0 elsewhere. In
        batches of clips, each has one segment, so N is B.
        """
        holds_NC = np.concatenate([np.empty((0, classes), np.float32), *(it.holds(classes) for it in self.segments)])
        targets_NC, weights_NC = np.nan_to_num(holds_NC), (~np.isnan(holds_NC)).astype(np.float32)
        device = self.labels.device
        return sent(torch.from_numpy(targets_NC), device), sent(torch.from_numpy(weights_NC), device)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its frames and labels on `device`; pinned frames are on their way when it returns."""
        return replace(
            self,
            frames={name: frames.to(device, non_blocking=True) for name, frames in self.frames.items()},
            labels=sent(self.labels, device),
        )


def sent(values: Tensor, device: torch.device | str) -> Tensor:
    """The values on a device. They are on their way to a GPU when this returns: to wait would let it run dry."""
    pinned = values.pin_memory() if torch.device(device).type == "cuda" else values
    return pinned.to(device, non_blocking=True)


def collate(videos: Sequence[Video], skipped: Skipped = NOTHING) -> Batch:
    """One batch of the videos, in their order; all have the same modalities."""
    filling = Filling(len(videos))
    for video in videos:
        filling.add(video)
    return filling.take(skipped)


class Filling:
    """A batch that is being put together: a video's frames are copied as it comes, while the caches still have them.

    How many frames there will be is not known. Where the room ends there is made twice as much; room that is never
    written to takes no memory.

    Arguments:
        batch_size: about how many videos there will be.
        memory: where from; None for fresh.
        pinned: hold frames where a GPU can fetch them by itself, in memory that PyTorch keeps and uses again.
    """

    def __init__(self, batch_size: int, memory: Memory | None = None, pinned: bool = False) -> None:
        self.batch_size, self.memory, self.pinned = batch_size, memory or Memory(), pinned
        self.most = 0
        self._start()

    def _start(self) -> None:
        self.ids: list[str] = []
        self.lengths: list[int] = []
        self.labels: list[np.ndarray] = []
        self.segments: list[RatedSegments] = []
        self.room: dict[str, np.ndarray] = {}
        self.filled = 0

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, video: Video) -> None:
        """One more video."""
        length = video.num_frames
        end = self.filled + length
        for name, frames in video.frames.items():
            room = self.room.get(name)
            if room is None or end > len(room):
                room = self._room(name, end, frames)
            room[self.filled : end] = frames
        self.filled = end
        self.ids.append(video.id)
        self.lengths.append(length)
        self.labels.append(video.labels)
        self.segments.append(video.segments)

    def _room(self, name: str, end: int, like: np.ndarray) -> np.ndarray:
        """More of it, with what there is already."""
        least = max(end, self.most)
        most = max(2 * end if self.filled else self.batch_size * end, self.most)
        if self.pinned:
            shape = most, like.shape[1]
            room = torch.empty(shape, dtype=getattr(torch, like.dtype.name), pin_memory=True).numpy()
        else:
            room = self.memory.array(name, least, most, like)
        if self.filled:
            room[: self.filled] = self.room[name][: self.filled]
        self.room[name] = room
        return room

    def take(self, skipped: Skipped) -> Batch:
        """The videos that have come, at least one, as a batch; what comes next is another's."""
        batch = Batch(
            ids=self.ids,
            frames={name: torch.from_numpy(room[: self.filled]) for name, room in self.room.items()},
            num_frames=torch.tensor(self.lengths),
            labels=torch.from_numpy(np.concatenate(self.labels)),
            label_counts=torch.tensor([len(labels) for labels in self.labels]),
            segments=self.segments,
            skipped=skipped,
        )
        self.most = max(self.most, self.filled)
        self._start()
        return batch


def no_videos(spec: FeatureSpec) -> Batch:
    """A batch of none: what a rank steps with once it has read its share of an epoch and others have not."""
    nothing = torch.zeros(0, dtype=torch.int64)
    return Batch(
        ids=[],
        frames={
            modality.name: torch.zeros(0, modality.size, dtype=getattr(torch, modality.dtype))
            for modality in spec.modalities
        },
        num_frames=nothing,
        labels=nothing,
        label_counts=nothing,
        segments=[],
    )


def joined(batches: Sequence[Batch]) -> Batch:
    """The videos of several batches as one."""
    return Batch(
        ids=[id for batch in batches for id in batch.ids],
        frames={name: torch.cat([batch.frames[name] for batch in batches]) for name in batches[0].frames},
        num_frames=torch.cat([batch.num_frames for batch in batches]),
        labels=torch.cat([batch.labels for batch in batches]),
        label_counts=torch.cat([batch.label_counts for batch in batches]),
        segments=[own for batch in batches for own in batch.segments],
        skipped=sum((batch.skipped for batch in batches), NOTHING),
    )
