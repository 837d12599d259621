"""Model families, heads and the classifier that joins them."""

from vidfit.models.classifier import FAMILIES, ClassifierConfig, FamilyConfig, FrameClassifier
from vidfit.models.heads import HeadConfig
from vidfit.models.sampling import sample_frames

__all__ = ["FAMILIES", "ClassifierConfig", "FamilyConfig", "FrameClassifier", "HeadConfig", "sample_frames"]
