"""Losses and counts against the models' own and against sums by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from archrank.supernet import tasks


def test_rows_and_totals_of_a_classifier() -> None:
    g = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(5, 3, generator=g), torch.tensor([0, 1, 2, 0, 1])
    task = tasks.load("text-classification")
    losses = task.row_losses(logits, {"labels": labels})
    torch.testing.assert_close(losses, cross_entropy(logits, labels, reduction="none"))
    told = task.totals(logits, {"labels": labels})
    assert told.loss == pytest.approx(float(losses.sum()), rel=1e-6)
    assert (told.correct, told.count) == (float((logits.argmax(-1) == labels).sum()), 5.0)


def test_a_language_model_is_asked_for_its_labelled_tokens_alone(tiny: object) -> None:
    model = tiny("llama")  # type: ignore[operator]
    ids = torch.randint(3, 60, (3, 7), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :3] = tasks.IGNORED
    labels[1, 5:] = tasks.IGNORED
    with torch.no_grad():
        out = model(input_ids=ids, labels=labels)
    task = tasks.load("causal-lm")
    told = task.totals(out.logits, {"labels": labels})
    assert told.count == 4 + 2 + 4
    assert told.loss / told.count == pytest.approx(float(out.loss), abs=1e-5)
    rows = task.row_losses(out.logits, {"labels": labels})
    by_hand = [cross_entropy(out.logits[i, :-1], labels[i, 1:], ignore_index=tasks.IGNORED) for i in range(3)]
    torch.testing.assert_close(rows, torch.stack(by_hand))


def test_an_unknown_task_is_named() -> None:
    with pytest.raises(
        tasks.TaskError, match="no task 'regression'; there are: image-classification, text-classification, causal-lm"
    ):
        tasks.load("regression")
