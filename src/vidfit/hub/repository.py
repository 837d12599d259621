"""Push a packed file to a repository, and fetch it again.

A repository has one file that vidfit reads, `model.onnx`. Its name is fixed, so nothing in a repository can point to
another file. The checksum inside it tells a changed file. A revision (`hf://owner/name@COMMIT`) keeps what you get.
"""

import re
from pathlib import Path
from types import ModuleType
from typing import Final

from vidfit.errors import ModelFileError, VidfitError, reason
from vidfit.export.metadata import PackedInfo
from vidfit.export.packed_file import read_packed_info
from vidfit.hub.model_card import write_card
from vidfit.videos.extractor import parse_extractor

SCHEME: Final = "hf://"
MODEL: Final = "model.onnx"
_NAME: Final = r"[A-Za-z0-9_][\w.-]*/[A-Za-z0-9_][\w.-]*"


def push(model: Path, name: str, private: bool = False) -> str:
    """Push a packed file and its model card in one commit. The repository is created if it is missing.

    Arguments:
        model: the packed file. Metrics come from `summary.json` of its run, if it still lies there.
        name: `owner/name`.
        private: hide a new repository.

    Returns:
        The address for `vidfit.load`.

    Raises:
        ModelFileError: the file is damaged, no packed file, or needs a backbone that only this machine has.
        VidfitError: the name is wrong, huggingface_hub is missing, or the Hub refuses.
    """
    if not re.fullmatch(_NAME, name, re.ASCII):
        raise VidfitError(f"{name}: is no name of a repository; give owner/name")
    info = _checked(model)
    hub = _huggingface_hub()
    content = {"README.md": write_card(model, info, name).encode(), MODEL: str(model)}
    api = hub.HfApi()
    try:
        api.create_repo(name, private=private or None, exist_ok=True)
        operations = [hub.CommitOperationAdd(path, source) for path, source in content.items()]
        api.create_commit(name, operations, commit_message=f"vidfit: {model.name}, checksum {info.crc32c}")
    except Exception as error:  # those of the Hub and of its HTTP client share no base class
        raise VidfitError(f"{name}: cannot be pushed ({reason(error)}); log in with `hf auth login`?") from error
    return SCHEME + name


def local_file(model: str | Path) -> Path:
    """The file of a model: its path, or what `fetch` gives for an address `hf://...`."""
    return fetch(model) if isinstance(model, str) and model.startswith(SCHEME) else Path(model)


def fetch(address: str) -> Path:
    """The packed file of an address, `hf://owner/name` or `hf://owner/name@REVISION`. It is kept in the Hub's cache.

    Raises:
        VidfitError: the address is wrong, huggingface_hub is missing, or the Hub does not give the file.
        ModelFileError: the file was changed, is no packed file, or names a file of the machine that made it.
    """
    match = re.fullmatch(rf"{SCHEME}({_NAME})(?:@([\w.-]+))?", address, re.ASCII)
    if not match:
        raise VidfitError(f"{address}: is no address; give hf://owner/name or hf://owner/name@REVISION")
    hub = _huggingface_hub()
    try:
        path = Path(hub.hf_hub_download(match[1], MODEL, revision=match[2]))
    except Exception as error:  # as above
        raise VidfitError(f"{address}: cannot be fetched ({reason(error)})") from error
    _checked(path)
    return path


def _checked(path: Path) -> PackedInfo:
    info = read_packed_info(path)
    for backbone in (
        parse_extractor(info.extractor, path).settings.backbones if info.extractor and not info.carried else ()
    ):
        if backbone.file:
            raise ModelFileError(
                f"{path}: its features come from a model of your own, {backbone.name}, so only you can make them; "
                "train on features of a model that vidfit knows by name"
            )
    return info


def _huggingface_hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise VidfitError("the Hub needs huggingface_hub; install it with: pip install 'vidfit[hub]'") from error
    return huggingface_hub
