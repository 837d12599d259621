"""The models of a server, by name."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vidfit.errors import ModelFileError, VidfitError
from vidfit.export.metadata import PackedInfo, output_names, read_info
from vidfit.hub.repository import local_file
from vidfit.inference.predictor import Predictor, load
from vidfit.videos.decode import av

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A packed file that a server answers with.

    Attributes:
        name: what clients call it.
        path: the file.
        info: its metadata.
        predictor: the file, loaded.
        labels_videos: whether it takes videos too, not only features.
    """

    name: str
    path: Path
    info: PackedInfo
    predictor: Predictor
    labels_videos: bool

    @property
    def outputs(self) -> list[str]:
        """Names of its outputs."""
        return output_names(self.info.frame_probabilities)


def open_models(arguments: Sequence[str]) -> dict[str, ServedModel]:
    """Open the models of a command line: `MODEL`, or `NAME=MODEL`, a path or an address `hf://owner/name`.

    The name is by default the file's without suffix, or the repository's.

    Raises:
        VidfitError: two models have one name, or a name has more than letters, digits, `.`, `_` and `-`.
        ModelFileError: a file cannot be read, or is not a packed file.
    """
    models: dict[str, ServedModel] = {}
    for argument in arguments:
        name, path = _named(argument)
        if name in models:
            raise VidfitError(f"{argument}: another model is called {name} too; give it a name: NAME={path}")
        models[name] = _open(name, path)
    return models


def _named(argument: str) -> tuple[str, Path]:
    name, equals, model = argument.partition("=")
    if not equals or Path(argument).exists():
        name, model = Path(argument).stem, argument
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
        raise VidfitError(f"{argument}: {name!r} is no name for a model; give one of letters and digits: NAME={model}")
    return name, local_file(model)


def _open(name: str, path: Path) -> ServedModel:
    if path.is_dir() or path.suffix == ".safetensors":
        raise ModelFileError(f"{path}: is no packed file; give an .onnx file, such as RUN/model.onnx")
    predictor = load(path)
    labels_videos = predictor.extractor is not None
    if labels_videos:
        try:
            av()
        except VidfitError as error:
            labels_videos = False
            log.warning("%s: takes features only, for %s", name, error)
        else:
            if predictor.thresholds is None:
                log.warning("%s: has no thresholds, so every label holds from 0.5 on", name)
    return ServedModel(name, path, read_info(path), predictor, labels_videos)
