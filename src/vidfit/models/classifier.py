"""One member of an ensemble: from stored frames to probabilities, by a family and a head.

A frame classifier decides itself and has no head.

Shapes: B videos, T frames, D features, C classes.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from vidfit.features.spec import FeatureSpec
from vidfit.models.attention import AttentionConfig, AttentionPooling
from vidfit.models.dbof import DBoF, DBoFConfig
from vidfit.models.encoder import EncoderConfig, FrameEncoder
from vidfit.models.frame_classifier import FrameClassifier, FrameClassifierConfig
from vidfit.models.heads import Head, HeadConfig
from vidfit.models.mean import MeanConfig, MeanPooling
from vidfit.models.netfv import NetFV, NetFVConfig
from vidfit.models.netvlad import NetVLAD, NetVLADConfig
from vidfit.models.nextvlad import NeXtVLAD, NeXtVLADConfig
from vidfit.models.preprocessing import cut_frames, frame_mask, prepare_frames
from vidfit.models.recurrent import Layer, Recurrent, RecurrentConfig

FamilyConfig = Annotated[
    MeanConfig
    | NetVLADConfig
    | NetFVConfig
    | DBoFConfig
    | RecurrentConfig
    | AttentionConfig
    | NeXtVLADConfig
    | FrameClassifierConfig,
    Field(discriminator="type"),
]

FAMILY_MODULES: dict[str, Any] = {
    "mean": MeanPooling,
    "netvlad": NetVLAD,
    "netfv": NetFV,
    "dbof": DBoF,
    "lstm": Recurrent,
    "gru": Recurrent,
    "attention": AttentionPooling,
    "nextvlad": NeXtVLAD,
}


class ClassifierConfig(BaseModel):
    """A family and a head, as in a recipe; `type` selects each. A frame classifier has no head."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: EncoderConfig | None = None
    family: FamilyConfig
    head: HeadConfig | None = None

    @model_validator(mode="after")
    def _something_decides(self) -> "ClassifierConfig":
        decides = isinstance(self.family, FrameClassifierConfig)
        if decides and self.head:
            raise ValueError("a frame-classifier decides itself; remove head")
        if not decides and not self.head:
            raise ValueError("missing key head; only a frame-classifier does without")
        return self

    @property
    def has_frame_probabilities(self) -> bool:
        """Whether it decides about each frame."""
        return self.head is None


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
        self.classes = classes
        encoder = config.encoder
        self.encoder = FrameEncoder(encoder.sizes, encoder.dropout, spec, encoder.cells) if encoder else None
        seen = self.encoder.spec if self.encoder else spec
        if isinstance(config.family, FrameClassifierConfig):
            self.family, self.head = FrameClassifier(config.family, seen, classes), None
        else:
            self.family = FAMILY_MODULES[config.family.type](config.family, seen)
            assert config.head is not None
            self.head = Head(config.head, self.family.output_size, classes)

    def forward(
        self,
        frames: Mapping[str, Tensor],
        num_frames: Tensor | None = None,
        frame_weights: Tensor | None = None,
        parts_N3: Tensor | None = None,
    ) -> Tensor:
        """Probabilities of every class.

        Arguments:
            frames: modality name -> uint8 `[B, T, D_m]` (float32 at video level).
            num_frames: int64 `[B]`, at least 1 each; slots from there on are ignored. None means all slots hold frames.
            frame_weights: float32 `[B, T]`, how many times each frame counts; None means once each. Give this or
                `num_frames`, not both.
            parts_N3: int64, parts of videos to decide about instead: place in the batch, first frame and the one after
                the last. The encoder still sees whole videos.

        Returns:
            float32 `[B, C]`, or `[N, C]` of parts.
        """
        family_inputs = self._prepared(frames, num_frames, frame_weights)
        if parts_N3 is not None:
            family_inputs = cut_frames(family_inputs[0], parts_N3)
        return self._decided(*family_inputs)[0]

    def with_frames(
        self, frames: Mapping[str, Tensor], num_frames: Tensor | None = None, frame_weights: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """As `forward`, and the probabilities of each frame, float32 `[B, T, C]`; None if the family has none.

        Probabilities of slots that hold no frame are undefined; ignore them.
        """
        return self._decided(*self._prepared(frames, num_frames, frame_weights))

    def _decided(self, frames_BTD: Tensor, weights_BT: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.head is None:
            return self.family(frames_BTD, weights_BT)
        return self.head(self.family(frames_BTD, weights_BT)), None

    def pooled(self, frames: Mapping[str, Tensor], num_frames: Tensor) -> Tensor:
        """The head's input, float32 `[B, H]`. A frame classifier has none."""
        assert self.head is not None
        return self.family(*self._prepared(frames, num_frames, None))

    def _prepared(
        self, frames: Mapping[str, Tensor], num_frames: Tensor | None, frame_weights: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The family's input: float32 `[B, T, D]`, and how often each frame counts."""
        max_frames = frames[self.spec.modalities[0].name].shape[1]
        mask_BT = None if num_frames is None else frame_mask(num_frames, max_frames)
        frames_BTD = prepare_frames(frames, self.spec, mask_BT)
        weights_BT = frame_weights if mask_BT is None else mask_BT.float()
        if self.encoder is not None:
            frames_BTD = self.encoder(frames_BTD, weights_BT)
        return frames_BTD, weights_BT

    @property
    def recurrent(self) -> bool:
        """Whether the order of frames matters."""
        return any(isinstance(module, Layer) for module in self.modules())

    @property
    def decides(self) -> Head | FrameClassifier:
        """The part that makes probabilities."""
        return self.family if self.head is None else self.head

    def set_prior(self, frequencies_C: Tensor) -> None:
        """Start an untrained classifier at the labels' frequencies; see `Head.set_prior`."""
        self.decides.set_prior(frequencies_C)

    def penalised(self) -> dict[Tensor, float]:
        """Weights with an L2 penalty and its l2. The optimiser adds the gradient, `l2 * W`."""
        return self.decides.penalised()
