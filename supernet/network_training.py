"""Training and scoring a network of its own weights: one loop for candidates and finalists of architecture spaces."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from archrank.grammar import Architecture
from archrank.supernet.data import TaskData, order
from archrank.supernet.training import TrainPlan, descend

__all__ = ["fit", "score"]

EVALUATION_ROWS = 256
EVALUATION_BYTES = 64 * 2**20  # of the values that are held at once
Tick = Callable[[int, float], None]


def fit(model: nn.Module, data: TaskData, plan: TrainPlan, batch_size: int, tick: Tick | None = None) -> None:
    """Trains all parameters in place by AdamW on cross-entropy; the rows and the dropout of step t are functions of
    (plan.seed, t) alone.

    Raises NonFiniteLoss; whatever `tick(steps done, loss)` raises passes through.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        return
    device = trained[0].device

    def gradient(step: int) -> Tensor:
        batch = data.batch("train", order(plan.seed, step, batch_size, data.size("train")))
        loss = cross_entropy(model(batch["pixel_values"].to(device)), batch["labels"].to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    model.train()
    descend(trained, plan, gradient, tick=tick)
    model.eval()


def score(model: nn.Module, data: TaskData, split: str, rows: int | None = None) -> dict[str, float]:
    """Mean cross-entropy and accuracy over a split, or over `rows` of it that are the same for every candidate."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    architecture = getattr(model, "architecture", None)
    held = 4 * architecture.live_elements if isinstance(architecture, Architecture) else 1
    at_once = max(1, min(EVALUATION_ROWS, EVALUATION_BYTES // max(1, held)))
    index = np.arange(data.size(split))
    if rows is not None and len(index) > rows:
        index = np.sort(np.random.default_rng(0).permutation(len(index))[:rows])
    loss = correct = 0.0
    model.eval()
    with torch.no_grad():
        for low in range(0, len(index), at_once):
            batch = data.batch(split, index[low : low + at_once])
            logits, labels = model(batch["pixel_values"].to(device)), batch["labels"].to(device)
            loss += float(cross_entropy(logits.double(), labels, reduction="sum"))
            correct += float((logits.argmax(-1) == labels).sum())
    return {"loss": loss / len(index), "accuracy": correct / len(index)}
