"""What every policy promises, looped over the folder: spectra from seed, step and index alone, a documented mask; and
the parts that policies share.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from archrank.supernet import policies
from archrank.supernet.policies.base import counter_uniform, within_budget

MODULES = {"a.q": (32, 32), "a.k": (8, 32), "b.fc": (64, 4)}
DRAWN = ("mixed", "sandwich", "dylora", "dylora:frozen", "maestro", "nls")
ALL = (*policies.available(), "dylora:frozen", "sora:official", "codyra:official")


@pytest.mark.parametrize("name", ALL)
def test_a_spectrum_is_a_function_of_seed_step_and_index(name: str) -> None:
    policy = policies.load(name)(MODULES, 8, seed=3)
    whole = policy.spectrum(5, [4, 9, 2])
    assert whole.shape == (3, 3, 8)
    again = policies.load(name)(MODULES, 8, seed=3)
    again.spectrum(1, [0])
    assert torch.equal(again.spectrum(5, [9]), whole[1:2])
    if name in DRAWN:
        many = range(64)
        steps = torch.stack([policy.spectrum(s, many) for s in range(8)])
        assert not torch.equal(steps[:-1], steps[1:])
        other = policies.load(name)(MODULES, 8, seed=4)
        assert not torch.equal(steps, torch.stack([other.spectrum(s, many) for s in range(8)]))


@pytest.mark.parametrize("name", ALL)
def test_a_component_beyond_a_modules_limit_is_never_on(name: str) -> None:
    spectrum = policies.load(name)(MODULES, 8, seed=0).spectrum(0, range(200))
    assert not spectrum[:, 2, 4:].any()
    assert policies.summary(name.split(":")[0])


@pytest.mark.parametrize("name", ALL)
def test_the_gradient_mask_is_the_documented_one(name: str) -> None:
    """None, or for a frozen policy the last component alone; what it leaves out gets no gradient, the input does."""
    policy = policies.load(name)(MODULES, 8, seed=0)
    mask = policy.gradient_mask(3, range(5))
    if not name.endswith("frozen"):
        assert mask is None
        return
    spectrum = policy.spectrum(3, range(5))
    assert mask is not None
    assert torch.equal(mask.sum(-1), torch.ones(5, 3))
    assert torch.equal((mask * torch.arange(1, 9)).sum(-1), spectrum.sum(-1))


def test_within_budget_keeps_the_best_that_fit() -> None:
    scores = torch.tensor([[3.0, 1.0], [2.0, 0.5]])
    kept = within_budget(scores, torch.ones(2, 2), torch.tensor([5.0, 2.0]), 9.0)
    assert torch.equal(kept, torch.tensor([[1.0, 0.0], [1.0, 1.0]]))


def test_counter_numbers_are_uniform_and_independent() -> None:
    u = counter_uniform(7, np.arange(400)[:, None], np.arange(400)[None])
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 0.005
    assert abs(np.corrcoef(u[:, 0], u[:, 1])[0, 1]) < 0.15
    assert abs(np.corrcoef(u[0], u[1])[0, 1]) < 0.15


def test_bad_arguments_are_told() -> None:
    with pytest.raises(ValueError, match=r"no policy 'mixt'; did you mean mixed\? there are: "):
        policies.load("mixt")
    with pytest.raises(ValueError, match=r"policy dylora has no variant 'frozn'; there are: dylora:frozen"):
        policies.load("dylora:frozn")
    with pytest.raises(ValueError, match=r"r_max 0 must be at least 1"):
        policies.load("mixed")(MODULES, 0)
    with pytest.raises(ValueError, match=r"ranks \[4, 16\] must lie between 0 and r_max = 8"):
        policies.load("mixed")(MODULES, 8, ranks=[4, 16])
