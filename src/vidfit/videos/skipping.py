"""Which frames of H.264 a decoder may skip: no step shows them.

A packet says when its frame is shown, before the frame is decoded. The frame stays until the next one starts. If no
step falls in between, the decoder may skip it. FFmpeg then skips it only if no other frame is built on it (NONREF), so
the pictures that steps show stay the same. This halves the time of decoding where half of the frames are B frames.

Only H.264 marks such frames reliably. In HEVC, frames of a higher sub-layer may still need them.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

# Packets that are read ahead. H.264 reorders at most 16 frames.
_AHEAD: Final = 48
# Frames this near to a step are decoded: timestamps are rounded, and an interlaced frame has two. Seconds.
_MARGIN: Final = 0.05
# A larger step from one packet to the next may be a jump in time, after which steps lie elsewhere. Seconds.
_LONGEST_STEP: Final = 1.0


def mark_unshown(
    packets: Iterable[Any], stream: Any, has_step: Callable[[float, float], bool]
) -> Iterator[tuple[Any, bool]]:
    """Each packet, and whether its frame may be skipped.

    Arguments:
        packets: of all streams of a file, in its order.
        stream: that of the pictures.
        has_step: whether a step falls between two timestamps of the file, in seconds.
    """
    waiting: deque[Any] = deque()
    starts = _Starts(stream)
    for packet in packets:
        waiting.append(packet)
        starts.add(packet)
        if len(waiting) > _AHEAD:
            packet = waiting.popleft()
            yield packet, _may_skip(packet, starts, has_step)
    for packet in waiting:
        yield packet, _may_skip(packet, starts, has_step)


def _may_skip(packet: Any, starts: "_Starts", has_step: Callable[[float, float], bool]) -> bool:
    start = starts.of(packet)
    if start is None or not starts.steady:
        return False
    return not has_step(start - _MARGIN, starts.after(start) + _MARGIN)


class _Starts:
    """When the frames around a packet start, in seconds.

    `steady` turns false for good when a timestamp is missing or jumps.
    """

    def __init__(self, stream: Any) -> None:
        self._index, self._base = stream.index, float(stream.time_base)
        self._around: deque[float] = deque(maxlen=2 * _AHEAD)
        self.steady = stream.codec_context.name == "h264"

    def add(self, packet: Any) -> None:
        # The last packet of a stream is empty.
        if packet.stream_index != self._index or packet.is_discard or not packet.size:
            return
        start = self.of(packet)
        if start is None:
            self.steady = False
            return
        self.steady &= not self._around or abs(start - self._around[-1]) <= _LONGEST_STEP
        self._around.append(start)

    def of(self, packet: Any) -> float | None:
        """None if its frame has no start, or is not shown."""
        if packet.stream_index != self._index or packet.is_discard or packet.pts is None:
            return None
        return packet.pts * self._base

    def after(self, start: float) -> float:
        """The start of the next frame, infinite if it is not known."""
        return min((it for it in self._around if it > start), default=math.inf)
