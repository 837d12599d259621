"""Modules of packing as ONNX models, without the exporter's warnings."""

import warnings
from typing import Any

import onnx
import torch
from torch import nn


def exported(module: nn.Module, inputs: tuple[torch.Tensor, ...], names: list[str], dynamic: tuple) -> onnx.ModelProto:
    """The model before surgery, opset 23."""
    options: dict[str, Any] = {"dynamo": True, "opset_version": 23, "verbose": False, "optimize": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, inputs, input_names=names, dynamic_shapes=dynamic, **options)
    assert program is not None
    return program.model_proto
