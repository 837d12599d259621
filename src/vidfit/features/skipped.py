"""What a reader left out: corrupt records, the bytes they took, and videos without a label."""

from dataclasses import dataclass, fields
from typing import Final

from vidfit.sizes import count_of


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
            lost = f" ({self.bytes:,} bytes)" if self.bytes else ""
            parts.append(f"{count_of(self.records, 'corrupt record')}{lost} skipped")
        if self.unlabelled:
            parts.append(f"{count_of(self.unlabelled, 'video')} without a label left out")
        return ", ".join(parts)


NOTHING: Final = Skipped()
