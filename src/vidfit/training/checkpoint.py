"""A member on disk: one safetensors file with the weights and, in its metadata, everything needed to use them.

Tensors are the classifier's state by name. Checkpoints to resume from (`checkpoint_manager.py`) also hold Adam's
moments under `optimizer.`, and the average of the second phase under `average.`. The metadata key `vidfit` holds a JSON
document: format, checksum, `MemberInfo` and, under `extra`, the training state.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vidfit.checksum import BLANK, Mark, is_intact, write_checksum
from vidfit.errors import ModelFileError, reason
from vidfit.features.spec import FeatureSpec
from vidfit.files import replacing, utf8_name
from vidfit.models.classifier import ClassifierConfig, VideoClassifier

BEST = "best.safetensors"
# 2: descriptors of NetVLAD and NetFV are ordered by cluster; in 1 they were ordered by feature.
_FORMAT = 2
TRAINING_ONLY = ("optimizer.", "average.")
# The last release's names of options, by the family's type.
_RENAMED = {"dbof": {"form": "pooling"}}
# The document is a string of the header's JSON, so its quotes are escaped.
CHECKSUM = Mark(rb"\"crc32c\": \"", at_end=False)
_OBJECT = TypeAdapter(dict[str, Any])
Tensors = Mapping[str, torch.Tensor]


class MemberInfo(BaseModel):
    """What a member is, besides its weights.

    Attributes:
        gap_validation: None without validation videos.
        extractor: JSON of how videos become its features (`videos/extractor.py`). None where that is unknown.
    """

    # An unknown key is a damaged one, such as the checksum's.
    model_config = ConfigDict(extra="forbid")

    name: str
    classifier: ClassifierConfig
    spec: FeatureSpec
    vocabulary: tuple[str, ...]
    step: int
    gap_validation: float | None
    extractor: str | None = None

    @property
    def data(self) -> tuple[object, ...]:
        """What members of one file have in common: features, labels, and how videos become features."""
        return self.spec, self.vocabulary, self.extractor

    def build(self) -> VideoClassifier:
        """The classifier with fresh weights."""
        return VideoClassifier(self.classifier, self.spec, len(self.vocabulary))


def save_member(path: Path, info: MemberInfo, tensors: dict[str, torch.Tensor], **extra: object) -> None:
    """Write a member file, whole or not at all. `extra` goes into its JSON.

    Raises:
        OutputError: the file cannot be written.
    """
    # One key only: safetensors writes several in any order, but equal members should give equal files.
    document = {"format": _FORMAT, "crc32c": BLANK, **info.model_dump(mode="json"), "extra": extra}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as partial:
        try:
            save_file(tensors, partial, {"vidfit": json.dumps(document)})
        except SafetensorError as error:
            # It has the system's error number only in its words.
            if found := re.search(r"os error (\d+)", str(error)):
                raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
            raise OSError(str(error)) from error
        write_checksum(partial, CHECKSUM)


def member_file(path: Path | str) -> Path:
    """A member's file. A member's folder in a run means its best checkpoint."""
    path = Path(path)
    return path / BEST if path.is_dir() else path


def read_member(path: Path | str) -> tuple[MemberInfo, dict[str, torch.Tensor], dict[str, object]]:
    """Read a member file.

    Returns:
        Its description, its tensors by name, and the extra metadata.

    Raises:
        ModelFileError: the file is missing, damaged, cut short or not a member.
    """
    with _opened(path, checked=True) as (file, info, extra):
        return info, {name: file.get_tensor(name) for name in file.keys()}, extra  # noqa: SIM118 - not a mapping


def read_info(path: Path | str) -> MemberInfo:
    """Read only the description of a member file, without its tensors and without checking its checksum.

    Raises:
        ModelFileError: the file is missing, cut short or not a member.
    """
    with _opened(path, checked=False) as (_, info, _):
        return info


@contextmanager
def _opened(path: Path | str, checked: bool) -> Iterator[tuple[Any, MemberInfo, dict[str, object]]]:
    path = member_file(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: no such member; give a packed .onnx file, a member's folder or its .safetensors")
    try:
        with utf8_name(path) as name, safe_open(name, framework="pt") as file:
            document = _OBJECT.validate_json((file.metadata() or {})["vidfit"])
            if (found := document.pop("format", 1)) != _FORMAT:
                raise _other_format(path, found)
            extra = _OBJECT.validate_python(document.pop("extra"))
            # If you edit a file by hand, leave it out.
            if document.pop("crc32c", None) is not None and checked and not is_intact(path, CHECKSUM):
                raise ModelFileError(
                    f"{path}: was altered, damaged or cut short (its checksum does not match); "
                    "copy it again, or retrain"
                )
            _update(document)
            yield file, MemberInfo.model_validate(document), extra
    except (SafetensorError, OSError, KeyError, ValidationError) as error:
        what = f"its metadata lack {error}" if isinstance(error, KeyError) else reason(error)
        raise ModelFileError(f"{path}: not a readable member file ({what}); copy it again, or retrain") from error


def _other_format(path: Path, found: object) -> ModelFileError:
    newer = isinstance(found, int) and found > _FORMAT
    age, advice = ("a newer", "install a newer vidfit") if newer else ("an older", "copy it again, or retrain")
    return ModelFileError(f"{path}: a member of {age} vidfit (format {found!r}; this one reads {_FORMAT}); {advice}")


def _update(document: dict[str, Any]) -> None:
    """Make what an older version wrote today's."""
    if document.get("gap_validation") == -1:
        document["gap_validation"] = None
    match document:
        case {"classifier": {"family": {"type": str(kind), **options} as family}}:
            for old, new in _RENAMED.get(kind, {}).items():
                if old in options:
                    family[new] = family.pop(old)


def starting_weights(path: Path | str, info: MemberInfo, model: VideoClassifier) -> dict[str, torch.Tensor]:
    """The weights of a member from which another one starts.

    Arguments:
        path: its folder or file.
        info, model: the member that starts. Options that change no weights, such as dropout, may differ.

    Raises:
        ModelFileError: it is no member, or one of other features, labels or weights.
    """
    found, tensors, _ = read_member(path)
    if found.data != info.data:
        raise ModelFileError(f"{path}: has other features or labels than {info.name}; start from a member of the same")
    weights, _, _ = separate_parts(tensors)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    others = [
        name for name in shapes.keys() | weights if name not in weights or weights[name].shape != shapes.get(name)
    ]
    if others:
        raise ModelFileError(
            f"{path}: has other weights than {info.name}, such as {min(others)}; start from an unquantised member of "
            "the same family and sizes"
        )
    return weights


def joined_parts(weights: Tensors, moments: Tensors, average: Tensors) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint to resume from."""
    return {
        **weights,
        **{f"optimizer.{name}": tensor for name, tensor in moments.items()},
        **{f"average.{name}": tensor for name, tensor in average.items()},
    }


def separate_parts(tensors: Tensors) -> tuple[dict[str, torch.Tensor], ...]:
    """Undo `joined_parts`: weights, moments and average; the last two may be empty."""
    moments, average = (
        {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        for prefix in TRAINING_ONLY
    )
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(TRAINING_ONLY)}, moments, average
