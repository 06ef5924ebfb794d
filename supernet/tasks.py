"""What is learnt: how logits become a loss and a count of right answers, and which transformers and PEFT classes go
with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

__all__ = ["IGNORED", "TASKS", "TEACHER", "Task", "TaskError", "Totals", "inputs_of", "load"]

IGNORED = -100
"""A label that no loss counts: padding and prompts."""
TEACHER = "teacher"
"""The key of a batch's answers to learn from, `(rows, classes)` logits."""


@dataclass(frozen=True)
class Totals:
    """Sums over a batch: negative log-likelihood in nats, right answers, answers asked for."""

    loss: float
    correct: float
    count: float


@dataclass(frozen=True)
class Task:
    """One kind of task.

    auto_class: of transformers; peft_task: PEFT's task type; per_token: whether each position of a row has a label of
    its own (the position before it predicts it) or each row has one.
    """

    name: str
    auto_class: str
    peft_task: str | None
    per_token: bool

    def row_losses(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """`(n,)` cross-entropy of each row in nats, in fp32; for text the mean over the row's labelled tokens.

        logits `(n, classes)`, or `(n, tokens, vocabulary)` where per_token; batch["labels"] `(n,)` or `(n, tokens)`.
        """
        if not self.per_token:
            return cross_entropy(logits.float(), batch["labels"], reduction="none")
        losses, labels = self._tokens(logits, batch)
        asked = labels != IGNORED
        return losses.sum(1) / asked.sum(1).clamp(min=1)

    def totals(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Totals:
        """Sums over rows, or over labelled tokens where per_token: their quotients are the mean loss and the accuracy
        of a data set.
        """
        loss, correct, count = self.row_totals(logits, batch).sum(0).tolist()
        return Totals(loss, correct, count)

    def row_totals(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """`(n, 3)`, fp64 on the CPU: the three sums of each row."""
        if not self.per_token:
            labels = batch["labels"]
            right = logits.argmax(-1) == labels
            each = (self.row_losses(logits, batch), right, torch.ones_like(right))
            return torch.stack([t.double() for t in each], 1).cpu()
        losses, labels = self._tokens(logits, batch)
        asked = labels != IGNORED
        right = (logits[:, :-1].argmax(-1) == labels) & asked
        return torch.stack([t.double().sum(1) for t in (losses, right, asked)], 1).cpu()

    def _tokens(self, logits: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        labels = batch["labels"][:, 1:]
        flat = cross_entropy(
            logits[:, :-1].float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return torch.where(labels == IGNORED, 0.0, flat.view(labels.shape)), labels


TASKS = {
    t.name: t
    for t in (
        Task("image-classification", "AutoModelForImageClassification", None, per_token=False),
        Task("text-classification", "AutoModelForSequenceClassification", "SEQ_CLS", per_token=False),
        Task("causal-lm", "AutoModelForCausalLM", "CAUSAL_LM", per_token=True),
    )
}


class TaskError(ValueError):
    """A task that there is not."""


def inputs_of(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What of a batch the model is given: all but what it is to learn."""
    return {key: value for key, value in batch.items() if key not in ("labels", TEACHER)}


def load(name: str) -> Task:
    """A task by its name; TaskError lists the names."""
    if name not in TASKS:
        raise TaskError(f"no task {name!r}; there are: {', '.join(TASKS)}")
    return TASKS[name]
