"""Reference vectors as our modules: config, feature spec and weights of a model file, sizes taken from its arrays.

`MODEL_FILES` names the files; `Reference.state(prefix)` turns the original's variables under `var/`, `step1/`, ... or
`grad/` into a state dict, so outputs, gradients and steps are compared in our own layout.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidfit.features.spec import FeatureSpec, Modality
from vidfit.models.classifier import ClassifierConfig, FrameClassifier

MODEL_FILES = (
    "netvlad",
    "netvlad_distill",
    "netvlad_light",
    "netfv",
    "gateddbof",
    "softdbof",
    "dbof_logistic",
    "lstm_bidirect_logistic",
    "gru_bidirect_logistic",
    "gru_bidirect_gated_logistic",
    "frame_logistic",
)
"""All model files but the GRU's come out equal; the GRU's form differs from the original's (see recurrent.py)."""
GRU_FILES = tuple(name for name in MODEL_FILES if name.startswith("gru"))

_NORM = {"beta": "bias", "gamma": "weight", "moving_mean": "running_mean", "moving_variance": "running_var"}
_SCOPES = {"netvlad": "VLAD", "netfv": "FV", "dbof": "DBOF"}
_POOL = {
    "cluster_weights": "assignment.weights",
    "cluster_weights2": "centres",
    "covar_weights": "deviations",
    "dim_red": "gate.reduction",
    "cluster_weights_2": "gate.weights",
    "cluster_bn": "assignment.norm",
    "cluster_bn_2": "gate.norm",
}
_REST = {
    "input_bn": "family.input_norm",
    "hidden1_weights": "family.hidden.weights",
    "hidden1_biases": "family.hidden.biases",
    "hidden1_bn": "family.hidden.norm",
    "gating_weights_2": "family.gating.weights",
    "gating_biases": "family.gating.biases",
    "gating_bn": "family.gating.norm",
    "fully_connected/weights": "head.classifier.weights",
    "fully_connected/biases": "head.classifier.biases",
    "gates/weights": "head.classifier.gate_weights",
    "experts/weights": "head.classifier.expert_weights",
    "experts/biases": "head.classifier.expert_biases",
    "gating_prob_weights": "head.label_gating.weights",
    "gating_prob_bn": "head.label_gating.norm",
}
_LAYERS = {
    "bidirectional_rnn/fw": "family.bottom.ahead",
    "bidirectional_rnn/bw": "family.bottom.back",
    "rnn": "family.top.ahead",
}


@dataclass(frozen=True)
class Reference:
    """One model file."""

    name: str
    arrays: dict[str, np.ndarray]

    @classmethod
    def read(cls, folder: Path, name: str) -> "Reference":
        with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
            return cls(name, {key: file[key] for key in file.files})

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    @property
    def meta(self) -> dict:
        return json.loads(str(self.arrays["meta"]))

    @property
    def _pools(self) -> list[str]:
        """Scopes of the modalities' pools, in the order of the modalities; one nameless one in the starter's DBoF."""
        found = {name.split("/")[1] for name in self.meta["all"] if "_" in name and name.split("/")[1].isidentifier()}
        suffixes = tuple(f"_{scope}" for scope in _SCOPES.values())
        scopes = sorted((scope for scope in found if scope.endswith(suffixes)), reverse=True)
        assert scopes in ([], [f"{kind}{suffix}" for suffix in suffixes for kind in ("video", "audio") if suffix])  or scopes
        return scopes
