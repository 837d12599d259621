"""Reference vectors as our modules: config, feature spec and weights of a model file, all read off its arrays.

`Reference.state(prefix)` turns the original's variables (under `var/`, `step1/`, `step3/` or `grad/`) into a state
dict, so that outputs, gradients and steps are compared in our own layout.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.conftest import GOLDEN
from vidfit.features.spec import FeatureSpec, Modality
from vidfit.models.classifier import ClassifierConfig, VideoClassifier


def penalty(module: VideoClassifier) -> Tensor:
    """What the original adds to the loss, a scalar."""
    return torch.stack([l2 * 0.5 * weights.square().sum() for weights, l2 in module.penalised().items()]).sum()


_GRU = "GRUbidirect"
_MODELS = {
    "NetVLADModelLF",
    "NetFVModelLF",
    "GatedDbofModelLF",
    "SoftDbofModelLF",
    "DbofModel",
    "Lstmbidirect",
    "FrameLevelLogisticModel",
    _GRU,
}


def _model(path: Path) -> str | None:
    """The model whose numbers a file holds; None where it holds others."""
    with np.load(path, allow_pickle=False) as file:
        return json.loads(str(file["meta"])).get("model") if "meta" in file else None


_FOUND = {path.stem: _model(path) for path in sorted(GOLDEN.glob("*.npz"))}

GRU_FILES = [name for name, model in _FOUND.items() if model == _GRU]
"""Our GRU has another form than the original's (see recurrent.py), so these are compared on their own."""

EQUAL_FILES = [name for name, model in _FOUND.items() if model in _MODELS - {_GRU}]
"""Files whose every number must come out equal."""

DEFAULT_FILES = {
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
}
"""What the folder holds that the tests take by themselves."""

_BATCH_NORM = {"beta": "bias", "gamma": "weight", "moving_mean": "running_mean", "moving_variance": "running_var"}
_POOL = {
    "cluster_weights": "assignment.weights",
    "cluster_bn": "assignment.norm",
    "cluster_weights2": "centres",
    "covar_weights": "deviations",
    "dim_red": "gate.reduction",
    "cluster_weights_2": "gate.weights",
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
_DIRECTIONS = {
    "bidirectional_rnn/fw": "family.bottom.ahead",
    "bidirectional_rnn/bw": "family.bottom.back",
    "rnn": "family.top.ahead",
}


@dataclass(frozen=True)
class Reference:
    """One model file."""

    arrays: dict[str, np.ndarray]

    @classmethod
    def read(cls, path: Path) -> "Reference":
        with np.load(path, allow_pickle=False) as file:
            return cls({key: file[key] for key in file.files})

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    @property
    def meta(self) -> dict[str, Any]:
        return json.loads(str(self.arrays["meta"]))

    @property
    def spec(self) -> FeatureSpec:
        """One modality a pool; one alone where nothing tells them apart."""
        sizes = [self[f"var/tower/{scope}cluster_weights"].shape[0] for scope in self._scopes()]
        total = self["in/model_input"].shape[2]
        assert sum(sizes) in (0, total)
        return FeatureSpec(
            modalities=tuple(Modality(name=f"m{index}", size=size) for index, size in enumerate(sizes or [total]))
        )

    def frames(self) -> tuple[dict[str, Tensor], Tensor]:
        """What `VideoClassifier` takes: bytes by modality, lengths."""
        codes = torch.from_numpy(self["in/features_uint8"])
        frames = {name: codes[..., columns] for name, columns in self.spec.slices().items()}
        return frames, torch.from_numpy(self["in/num_frames"]).long()

    def classifier(self) -> VideoClassifier:
        """The module with the file's weights, in inference mode."""
        config = ClassifierConfig.model_validate({"family": self._family(), "head": self._head()})
        module = VideoClassifier(config, self.spec, self["out/predictions"].shape[1])
        missing, unexpected = module.load_state_dict(self.state("var"), strict=False)
        assert not unexpected
        assert all(name.endswith("num_batches_tracked") for name in missing)
        return module.eval()

    def state(self, prefix: str) -> dict[str, Tensor]:
        """The variables (or their gradients) under a prefix, in our names and layout."""
        state: dict[str, np.ndarray] = {}
        cells: dict[str, dict[str, np.ndarray]] = {}
        for name in self.meta["all"]:
            if f"{prefix}/{name}" in self:
                value, short = self[f"{prefix}/{name}"], name.removeprefix("tower/")
                direction, _, part = short.partition("/multi_rnn_cell/cell_0/")
                if part:
                    cells.setdefault(_DIRECTIONS[direction], {})[part.partition("/")[2]] = value
                else:
                    target = self._target(short)
                    if target.endswith("centres"):
                        value = value[0]
                    if target == "family.hidden.weights":
                        value = self.by_cluster(value)
                    state[target] = value
        for target, parts in cells.items():
            weights, biases = _lstm(parts, prefix) if "kernel" in parts else _gru(parts)
            state[f"{target}.weights"], state[f"{target}.biases"] = weights, biases
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state.items()}

    def by_cluster(self, rows: np.ndarray) -> np.ndarray:
        """Rows in the order of our descriptors; the original's NetVLAD and NetFV have clusters vary fastest."""
        orders = {"NetVLADModelLF": 1, "NetFVModelLF": 2}.get(self.meta["model"])
        if orders is None:
            return rows
        shapes = [self[f"var/tower/{scope}cluster_weights"].shape for scope in self._scopes() for _ in range(orders)]
        ends = np.cumsum([size * clusters for size, clusters in shapes])[:-1]
        blocks = [
            block.reshape(size, clusters, -1).swapaxes(0, 1).reshape(size * clusters, -1)
            for block, (size, clusters) in zip(np.split(rows, ends), shapes, strict=True)
        ]
        return np.concatenate(blocks)

    def _target(self, name: str) -> str:
        stem, _, statistic = name.rpartition("/")
        if statistic in _BATCH_NORM:
            return f"{self._target(stem)}.{_BATCH_NORM[statistic]}"
        for index, scope in enumerate(self._scopes()):
            if name.startswith(scope) and name.removeprefix(scope) in _POOL:
                return f"family.pools.{index}.{_POOL[name.removeprefix(scope)]}"
        return _REST[name]

    def _scopes(self) -> list[str]:
        """Prefixes of the pools' variables, in the order of the modalities."""
        names = [name.removeprefix("tower/") for name in self.meta["all"]]
        return [name.removesuffix("cluster_weights") for name in names if name.endswith("cluster_weights")]

    def _family(self) -> dict[str, Any]:
        model, scopes, spec = self.meta["model"], self._scopes(), self.spec
        gating = "var/tower/gating_weights_2" in self
        if not scopes:
            if model == "FrameLevelLogisticModel":
                return {"type": "mean"}
            cells = self["mid/head_input"].shape[1]
            return {"type": {"Lstmbidirect": "lstm", "GRUbidirect": "gru"}[model], "cells": cells, "gating": gating}
        names = [modality.name for modality in spec.modalities]
        family = {
            "clusters": {
                name: self[f"var/tower/{scope}cluster_weights"].shape[1]
                for name, scope in zip(names, scopes, strict=True)
            },
            "hidden": self["mid/head_input"].shape[1],
            "relu": "var/tower/hidden1_bn/beta" in self,
            "gating": gating,
        }
        if model == "NetVLADModelLF":
            return {"type": "netvlad", "light": f"var/tower/{scopes[0]}cluster_weights2" not in self, **family}
        if model == "NetFVModelLF":
            return {"type": "netfv", **family}
        gated = {name: f"var/tower/{scope}dim_red" in self for name, scope in zip(names, scopes, strict=True)}
        poolings = {name: "max" if model == "DbofModel" else "gated" if gated[name] else "soft" for name in names}
        return {"type": "dbof", "pooling": poolings, **family}

    def _head(self) -> dict[str, Any]:
        if "var/tower/gates/weights" not in self:
            return {"type": "logistic"}
        classes = self["out/predictions"].shape[1]
        return {
            "type": "moe",
            "experts": self["var/tower/experts/weights"].shape[1] // classes,
            "l2": self.meta["flags"]["moe_l2"],
            "label_gating": "var/tower/gating_prob_weights" in self,
        }


def _lstm(parts: dict[str, np.ndarray], prefix: str) -> tuple[np.ndarray, np.ndarray]:
    """Gates i, j, f, o to i, f, j, o; the forget bias of 1 that the original adds at run time is in our bias."""
    bias_input, bias_new, bias_forget, bias_output = np.split(parts["bias"], 4)
    if prefix != "grad":
        bias_forget = bias_forget + np.float32(1)
    weights = np.split(parts["kernel"], 4, axis=1)
    return (
        np.concatenate([weights[gate] for gate in (0, 2, 1, 3)], axis=1),
        np.concatenate([bias_input, bias_forget, bias_new, bias_output]),
    )


def _gru(parts: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.concatenate([parts["gates/kernel"], parts["candidate/kernel"]], axis=1),
        np.concatenate([parts["gates/bias"], parts["candidate/bias"]]),
    )
