"""Model families, heads and the classifier that joins them."""

from vidfit.models.classifier import FAMILY_MODULES, ClassifierConfig, FamilyConfig, VideoClassifier
from vidfit.models.heads import HeadConfig
from vidfit.models.sampling import sample_frames

__all__ = ["FAMILY_MODULES", "ClassifierConfig", "FamilyConfig", "HeadConfig", "VideoClassifier", "sample_frames"]
