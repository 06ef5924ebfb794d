"""Racing: the bound on wrong drops by simulation, what it saves, and the race of a real net."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from archrank.supernet import elastic
from archrank.supernet.race_evaluation import race_population
from archrank.supernet.racing import Race, RaceError, dropped, leading, looks, outdone, t_quantile


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
    gone, share = run_race(losses, Race(keep=3, error=0.05))
    assert {8, 12, 19} <= gone
    assert share < 0.5


def test_equal_candidates_are_never_dropped() -> None:
    losses = torch.randn(1, 40, dtype=torch.float64).expand(6, 40).clone()
    assert run_race(losses, Race(error=0.05))[0] == set()


def run_certain(losses: Tensor, race: Race) -> tuple[set[int], float]:
    """The same of a race that drops for certain, over losses of at least 0 `(n, K)` whose hardest blocks come first."""
    n, blocks = losses.shape
    sums, at, gone = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.int64), torch.zeros(n).bool()
    for k in range(blocks):
        running = ~gone & (at == k)
        sums[running] += losses[running, k]
        at[running] += 1
        gone |= outdone(sums, at == blocks, race) >= 0
        for i in leading(sums, ~gone & (at == k + 1), race).nonzero().flatten().tolist():
            sums[i] += losses[i, k + 1 :].sum()
            at[i] = blocks
        gone |= outdone(sums, at == blocks, race) >= 0
    return set(gone.nonzero().flatten().tolist()), int(at.sum()) / (n * blocks)


@pytest.mark.parametrize("keep", [1, 3])
@pytest.mark.parametrize("kind", ["lognormal", "rare", "counts"])
def test_a_certain_race_is_never_wrong(kind: str, keep: int) -> None:
    """Not once in 80 races over losses that a t-test is misled by, in any order of rows; ties survive."""
    rng, shape = np.random.default_rng(3), (10, 30)
    spent = []
    for _ in range(80):
        each = {
            "lognormal": lambda: rng.lognormal(-2, 2, shape),
            "rare": lambda: (rng.random(shape) < 0.03) * 8.0,
            "counts": lambda: rng.integers(0, 3, shape).astype(float),  # many ties
        }[kind]()
        losses = torch.from_numpy(each)
        losses = losses[:, losses[0].argsort(descending=True)]
        gone, share = run_certain(losses, Race(keep=keep))
        whole = losses.sum(1)
        allowed = {i for i in range(10) if int((whole < whole[i]).sum()) >= keep}
        assert gone <= allowed
        spent.append(share)
    assert kind == "counts" or np.mean(spent) < 1


def test_a_certain_race_with_costs_keeps_the_whole_front() -> None:
    rng = np.random.default_rng(4)
    for _ in range(80):
        losses = torch.from_numpy(rng.lognormal(-2, 1.5, (12, 20)))
        costs = [(float(a), float(b)) for a, b in rng.integers(0, 4, (12, 2))]
        whole = losses.sum(1)
        front = {
            i
            for i in range(12)
            if not any(
                costs[j][0] <= costs[i][0] and costs[j][1] <= costs[i][1] and whole[j] < whole[i] for j in range(12)
            )
        }
        gone, _ = run_certain(losses, Race(costs=costs))
        assert not gone & front


def test_concentrated_losses_are_raced_in_few_rows() -> None:
    """Nearly all loss on a tenth of the rows: those who are a third worse go after about that tenth."""
    rng = np.random.default_rng(5)
    hard = np.concatenate([np.full(6, 3.0), np.full(54, 0.01)])
    quality = np.concatenate([[1.0], rng.uniform(1.35, 2, 19)])[:, None]
    losses = torch.from_numpy(quality * hard * rng.lognormal(0, 0.1, (20, 60)))
    gone, share = run_certain(losses, Race())
    assert 0 not in gone
    assert len(gone) >= 15
    assert share < 0.3


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


def confident(tiny: Callable[[str], nn.Module]) -> tuple[object, list[dict[str, int]], list[dict[str, Tensor]]]:
    """The same where the first candidate is right and sure of it, as trained ones are: few rows carry its loss."""
    net, configs, data = small(tiny)
    net.base.classifier.weight.data.mul_(20)  # type: ignore[attr-defined]
    net.eval().select(configs[0])  # type: ignore[attr-defined]
    with torch.no_grad():
        data = [{**b, "labels": net(**b).logits.argmax(-1)} for b in data]  # type: ignore[operator]
    return net, configs, data


@pytest.mark.parametrize("method", ["auto", "loop", "resume"])
@pytest.mark.parametrize("error", [0.0, 0.05])
def test_a_race_of_a_net(tiny: Callable[[str], nn.Module], method: str, error: float) -> None:
    net, configs, data = (small if error else confident)(tiny)
    truth = net.evaluate(configs, data, "loop")  # type: ignore[attr-defined]
    race = Race(error=error, block_rows=8)
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
    assert raced.pilot_rows == (200 if error == 0 else 0)
    # the estimate of a dropped candidate is near its whole-set mean
    assert (raced.losses - truth).abs().median() < 0.25 * (truth.max() - truth.min())
    assert (raced.losses[raced.dropped] > truth.min()).all()
    again = race_population(net, configs, data, race, method)  # type: ignore[arg-type]
    assert torch.equal(again.losses, raced.losses)
    assert torch.equal(again.rows, raced.rows)


def test_a_certain_race_keeps_the_front_of_a_net(tiny: Callable[[str], nn.Module]) -> None:
    net, configs, data = confident(tiny)
    truth = net.evaluate(configs, data).tolist()  # type: ignore[attr-defined]
    costs = [(float(sum(c.values())),) for c in configs]
    told = net.evaluate(configs, data, race=Race(costs=costs, block_rows=8)).tolist()  # type: ignore[attr-defined]
    n = range(len(configs))
    front = {i for i in n if not any(costs[j] <= costs[i] and truth[j] < truth[i] for j in n)}
    assert all(np.isfinite(told[i]) for i in front)
    assert not all(np.isfinite(told))


class Negative(nn.Module):
    """A base whose loss may be below 0 and whose logits do not tell it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4)])

    def forward(self, x: Tensor, labels: Tensor | None = None) -> SimpleNamespace:
        y = self.layers[0](x)
        return SimpleNamespace(logits=y, loss=-y.square().mean())


def test_a_certain_race_refuses_negative_losses() -> None:
    net = elastic(Negative(), "lora_ranks", r_max=2)
    data = [{"x": torch.randn(9, 4), "labels": torch.zeros(9, dtype=torch.int64)}]
    with pytest.raises(RaceError, match=r"a loss of -.* on a block of 9 rows.*needs losses of at least 0.*error=0.05"):
        net.evaluate([{}, {"layers.0": 2}], data, race=Race())
    assert net.evaluate([{}, {"layers.0": 2}], data, race=Race(error=0.05)).shape == (2,)
    assert net.evaluate([], data, race=Race()).shape == (0,)


def test_bad_races_are_told(tiny: Callable[[str], nn.Module]) -> None:
    with pytest.raises(RaceError, match=r"keep 0 must be at least 1"):
        Race(keep=0)
    with pytest.raises(RaceError, match=r"error 1.5 must be 0 or lie between 0 and 1"):
        Race(error=1.5)
    with pytest.raises(RaceError, match=r"block_rows 0 must be at least 1"):
        Race(block_rows=0)
    net, configs, data = small(tiny)
    with pytest.raises(RaceError, match=r"2 tuples of costs for 12 configurations"):
        net.evaluate(configs, data, race=Race(costs=[(1.0,), (2.0,)]))  # type: ignore[attr-defined]
