"""ONNX of models of transformers: logits of the inputs by name."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archrank.supernet.export import ExportRefused
from archrank.supernet.onnx_export import write_onnx

__all__ = ["write_model_onnx"]


class _LogitsOnly(nn.Module):
    """A model whose output is the tensor of logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """`(rows, classes)`."""
        logits: Tensor = self.model(**inputs).logits
        return logits


def write_model_onnx(model: nn.Module, path: Path, inputs: Mapping[str, Tensor] | None = None) -> Path:
    """One ONNX file with the logits as output, batch size (and number of tokens) free, compared in onnxruntime.

    inputs: example inputs by name (default: made from the configuration, two rows). Errors: those of
    `onnx_export.write_onnx`.
    """
    example = dict(inputs) if inputs is not None else _example(model)
    free = {name: (0, 1) if value.dim() == 2 else (0,) for name, value in example.items()}
    wrapped = _LogitsOnly(copy.deepcopy(model)).eval()
    probes = [example, {name: _larger(value, free[name]) for name, value in example.items()}]
    write_onnx(wrapped, path, probes, free, lambda name: name[len("model.") :], mapping=True)
    return path


def _larger(value: Tensor, axes: tuple[int, ...]) -> Tensor:
    """The same with a row and, where it may vary, a token more."""
    for axis in axes:
        value = torch.cat([value, value.narrow(axis, 0, 1)], axis)
    return value


def _example(model: nn.Module) -> dict[str, Tensor]:
    """Two rows of what the model's main input is, from its configuration."""
    config: Any = getattr(model, "config", None)
    device = next(model.parameters()).device
    if getattr(model, "main_input_name", None) == "pixel_values":
        size = config.image_size if isinstance(config.image_size, (list, tuple)) else (config.image_size,) * 2
        return {"pixel_values": torch.zeros(2, config.num_channels, *size, device=device)}
    if getattr(model, "main_input_name", None) == "input_ids":
        ids = torch.arange(2, 18, device=device).reshape(2, 8) % config.vocab_size
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    raise ExportRefused(f"{type(model).__name__}: give export_onnx(path, inputs={{name: tensor}}) example inputs")
