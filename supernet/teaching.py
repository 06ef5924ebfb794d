"""What a candidate cut from something trained learns from it: its softened answers, computed once.

    L = τ CE(z_s, y) + T² KL(softmax(z_t / T) ‖ softmax(z_s / T))        T = 3, τ = 0.1 (cut from an adapter)

z_t `(rows, classes)`: the teacher's logits on the training rows (Hinton, Vinyals and Dean, Distilling the knowledge in
a neural network, 2015). The teacher stands still, rows come again each epoch and candidates meet the same ones, so its
forwards are one pass over the rows that the training will meet, not one a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from archrank.supernet import data as datasets
from archrank.supernet.distillation import Answer, Distillation
from archrank.supernet.tasks import TEACHER, inputs_of
from archrank.supernet.training import LossFunction

__all__ = ["RECIPE", "answers", "taught_loss"]

RECIPE = Distillation(temperature=3.0, hidden=0.0, task=0.1)
ROWS = 256


def answers(net: nn.Module, data: datasets.TaskData, rows: NDArray[np.int64]) -> Tensor:
    """`(training rows, classes)` logits of `net` in fp32, zero for a row that `rows` does not name."""
    device = next(net.parameters()).device
    found: Tensor | None = None
    net.eval()
    with torch.no_grad():
        for part in np.array_split(rows, -(-len(rows) // ROWS)):
            batch = {k: v.to(device) for k, v in data.batch("train", part).items()}
            told: Any = net(**inputs_of(batch))
            if found is None:
                found = torch.zeros(data.size("train"), told.logits.shape[-1], device=device)
            found[torch.from_numpy(part).to(device)] = told.logits.float()
    if found is None:
        raise ValueError("answers to no rows")
    return found


def taught_loss(loss: LossFunction, recipe: Distillation = RECIPE) -> LossFunction:
    """L of batches that carry answers, `loss` being CE; members stacked below each other count alike. recipe: T and τ;
    there are no layers' outputs to learn here, whatever its `hidden`.
    """

    def both(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        return recipe.loss(Answer(logits), Answer(batch[TEACHER]), loss(logits, batch))

    return both
