"""A member on disk: one safetensors file with the weights and, in its metadata, all that is needed to use them.

Tensors are the classifier's state by name. Only checkpoints that a training goes on from (`rotation.py`) have those
under `optimizer.`, Adam's moments, and under `average.`, the average that the second phase of a training makes.
The metadata's key `vidfit` holds a JSON document: its format and checksum, `MemberInfo` and, under `extra`, where the
training stands.
"""

import json
import os
import re
from collections.abc import Iterator
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
from vidfit.models.classifier import ClassifierConfig, FrameClassifier

BEST = "best.safetensors"
# 2: descriptors of NetVLAD and NetFV are cluster by cluster; they were feature by feature.
_FORMAT = 2
TRAINING_ONLY = ("optimizer.", "average.")
# The document is a string of the header's JSON, so its quotes are escaped.
CHECKSUM = Mark(rb"\"crc32c\": \"", at_end=False)
_OBJECT = TypeAdapter(dict[str, Any])


class MemberInfo(BaseModel):
    """What a member is, beside its weights."""

    # A key that nobody knows is a damaged one, such as the checksum's.
    model_config = ConfigDict(extra="forbid")

    name: str
    classifier: ClassifierConfig
    spec: FeatureSpec
    vocabulary: tuple[str, ...]
    step: int
    gap_validation: float

    def build(self) -> FrameClassifier:
        """The classifier with fresh weights."""
        return FrameClassifier(self.classifier, self.spec, len(self.vocabulary))


def save_member(path: Path, info: MemberInfo, tensors: dict[str, torch.Tensor], **extra: object) -> None:
    """Write a member file, beside and then renamed. `extra` goes into its JSON.

    Raises:
        OutputError: the file cannot be written.
    """
    # One key only: safetensors writes several in any order, and equal members should be equal files.
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
    """The file of a member, given as that file or as its folder in a run (then its best checkpoint)."""
    path = Path(path)
    return path / BEST if path.is_dir() else path


def read_member(path: Path | str) -> tuple[MemberInfo, dict[str, torch.Tensor], dict[str, object]]:
    """Read a member file.

    Returns:
        Its description, its tensors by name as they are stored, and the extra metadata.

    Raises:
        ModelFileError: the file is missing, damaged, cut short or no member.
    """
    with _opened(path, checked=True) as (file, info, extra):
        return info, {name: file.get_tensor(name) for name in file.keys()}, extra  # noqa: SIM118 - not a mapping


def read_info(path: Path | str) -> MemberInfo:
    """The description of a member file alone; its tensors are not read, nor its checksum told.

    Raises:
        ModelFileError: the file is missing, cut short or no member.
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
            # Who edits a file by hand leaves it out.
            if document.pop("crc32c", None) is not None and checked and not is_intact(path, CHECKSUM):
                raise ModelFileError(
                    f"{path}: was altered, damaged or cut short (its content is not what its checksum says); "
                    "train it again or copy it anew"
                )
            yield file, MemberInfo.model_validate(document), extra
    except (SafetensorError, OSError, KeyError, ValidationError) as error:
        what = f"its metadata lack {error}" if isinstance(error, KeyError) else reason(error)
        raise ModelFileError(f"{path}: not a readable member file ({what}); train it again or copy it anew") from error


def _other_format(path: Path, found: object) -> ModelFileError:
    newer = isinstance(found, int) and found > _FORMAT
    age, advice = ("a newer", "install a newer vidfit") if newer else ("an older", "train it again or copy it anew")
    return ModelFileError(f"{path}: a member of {age} vidfit (format {found!r}; this one reads {_FORMAT}); {advice}")
