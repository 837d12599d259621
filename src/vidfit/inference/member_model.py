"""A member of a run in PyTorch: padded frames in, probabilities out, as with a packed file.

It runs on the GPU if there is one. After a fork it works on the CPU only: CUDA cannot be used in a forked process. A
pickle holds the file's path and checksum, as a packed file's does.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import numpy as np
import torch

from vidfit.checksum import read_checksum
from vidfit.errors import ModelFileError
from vidfit.quantization.member import load_member
from vidfit.training.checkpoint import CHECKSUM, member_file


class MemberModel:
    """A loaded member.

    Arguments:
        path: its folder in a run, or its `.safetensors` file.

    Raises:
        ModelFileError: the file is missing, damaged or not a member.
    """

    def __init__(self, path: Path) -> None:
        self.path = member_file(path).resolve()
        self._checksum = read_checksum(self.path, CHECKSUM) if self.path.is_file() else None
        member = load_member(path)
        self.info = member.info
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._module = member.classifier().to(self._device)
        self._process = os.getpid()

    @torch.inference_mode()
    def __call__(self, frames: Mapping[str, np.ndarray], num_frames_B: np.ndarray) -> np.ndarray:
        """Probabilities float32 `[B, C]` of frames `[B, T, D]` by modality, of which int64 `num_frames_B` are real.

        Raises:
            ModelFileError: the model was loaded on a GPU before this process was forked.
        """
        return self._run(frames, num_frames_B)[0].cpu().numpy()

    @property
    def has_frame_probabilities(self) -> bool:
        """Whether it is a frame classifier."""
        return self.info.classifier.has_frame_probabilities

    @torch.inference_mode()
    def frame_probabilities(self, frames: Mapping[str, np.ndarray], num_frames_B: np.ndarray) -> np.ndarray:
        """As a call, but probabilities of each frame, `[B, T, C]`. Only if `has_frame_probabilities`."""
        probabilities_BTC = self._run(frames, num_frames_B)[1]
        assert probabilities_BTC is not None
        return probabilities_BTC.cpu().numpy()

    def _run(
        self, frames: Mapping[str, np.ndarray], num_frames_B: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self._process != os.getpid():
            self._adapt_to_fork()
        # Copies, because PyTorch warns of read-only arrays.
        tensors = {name: torch.tensor(array, device=self._device) for name, array in frames.items()}
        return self._module.with_frames(tensors, torch.tensor(num_frames_B, device=self._device))

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[Path, str | None]]:
        return type(self)._unpickled, (self.path, self._checksum)

    @classmethod
    def _unpickled(cls, path: Path, checksum: str | None) -> Self:
        model = cls(path)
        if model._checksum != checksum:
            raise ModelFileError(f"{path}: has changed since this model was loaded from it; load it again")
        return model

    def _adapt_to_fork(self) -> None:
        if self._device != "cpu":
            raise ModelFileError(
                f"{self.path}: was loaded on the GPU before this process was forked, and CUDA does not survive a fork; "
                "load it in the worker, or start workers with 'spawn'"
            )
        # OpenMP's threads stayed with the parent, and it would wait for them. DataLoader workers do the same.
        torch.set_num_threads(1)
        self._process = os.getpid()
