"""Numbers as people write them.

Of bytes, `1GB` is 10^9, `1GiB` is 2^30 and `4096` is 4096.
"""

import re

from vidfit.errors import BudgetError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_size(text: str) -> int:
    """Bytes of a size such as `1GB`, `1GiB`, `20MB`, `1.5 MB` or `4096`.

    Raises:
        BudgetError: the text is not a positive number of bytes.
    """
    # Not pydantic's ByteSize: it reads "1,5MB" and "1.2.3GB" as 1 byte, and "20MB!" as 20 MB.
    match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    unit = _UNITS.get(match[2].upper()) if match else None
    size = int(float(match[1]) * unit) if match and unit else 0
    if size < 1:
        raise BudgetError(f"budget {text!r}: write a number of bytes such as 1GB (10^9), 1GiB (2^30), 20MB or 4096")
    return size


def format_size(size: float) -> str:
    """A size for people, in decimal units: `3.9 MB`."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def count_of(number: int, noun: str) -> str:
    """`1 member`, `1,200 members`; for nouns with a regular plural."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_gain(before: float, after: float) -> str:
    """`+0.0123`: the difference of two scores as they are shown, with four decimals each."""
    return f"{round(round(after, 4) - round(before, 4), 4) + 0.0:+.4f}"
