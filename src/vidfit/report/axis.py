"""An axis of a plot: positions of values, and ticks."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A range of values, linear or logarithmic."""

    label: str
    low: float
    high: float
    log: bool = False
    write: Callable[[float], str] = "{:g}".format
    """Formats a tick."""

    def place(self, value: float) -> float:
        """Position of a value: 0 at `low`, 1 at `high`."""
        low, high, value = map(math.log, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return (value - low) / (high - low)

    def ticks(self, most: int = 6) -> list[float]:
        """At most `most` round values, ascending. A log axis within one power of ten has linear ticks."""
        candidates = self._log_steps() if self.log and self.high >= 10 * self.low else self._linear_steps()
        return next(ticks for ticks in candidates if len(ticks) <= most)

    def _linear_steps(self) -> Iterable[list[float]]:
        magnitude = 10.0 ** math.floor(math.log10((self.high - self.low) / 100))
        for power in range(5):
            for factor in (1, 2, 5):
                step = factor * magnitude * 10**power
                first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
                yield [round(index * step, 12) for index in range(first, last + 1)]

    def _log_steps(self) -> Iterable[list[float]]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for factors, every in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3), ((1,), 10)):
            values = (
                factor * 10.0**power for power in range(first, last + 1) for factor in factors if power % every == 0
            )
            yield [value for value in values if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)]


def around(
    label: str, values: Iterable[float], log: bool = False, write: Callable[[float], str] = "{:g}".format
) -> Axis:
    """An axis that holds all values, with some room on both sides."""
    values = list(values)
    low, high = min(values), max(values)
    if log:
        return Axis(label, low / 1.25, high * 1.25, True, write)
    room = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Axis(label, low - room, high + room, False, write)
