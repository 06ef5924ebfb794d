"""Racing: the bound on wrong drops by simulation, what it saves, and the race of a real net."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from archrank.supernet import elastic
from archrank.supernet.evaluation import race_population
from archrank.supernet.racing import Race, RaceError, dropped, looks, t_quantile


@pytest.mark.parametrize(
    ("p", "degrees", "value"),
    [
        (0.975, 1, 12.7062047),
        (0.95, 4, 2.1318468),
        (0.975, 10, 2.2281389),
        (0.9995, 30, 3.6459586),
        (0.99999, 5, 15.5468545),
        (0.5, 7, 0.0),
    ],
)
def test_the_quantile_is_students(p: float, degrees: int, value: float) -> None:
    assert t_quantile(p, degrees) == pytest.approx(value, abs=2e-5, rel=2e-6)


def test_looks_grow_and_stop_before_the_end() -> None:
    assert looks(30) == (6, 8, 11, 16, 23)
    assert looks(6) == ()
    assert looks(1) == ()


def run_race(losses: Tensor, race: Race) -> tuple[set[int], float]:
    """(who was dropped, share of blocks evaluated) of a race over given block losses `(n, K)`."""
    n, blocks = losses.shape
    alive, spent = torch.ones(n, dtype=torch.bool), 0
    for k in range(1, blocks + 1):
        spent += int(alive.sum())
        if k in looks(blocks):
            alive &= dropped(losses[:, :k], alive, blocks, race) < 0
    return set((~alive).nonzero().flatten().tolist()), spent / (n * blocks)


def draw(rng: np.random.Generator, noise: str, n: int, blocks: int) -> Tensor:
    """Block losses: candidates of nearly equal quality (the hard case), with block difficulty shared."""
    quality = rng.normal(0, 0.02, n)[:, None]
    shape = (n, blocks, 16)
    each = {
        "normal": lambda: rng.normal(0, 0.5, shape),
        "lognormal": lambda: rng.lognormal(-1, 1.2, shape),
        "rare": lambda: rng.normal(0, 0.2, shape) + (rng.random(shape) < 0.02) * 8.0,  # a few rows with huge losses
    }[noise]()
    return torch.from_numpy(quality + each.mean(-1) + rng.normal(0, 0.3, (1, blocks)))


@pytest.mark.parametrize("noise", ["normal", "lognormal", "rare"])
@pytest.mark.parametrize("keep", [1, 3])
def test_wrong_drops_are_rarer_than_stated(noise: str, keep: int) -> None:
    """The bound is for each of the true best; here even any of them is dropped in fewer than `error` of 300 races."""
    race, wrong = Race(keep=keep, error=0.1), 0
    rng = np.random.default_rng(0)
    for _ in range(300):
        losses = draw(rng, noise, 10, 40)
        best = set(losses.mean(1).argsort()[:keep].tolist())
        gone, _ = run_race(losses, race)
        wrong += bool(best & gone)
    assert wrong / 300 <= race.error


def test_the_front_survives_a_race_with_costs() -> None:
    rng = np.random.default_rng(1)
    wrong = races = 0
    for _ in range(200):
        losses = draw(rng, "lognormal", 12, 40)
        costs = [(float(c),) for c in rng.integers(0, 4, 12)]
        mean = losses.mean(1)
        front = [
            i
            for i in range(12)
            if not any(costs[j][0] <= costs[i][0] and mean[j] < mean[i] for j in range(12) if j != i)
        ]
        gone, _ = run_race(losses, Race(error=0.1, costs=costs))
        wrong += len(gone & set(front))
        races += len(front)
    assert wrong / races <= 0.1


def test_hopeless_candidates_cost_little() -> None:
    rng = np.random.default_rng(2)
    losses = draw(rng, "normal", 20, 60)
    losses[5:] += torch.linspace(0.3, 3, 15)[:, None]
    gone, share = run_race(losses, Race(keep=3))
    assert {8, 12, 19} <= gone
    assert share < 0.5


def test_equal_candidates_are_never_dropped() -> None:
    losses = torch.randn(1, 40, dtype=torch.float64).expand(6, 40).clone()
    assert run_race(losses, Race())[0] == set()


def small(tiny: Callable[[str], nn.Module]) -> tuple[object, list[dict[str, int]], list[dict[str, Tensor]]]:
    net = elastic(tiny("bert"), "lora_ranks", r_max=8)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.adapters.parameters():
            p.normal_(0, 0.2, generator=g)
    data = [
        {"input_ids": torch.randint(1, 60, (50, 6), generator=g), "labels": torch.randint(0, 3, (50,), generator=g)}
        for _ in range(4)
    ]
    rng = np.random.default_rng(0)
    configs = [{n: int(rng.choice([0, 2, 8])) for n in net.names} for _ in range(12)]
    return net, configs, data


@pytest.mark.parametrize("method", ["auto", "loop", "resume"])
def test_a_race_of_a_net(tiny: Callable[[str], nn.Module], method: str) -> None:
    net, configs, data = small(tiny)
    truth = net.evaluate(configs, data, "loop")  # type: ignore[attr-defined]
    race = Race(block_rows=8)
    raced = race_population(net, configs, data, race, method)  # type: ignore[arg-type]
    losses = net.evaluate(configs, data, method, race)  # type: ignore[attr-defined]
    stay = ~raced.dropped
    assert stay[truth.argmin()]
    assert 0 < int(raced.dropped.sum()) < len(configs)
    torch.testing.assert_close(raced.losses[stay], truth[stay], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(losses[stay], truth[stay], atol=1e-6, rtol=1e-6)
    assert torch.isinf(losses[raced.dropped]).all()
    assert (raced.rows[stay] == 200).all()
    assert (raced.rows[raced.dropped] < 200).all()
    # the estimate of a dropped candidate is near its whole-set mean
    assert (raced.losses - truth).abs().max() < 0.5 * (truth.max() - truth.min())


def test_bad_races_are_told(tiny: Callable[[str], nn.Module]) -> None:
    with pytest.raises(RaceError, match=r"keep 0 must be at least 1"):
        Race(keep=0)
    with pytest.raises(RaceError, match=r"error 1.5 must lie between 0 and 1"):
        Race(error=1.5)
    with pytest.raises(RaceError, match=r"block_rows 0 must be at least 1"):
        Race(block_rows=0)
    net, configs, data = small(tiny)
    with pytest.raises(RaceError, match=r"2 tuples of costs for 12 configurations"):
        net.evaluate(configs, data, race=Race(costs=[(1.0,), (2.0,)]))  # type: ignore[attr-defined]
