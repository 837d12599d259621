"""Model families, heads and the classifier that joins them."""

from vidfit.models.classifier import FAMILIES, ClassifierConfig, FamilyConfig, FrameClassifier
from vidfit.models.frames import sample_frames
from vidfit.models.heads import HeadConfig

__all__ = ["FAMILIES", "ClassifierConfig", "FamilyConfig", "FrameClassifier", "HeadConfig", "sample_frames"]
