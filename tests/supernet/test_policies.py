"""What every policy promises, looped over the folder; and the default's own distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from archrank.supernet import policies
from archrank.supernet.policies.base import counter_uniform

MODULES = {"a.q": (32, 32), "a.k": (8, 32), "b.fc": (64, 4)}


@pytest.mark.parametrize("name", policies.available())
def test_a_spectrum_is_a_function_of_seed_step_and_index(name: str) -> None:
    policy = policies.load(name)(MODULES, 8, seed=3)
    whole = policy.spectrum(5, [4, 9, 2])
    assert whole.shape == (3, 3, 8)
    again = policies.load(name)(MODULES, 8, seed=3)
    again.spectrum(1, [0])
    assert torch.equal(again.spectrum(5, [9]), whole[1:2])
    many = range(64)
    assert not torch.equal(policy.spectrum(5, many), policy.spectrum(6, many))
    assert not torch.equal(policy.spectrum(5, many), policies.load(name)(MODULES, 8, seed=4).spectrum(5, many))


@pytest.mark.parametrize("name", policies.available())
def test_a_component_beyond_a_modules_limit_is_never_on(name: str) -> None:
    spectrum = policies.load(name)(MODULES, 8, seed=0).spectrum(0, range(200))
    assert not spectrum[:, 2, 4:].any()
    assert policies.summary(name)


def test_mixed_draws_each_rank_alike_beside_the_max_rank_rows() -> None:
    policy = policies.load("mixed")(MODULES, 8, seed=1)
    ranks = policy.spectrum(0, range(40_000)).sum(-1)[:, 0].numpy()
    share = np.bincount(ranks.astype(int), minlength=9) / len(ranks)
    for rank in (0, 1, 2, 4):
        assert abs(share[rank] - 7 / 8 / 5) < 0.01
    assert abs(share[8] - (1 / 8 + 7 / 8 / 5)) < 0.01
    full = (policy.spectrum(0, range(40_000)).sum(-1)[:, :2] == 8).all(-1).float().mean()
    assert abs(float(full) - (1 / 8 + 7 / 8 / 25)) < 0.01


def test_counter_numbers_are_uniform_and_independent() -> None:
    u = counter_uniform(7, np.arange(400)[:, None], np.arange(400)[None])
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 0.005
    assert abs(np.corrcoef(u[:, 0], u[:, 1])[0, 1]) < 0.15
    assert abs(np.corrcoef(u[0], u[1])[0, 1]) < 0.15


def test_bad_arguments_are_told() -> None:
    with pytest.raises(ValueError, match=r"no policy 'mixt'; did you mean mixed\? there are: mixed"):
        policies.load("mixt")
    with pytest.raises(ValueError, match=r"r_max 0 must be at least 1"):
        policies.load("mixed")(MODULES, 0)
    with pytest.raises(ValueError, match=r"ranks \[4, 16\] must lie between 0 and r_max = 8"):
        policies.load("mixed")(MODULES, 8, ranks=[4, 16])
