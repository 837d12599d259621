"""One member of an ensemble: bytes of frames to probabilities, by a family and a head.

Shapes: B videos, T frames, D features, C classes.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from vidfit.features.spec import FeatureSpec
from vidfit.models.dbof import DBoF, DBoFConfig
from vidfit.models.encoder import EncoderConfig, FrameEncoder
from vidfit.models.frames import frame_mask, prepare_frames
from vidfit.models.heads import Head, HeadConfig
from vidfit.models.mean import MeanConfig, MeanPooling
from vidfit.models.netfv import NetFV, NetFVConfig
from vidfit.models.netvlad import NetVLAD, NetVLADConfig
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
    """A family and a head, as a recipe gives them; `type` says which."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: EncoderConfig | None = None
    family: FamilyConfig
    head: HeadConfig


class FrameClassifier(nn.Module):
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
        # Replaced in a packed graph whose frames stay bytes (`export/frames.py`).
        self.prepare: Callable[..., Any] = prepare_frames
        self.classes = classes
        self.encoder = FrameEncoder(config.encoder, spec) if config.encoder else None
        self.family = FAMILIES[config.family.type](config.family, self.encoder.spec if self.encoder else spec)
        self.head = Head(config.head, self.family.output_size, classes)

    def forward(
        self, frames: Mapping[str, Tensor], num_frames: Tensor | None = None, counts: Tensor | None = None
    ) -> Tensor:
        """Probabilities of every class.

        Arguments:
            frames: modality name -> uint8 `[B, T, D_m]` (float32 at video level).
                Slots from `num_frames` on are ignored.
            num_frames: int64 `[B]`, at least 1 each; None where every slot holds a frame.
            counts: float32 `[B, T]`, how often each slot's frame counts; None where each counts once.
                Not beside `num_frames`.

        Returns:
            float32 `[B, C]`.
        """
        max_frames = frames[self.spec.modalities[0].name].shape[1]
        mask_BT = None if num_frames is None else frame_mask(num_frames, max_frames)
        frames_BTD = self.prepare(frames, self.spec, mask_BT)
        counts_BT = counts if mask_BT is None else mask_BT.float()
        if self.encoder is not None:
            frames_BTD = self.encoder(frames_BTD, counts_BT)
        return self.head(self.family(frames_BTD, counts_BT))

    def penalised(self) -> dict[Tensor, float]:
        """The head's weights with an L2 penalty, whose gradient `l2 * W` the optimiser adds, and their l2."""
        return self.head.penalised()
