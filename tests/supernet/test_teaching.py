"""What finalists learn from the whole adapter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from archrank.search.config import RunConfig
from archrank.search.job import Job, prepare
from archrank.supernet.tasks import TEACHER, inputs_of
from archrank.supernet.teaching import answers, taught_loss


@pytest.fixture(scope="module")
def job() -> Job:
    return prepare(RunConfig(train_steps=8, seed=2))


def test_the_loss_is_the_formula(job: Job) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(6, 10, generator=generator, dtype=torch.float32) for _ in range(2))
    labels = torch.arange(6)
    p, log_q = F.softmax(teacher / 3, -1), F.log_softmax(student / 3, -1)
    divergence = (p * (p.log() - log_q)).sum(-1).mean()
    expected = 0.1 * F.cross_entropy(student, labels) + 9 * divergence
    told = taught_loss(job.loss)(student, {"labels": labels, TEACHER: teacher})
    assert float(told) == pytest.approx(float(expected), rel=1e-5)


def test_answers_are_the_net_s_own_on_the_rows_that_are_met(job: Job) -> None:
    rows = replace(job.batches(5), rows=32).met(3)
    assert list(rows) == sorted(set(rows))
    told = answers(job.net, job.data, rows)
    assert told.shape == (job.data.size("train"), 10)
    batch = job.data.batch("train", rows[:4])
    with torch.no_grad():
        own = job.net(**inputs_of(batch)).logits
    torch.testing.assert_close(told[torch.from_numpy(rows[:4])], own)
    unmet = np.setdiff1d(np.arange(job.data.size("train")), rows)
    assert not told[torch.from_numpy(unmet)].any()


def test_taught_batches_are_the_plain_ones_with_each_row_s_answer(job: Job) -> None:
    told = torch.arange(job.data.size("train"), dtype=torch.float32)[:, None]
    plain = job.batches(5)
    taught = replace(plain, answers=told)
    for step in (0, 31, 40):
        (batch, place), (other, same) = taught(step), plain(step)
        assert list(place) == list(same)
        for key, value in other.items():
            torch.testing.assert_close(batch[key], value)
        assert [int(v) for v in batch[TEACHER]] == list(taught.index(step))
    assert set(inputs_of(batch)) == {"pixel_values"}


def test_only_a_whole_adapter_with_an_answer_a_row_teaches() -> None:
    assert prepare(RunConfig()).teaches
    assert not prepare(RunConfig(distill="off")).teaches
    assert not prepare(RunConfig(policy="mixed")).teaches
