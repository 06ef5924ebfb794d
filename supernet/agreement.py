"""How well scores rank configurations: Kendall's τ_b, its interval, and the predictors that cost nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["bootstrap", "kendall", "per_kind", "within_strata"]

Array = NDArray[np.float64]


def kendall(x: Sequence[float] | Array, y: Sequence[float] | Array) -> float:
    """τ_b = (concordant − discordant) / √((n₀ − ties in x)(n₀ − ties in y)), n₀ = n (n − 1) / 2 (Kendall 1945).

    0 where one side is constant.
    """
    a, b = np.asarray(x, float), np.asarray(y, float)
    return within_strata(a, b, np.zeros(len(a), np.int64))


def within_strata(x: Array, y: Array, strata: NDArray[np.int64]) -> float:
    """τ_b over the pairs that lie in one stratum, all strata together."""
    sums = np.sum([_pairs(x[strata == s], y[strata == s]) for s in np.unique(strata)], axis=0)
    both = np.sqrt(float(sums[1]) * float(sums[2]))
    return float(sums[0] / both) if both else 0.0


def _pairs(x: Array, y: Array) -> tuple[float, float, float]:
    """(concordant − discordant, pairs untied in x, pairs untied in y)."""
    upper = np.triu_indices(len(x), 1)
    a = np.sign(np.subtract.outer(x, x))[upper]
    b = np.sign(np.subtract.outer(y, y))[upper]
    return float((a * b).sum()), float((a != 0).sum()), float((b != 0).sum())


def bootstrap(n: int, statistic: Callable[[NDArray[np.int64]], float], draws: int = 500) -> tuple[float, float]:
    """95 % percentile interval of `statistic(indices)` over resampled configurations."""
    rng = np.random.default_rng(0)
    found = [statistic(rng.integers(n, size=n)) for _ in range(draws)]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def per_kind(ranks: Sequence[Mapping[str, int]], truth: Array, names: Sequence[str]) -> tuple[str, Array]:
    """(kind, its total ranks): of the kinds of module (last part of the name) the one whose total rank, in either
    direction, agrees best with the truth: a generous bound, since it is chosen on the truth itself.
    """
    kinds = list(dict.fromkeys(n.rsplit(".", 1)[-1] for n in names))
    totals = {
        kind: np.array([sum(r.get(n, 0) for n in names if n.rsplit(".", 1)[-1] == kind) for r in ranks], float)
        for kind in kinds
    }
    best = max(kinds, key=lambda kind: abs(kendall(totals[kind], truth)))
    return best, totals[best]
