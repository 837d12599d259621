"""Whether a budget can be met, as far as that can be said before videos are read."""

from collections.abc import Sequence

import numpy as np

from vidfit.errors import BudgetError
from vidfit.export.metadata import metadata_bytes
from vidfit.fitting.dataset import are_videos, extraction_settings
from vidfit.search.carried import carried_bytes, extractor_in_8_bits
from vidfit.sizes import format_size, parse_size
from vidfit.videos.extract import SIZES
from vidfit.videos.extractor import Extractor
from vidfit.videos.transform import Transform

# No file is as small: a number below was meant to have a unit.
_LEAST_BYTES = 10_000


def check_budget(budget: str, data: Sequence[str], with_extractor: bool) -> None:
    """Refuse a budget that leaves nothing for members, before videos are extracted.

    Raises:
        BudgetError: it is a few bytes, or less than what a file takes besides members and label names.
        DataError: a model for pictures or sounds is missing.
    """
    size = parse_size(budget)
    if size < _LEAST_BYTES:
        advice = "give more" if budget[-1:].isalpha() else f"did you mean {budget.strip()}MB?"
        raise BudgetError(f"--budget {budget}: is {size:,} bytes; {advice}")
    if not are_videos(data):
        return
    extractor = _unfitted()
    if with_extractor:
        least = carried_bytes(extractor_in_8_bits(extractor), extractor.spec, ())
        what, advice = "the models for pictures and sounds alone take", "give more, or leave out --with-extractor"
    else:
        least = metadata_bytes(extractor.spec, (), extractor.model_dump_json())
        what, advice = "what turns pictures and sounds into features alone takes", "give more"
    if size < least:
        raise BudgetError(f"--budget {budget}: {what} {format_size(least)}; {advice}")


def _unfitted() -> Extractor:
    """One as extraction fits it, of zeros: it takes as many bytes."""
    settings = extraction_settings()
    transforms = {}
    for backbone in settings.backbones:
        inputs, outputs = backbone.embedding_size, SIZES[backbone.modality]
        transforms[backbone.modality] = Transform(
            mean=np.zeros(inputs), components=np.zeros((inputs, outputs)), scale=np.zeros(outputs)
        )
    return Extractor(settings=settings, transforms=transforms)
