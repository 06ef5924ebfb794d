"""Training and scoring a network of its own weights: one loop for candidates and finalists of architecture spaces."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from archrank.grammar import Architecture
from archrank.supernet.checkpoint import Checkpoint
from archrank.supernet.data import TaskData, order
from archrank.supernet.networks import Network
from archrank.supernet.shared_trunk import diversity, members_loss
from archrank.supernet.training import TrainPlan, descend

__all__ = ["fit", "score"]

EVALUATION_ROWS = 256
EVALUATION_BYTES = 64 * 2**20  # of the values that are held at once
Tick = Callable[[int, float], None]


def fit(
    model: nn.Module,
    data: TaskData,
    plan: TrainPlan,
    batch_size: int,
    tick: Tick | None = None,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Trains all parameters in place by AdamW on cross-entropy, of an ensemble the sum over its members; the rows and
    the dropout of step t are functions of (plan.seed, t) alone.

    checkpoint: where it goes on from and what it keeps now and then, running statistics included. Raises NonFiniteLoss;
    whatever `tick(steps done, loss)` raises passes through.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        return
    device = trained[0].device

    def gradient(step: int) -> Tensor:
        batch = data.batch("train", order(plan.seed, step, batch_size, data.size("train")))
        loss = members_loss(_member_logits(model, batch["pixel_values"].to(device)), batch["labels"].to(device))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    model.train()
    statistics = {f"buffer {name}": value for name, value in model.named_buffers()}
    descend(trained, plan, gradient, extra=statistics, checkpoint=checkpoint, tick=tick)
    model.eval()


def score(model: nn.Module, data: TaskData, split: str, rows: int | None = None) -> dict[str, float]:
    """Mean cross-entropy and accuracy over a split, or over `rows` of it that are the same for every candidate; of an
    ensemble also its diversity (shared_trunk.py), in nats.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    architecture = getattr(model, "architecture", None)
    held = 4 * architecture.live_elements if isinstance(architecture, Architecture) else 1
    at_once = max(1, min(EVALUATION_ROWS, EVALUATION_BYTES // max(1, held)))
    index = np.arange(data.size(split))
    if rows is not None and len(index) > rows:
        index = np.sort(np.random.default_rng(0).permutation(len(index))[:rows])
    loss = correct = unlike = 0.0
    members = 1
    model.eval()
    with torch.no_grad():
        for low in range(0, len(index), at_once):
            batch = data.batch(split, index[low : low + at_once])
            each, labels = _member_logits(model, batch["pixel_values"].to(device)), batch["labels"].to(device)
            members, logits = len(each), each[0] if len(each) == 1 else torch.stack(each).mean(0)
            unlike += float(diversity(each)) * len(labels)
            loss += float(cross_entropy(logits.double(), labels, reduction="sum"))
            correct += float((logits.argmax(-1) == labels).sum())
    told = {"loss": loss / len(index), "accuracy": correct / len(index)}
    return told if members == 1 else {**told, "diversity": unlike / len(index)}


def _member_logits(model: nn.Module, x: Tensor) -> list[Tensor]:
    return model.member_logits(x) if isinstance(model, Network) else [model(x)]
