"""Fewer bits a weight."""

from typing import Literal

# Where the 256 levels of a quantised tensor lie. Here, so that the command line can name them without loading PyTorch.
Codebook = Literal["uniform", "quantile", "kmeans"]
