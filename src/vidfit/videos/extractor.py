"""`extractor.json`: all that is needed to make the same features of further videos."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vidfit.errors import DataError, ModelFileError, reason
from vidfit.features.spec import FeatureSpec, Modality
from vidfit.videos.backbone import Backbone
from vidfit.videos.transform import Transform

FILE: Final = "extractor.json"


class Settings(BaseModel):
    """How videos are read and embedded.

    Attributes:
        rate: steps per second.
        picture_time: where in a step its picture is taken: 0 is the start, 0.5 the middle.
        backbones: one or two, of different modalities.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: float = Field(default=1.0, gt=0, le=60)
    picture_time: float = Field(default=0.5, ge=0, lt=1)
    backbones: tuple[Backbone, ...] = Field(min_length=1)

    def digest(self) -> str:
        """The same for the same settings, wherever the models' files are."""
        return hashlib.sha256(self.model_dump_json(exclude={"backbones": {"__all__": {"file"}}}).encode()).hexdigest()


class Extractor(BaseModel):
    """Settings and the transforms that were fitted, by modality.

    Attributes:
        part_of: digest of the extractor that a packed file carries, perhaps in part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Raised whenever the same settings give other frames. 2: exact sums in YAMNet, and full chroma in pictures.
    format: Literal[2] = 2
    settings: Settings
    transforms: dict[str, Transform]
    part_of: str | None = None

    @property
    def spec(self) -> FeatureSpec:
        """The modalities of the features that it makes."""
        return FeatureSpec(
            modalities=tuple(
                Modality(name=backbone.modality, size=self.transforms[backbone.modality].size)
                for backbone in self.settings.backbones
            )
        )

    @property
    def digest(self) -> str:
        """Tells features of one extractor from those of another."""
        if self.part_of:
            return self.part_of
        text = self.settings.digest() + self.model_dump_json(include={"transforms"})
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def title(self) -> str:
        """What it is called in messages."""
        names = " and ".join(backbone.name for backbone in self.settings.backbones)
        return f"{names}, {self.settings.rate:g} a second (digest {self.digest[:12]})"


def read_extractor(path: Path) -> Extractor:
    """Read `extractor.json`.

    Raises:
        DataError: it is missing or not readable.
    """
    try:
        return Extractor.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); give a folder that `vidfit extract` made"
        ) from error
    except ValidationError as error:
        raise DataError(f"{path}: is no extractor of this version ({reason(error)}); extract anew") from error


def parse_extractor(text: str, path: str | Path) -> Extractor:
    """The extractor that a model file names.

    Raises:
        ModelFileError: it is of another version.
    """
    try:
        return Extractor.model_validate_json(text)
    except ValidationError as error:
        raise ModelFileError(
            f"{path}: names an extractor that this version cannot read ({reason(error)}); make the file anew, or use "
            "the vidfit that made it"
        ) from error


def check_features(extractor: str | None, shards: Iterable[Path], whose: str) -> None:
    """Compare an extractor with that of the folders that `vidfit extract` made of some shards.

    Arguments:
        extractor: JSON; None fits all, for nothing is known. So do shards without `extractor.json`.
        whose: `the model`, for the message.

    Raises:
        ModelFileError: shards are of another extractor.
    """
    if extractor is None:
        return
    expected = parse_extractor(extractor, whose)
    for path in _extractor_files(shards):
        if (found := read_extractor(path)).digest != expected.digest:
            raise ModelFileError(
                f"{path}: these features were made with {found.title}, those of {whose} with {expected.title}; "
                "extract the videos with --like"
            )


def steps_per_second(extractor: str | None, shards: Iterable[Path]) -> float:
    """Steps (frames) per second of some features: 1 where nothing says it, as in YouTube-8M.

    Arguments:
        extractor: JSON, from a model. None asks the `extractor.json` beside the shards.

    Raises:
        DataError: shards differ.
        ModelFileError: the extractor is of another version.
    """
    if extractor:
        return parse_extractor(extractor, "the model").settings.rate
    rates = {read_extractor(path).settings.rate: path for path in _extractor_files(shards)}
    if len(rates) > 1:
        (first, one), (second, other), *_ = rates.items()
        raise DataError(f"{one} has {first:g} frames per second, {other} {second:g}; evaluate them one by one")
    return next(iter(rates), 1.0)


def _extractor_files(shards: Iterable[Path]) -> list[Path]:
    folders = sorted({folder for shard in shards for folder in shard.absolute().parents[:2]})
    return [folder / FILE for folder in folders if (folder / FILE).is_file()]


def extractor_beside(vocabulary: Path, spec: FeatureSpec) -> str | None:
    """What the `extractor.json` in a vocabulary's folder says, if there is one.

    Raises:
        DataError: it makes other features than `spec`.
    """
    path = vocabulary.parent / FILE
    if not path.exists():
        return None
    extractor = read_extractor(path)
    if {it.name: it.size for it in extractor.spec.modalities} != {it.name: it.size for it in spec.modalities}:
        raise DataError(f"{path}: makes other features than the training shards hold; give the vocabulary beside them")
    return extractor.model_dump_json()
