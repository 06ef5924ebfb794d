"""Training and scoring a network of its own weights: one loop for candidates and finalists of architecture spaces."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from archrank.grammar import Architecture
from archrank.supernet.checkpoint import Checkpoint
from archrank.supernet.data import TaskData, order
from archrank.supernet.policies.base import counter_uniform
from archrank.supernet.training import LOOK_EVERY, NonFiniteLoss, TrainPlan

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
    """Trains all parameters in place by AdamW on cross-entropy; the rows and the dropout of step t are functions of
    (plan.seed, t) alone.

    checkpoint: where it goes on from and what it keeps now and then, running statistics included. Raises NonFiniteLoss;
    whatever `tick(steps done, loss)` raises passes through.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        return
    device = trained[0].device
    optimizer = torch.optim.AdamW(trained, lr=plan.lr, weight_decay=plan.weight_decay)
    kept = [*trained, *model.buffers()]
    first, before = checkpoint.load(kept, optimizer) if checkpoint else (0, 0.0)
    start = saved = time.monotonic()
    model.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for step in range(first, plan.steps):
            torch.manual_seed(int(counter_uniform(plan.seed, step, 7) * 2**53))
            for group in optimizer.param_groups:
                group["lr"] = plan.rate(step)
            batch = data.batch("train", order(plan.seed, step, batch_size, data.size("train")))
            loss = cross_entropy(model(batch["pixel_values"].to(device)), batch["labels"].to(device))
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(trained, plan.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done = step + 1
            if done % LOOK_EVERY == 0 or done == plan.steps:
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise NonFiniteLoss(done, value)
                if tick:
                    tick(done, value)
            now = time.monotonic()
            if checkpoint and now - saved >= checkpoint.every_seconds and done < plan.steps:
                checkpoint.save(done, kept, optimizer, before + now - start)
                saved = now
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
