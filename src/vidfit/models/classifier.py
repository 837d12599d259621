"""One member of an ensemble: from stored frames to probabilities, by a family and a head.

Shapes: B videos, T frames, D features, C classes.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vidfit.features.spec import FeatureSpec
from vidfit.models.dbof import DBoF, DBoFConfig
from vidfit.models.encoder import EncoderConfig, FrameEncoder
from vidfit.models.heads import Head, HeadConfig
from vidfit.models.mean import MeanConfig, MeanPooling
from vidfit.models.netfv import NetFV, NetFVConfig
from vidfit.models.netvlad import NetVLAD, NetVLADConfig
from vidfit.models.preprocessing import frame_mask, prepare_frames
from vidfit.models.recurrent import Recurrent, RecurrentConfig

FamilyConfig = Annotated[
    MeanConfig | NetVLADConfig | NetFVConfig | DBoFConfig | RecurrentConfig, Field(discriminator="type")
]

FAMILIES: dict[str, Any] = {
    "mean": MeanPooling,
    "netvlad": NetVLAD,
    "netfv": NetFV,
    "dbof": DBoF,
    "lstm": Recurrent,
    "gru": Recurrent,
}


class ClassifierConfig(BaseModel):
    """A family and a head, as in a recipe; `type` selects each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: EncoderConfig | None = None
    family: FamilyConfig
    head: HeadConfig


class VideoClassifier(nn.Module):
    """Stored frames to class probabilities.

    Arguments:
        config: family and head.
        spec: modalities of the shards.
        classes: C.

    Raises:
        RecipeError: the family's options name other modalities than the spec.
    """

    def __init__(self, config: ClassifierConfig, spec: FeatureSpec, classes: int) -> None:
        super().__init__()
        self.spec = spec
        # A packed graph whose frames stay bytes replaces it (`export/frames.py`).
        self.prepare: Callable[..., Any] = prepare_frames
        self.classes = classes
        self.encoder = FrameEncoder(config.encoder, spec) if config.encoder else None
        self.family = FAMILIES[config.family.type](config.family, self.encoder.spec if self.encoder else spec)
        self.head = Head(config.head, self.family.output_size, classes)

    def forward(
        self, frames: Mapping[str, Tensor], num_frames: Tensor | None = None, frame_weights: Tensor | None = None
    ) -> Tensor:
        """Probabilities of every class.

        Arguments:
            frames: modality name -> uint8 `[B, T, D_m]` (float32 at video level).
            num_frames: int64 `[B]`, at least 1 each; slots from there on are ignored. None means all slots hold frames.
            frame_weights: float32 `[B, T]`, how many times each frame counts; None means once each. Give this or
                `num_frames`, not both.

        Returns:
            float32 `[B, C]`.
        """
        max_frames = frames[self.spec.modalities[0].name].shape[1]
        mask_BT = None if num_frames is None else frame_mask(num_frames, max_frames)
        frames_BTD = self.prepare(frames, self.spec, mask_BT)
        weights_BT = frame_weights if mask_BT is None else mask_BT.float()
        if self.encoder is not None:
            frames_BTD = self.encoder(frames_BTD, weights_BT)
        return self.head(self.family(frames_BTD, weights_BT))

    def penalised(self) -> dict[Tensor, float]:
        """Weights with an L2 penalty and its l2. The optimiser adds the gradient, `l2 * W`."""
        return self.head.penalised()
