"""What a reader left out: corrupt records, the bytes they took, and videos without a label."""

from dataclasses import dataclass, fields
from typing import Final


@dataclass(frozen=True)
class Skipped:
    """Counts of what was left out. They add up over batches, shards and ranks; empty counts are false."""

    records: int = 0
    """Corrupt records. A stretch of a file in which no record can be found counts as one."""
    bytes: int = 0
    """What these take in their files; 0 for records of a cache, whose places are known."""
    unlabelled: int = 0
    """Videos without a label, where they are to be left out."""

    def __add__(self, other: "Skipped") -> "Skipped":
        return Skipped(*(getattr(self, own.name) + getattr(other, own.name) for own in fields(Skipped)))

    def __bool__(self) -> bool:
        return self != Skipped()

    def __str__(self) -> str:
        parts = []
        if self.records:
            plural = "" if self.records == 1 else "s"
            lost = f" ({self.bytes:,} bytes)" if self.bytes else ""
            parts.append(f"{self.records:,} corrupt record{plural}{lost} skipped")
        if self.unlabelled:
            plural = "" if self.unlabelled == 1 else "s"
            parts.append(f"{self.unlabelled:,} video{plural} without a label left out")
        return ", ".join(parts)


NOTHING: Final = Skipped()
