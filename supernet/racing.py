"""Early stopping of hopeless candidates over blocks of validation rows, with a bound on wrong drops.

**Certain** (error = 0). Where no row's loss is negative (cross-entropy, squared error), what a candidate lost on the
rows that it has seen is a lower bound of what it loses on all of them:

    Σ_{seen} loss_c  >  Σ_{all} loss_r   ⇒   c loses more than r

so c is dropped once `keep` rivals that have seen every row lose less in all than c has lost already. Nothing is
estimated, and no drop is wrong. The hardest rows come first (by the losses of a pilot, which decide about rows read and
about nothing else): a few rows carry most of the loss of trained candidates.

**Sampled** (0 < error < 1). Blocks come in a random order, and c is dropped at a look after k of K blocks once `keep`
rivals are each better by a paired one-sided t-test:

    t = d̄ / (s_d / √k · √(1 − k / K)) > t_{k−1}(1 − α),   d_j = loss_{c,j} − loss_{r,j},   α = error / (n_r · looks)

with n_r the rivals of c. The blocks are a sample without replacement of the whole set (hence the finite-population
factor), and the whole set's mean is what is estimated.

Bound: let c be among the true best `keep`, that is, fewer than `keep` rivals have a smaller whole-set mean. To be
dropped, at least one of the pairwise tests must call a rival better that is not. By Bonferroni over rivals and looks
the chance of that is at most `error`, for each such c, where the block differences are normal; that a block is a mean
of rows makes them nearly so (tests/supernet/test_racing.py counts wrong drops under normal, lognormal and rarely huge
losses). Losses that are constant but for rare rows are outside of it: no early block shows their spread.
Hoeffding races need a known range of the losses, and drop later (Maron and Moore, NIPS 1993; Birattari and others,
GECCO 2002, for a t-test in racing).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["Race", "RaceError", "Raced", "dropped", "leading", "looks", "outdone", "t_quantile"]


class RaceError(ValueError):
    """A race that cannot be run as asked."""


@dataclass(frozen=True, slots=True)
class Race:
    """How candidates are dropped.

    keep: how many of the best must survive; error: the bound on the chance that one of them is dropped, 0 for a race
    that drops for certain (losses of at least 0 only); costs: one tuple for each candidate (smaller is better), by
    which only a rival that costs no more in any of them counts, so that with keep = 1 the front's members are what
    survives; block_rows: rows between two looks at the earliest;
    seed: of the blocks' order where they are sampled.
    """

    keep: int = 1
    error: float = 0.0
    costs: Sequence[Sequence[float]] | None = None
    block_rows: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise RaceError(f"keep {self.keep} must be at least 1: a race that may drop every candidate finds nothing")
        if not 0 <= self.error < 1:
            raise RaceError(
                f"error {self.error} must be 0 or lie between 0 and 1: it bounds the chance of a wrong drop"
            )
        if self.block_rows < 1:
            raise RaceError(f"block_rows {self.block_rows} must be at least 1")


@dataclass(frozen=True, slots=True)
class Raced:
    """What a race found: losses `(n,)`, the rows that each candidate was evaluated on `(n,)`, who was dropped `(n,)`.

    The loss of a dropped candidate is an estimate: of sampled blocks, the whole-set mean of a rival that beat it plus
    their mean difference on the blocks that both saw; of the hardest blocks, what it lost on them over the share of its
    loss that a pilot has on them, which is rough. pilot_rows: rows that the pilot read.
    """

    losses: Tensor
    rows: Tensor
    dropped: Tensor
    pilot_rows: int = 0


def looks(blocks: int) -> tuple[int, ...]:
    """After how many blocks candidates are compared: 6, 8, 11, 16, 23, 32, … (each about 1.4 times the last)."""
    found, k = list[int](), 6.0
    while k < blocks:
        found.append(int(k))
        k *= 1.4
    return tuple(found)


def dropped(seen: Tensor, alive: Tensor, blocks: int, race: Race) -> Tensor:
    """`(n,)` the rival (its index) that settled a candidate's drop at this look, −1 for those who stay.

    seen `(n, k)`: block losses so far, fp64, meaningless where not alive; alive `(n,)`.
    """
    n, k = seen.shape
    verdict = torch.full((n,), -1)
    index = alive.nonzero().flatten()
    if len(index) <= race.keep or k < 2 or k >= blocks:
        return verdict
    d = seen[index][:, None] - seen[index][None]  # (alive, rivals, k)
    mean, spread = d.mean(-1), d.std(-1)
    error = spread / math.sqrt(k) * math.sqrt(1 - k / blocks)
    allowed = _rivals(race, index)
    rivals = max(1, n - 1)
    threshold = t_quantile(1 - race.error / (rivals * max(1, len(looks(blocks)))), k - 1)
    # two candidates that never differ (the same function) have spread 0 and mean 0: no verdict
    beaten = (mean > threshold * error) & (mean > 0) & allowed
    for row, who in enumerate(index.tolist()):
        if int(beaten[row].sum()) >= race.keep:
            best = torch.where(beaten[row], mean[row], -math.inf).argmax()
            verdict[who] = index[best]
    return verdict


def outdone(sums: Tensor, whole: Tensor, race: Race) -> Tensor:
    """`(n,)` for each candidate a rival that settles its drop for certain, −1 where there is none.

    sums `(n,)`: Σ of the losses on the rows seen; whole `(n,)`: who has seen all rows.
    """
    beats = _rivals(race, torch.arange(len(sums))) & whole & (sums[None] < sums[:, None])
    enough = (beats.sum(1) >= race.keep) & ~whole
    best = torch.where(beats, sums[None], torch.inf).argmin(1) if len(sums) else torch.empty(0, dtype=torch.int64)
    return torch.where(enough, best, -1)


def leading(sums: Tensor, alive: Tensor, race: Race) -> Tensor:
    """`(n,)` whether fewer than `keep` rivals do better on the rows that all of them have seen: whom to see whole
    first, so that the others can be measured against them.
    """
    beats = _rivals(race, torch.arange(len(sums))) & alive & (sums[None] < sums[:, None])
    return alive & (beats.sum(1) < race.keep)


def _rivals(race: Race, index: Tensor) -> Tensor:
    """`(a, a)` whether column counts against row."""
    if race.costs is None:
        return ~torch.eye(len(index), dtype=torch.bool)
    cost = torch.tensor([tuple(race.costs[i]) for i in index.tolist()], dtype=torch.float64)
    no_dearer = (cost[None] <= cost[:, None]).all(-1)
    return no_dearer & ~torch.eye(len(index), dtype=torch.bool)


@lru_cache(maxsize=4096)
def t_quantile(p: float, degrees: int) -> float:
    """The p-quantile of Student's t, p ≥ ½, by bisection on its distribution function.

    For t ≥ 0 the function is 1 − I_x(ν/2, ½) / 2 with x = ν / (ν + t²) (Abramowitz and Stegun 26.7.1); the regularised
    incomplete beta function is summed as a continued fraction (26.5.8).
    """
    low, high = 0.0, 1e9
    for _ in range(200):
        middle = (low + high) / 2
        if 1 - _beta(degrees / 2, 0.5, degrees / (degrees + middle * middle)) / 2 < p:
            low = middle
        else:
            high = middle
    return high


def _beta(a: float, b: float, x: float) -> float:
    """I_x(a, b) by Lentz's method."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    f = c = 1.0
    d = 0.0
    for i in range(300):
        m = i // 2
        if i == 0:
            step = 1.0
        elif i % 2 == 0:
            step = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            step = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / (1 + step * d)
        c = 1 + step / c
        f *= c * d
        if abs(1 - c * d) < 1e-12:
            break
    return front * (f - 1)
