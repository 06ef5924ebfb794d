"""How well a prediction ranks: Kendall's τ-b, Spearman's ρ, precision and regret of the best k, MAPE; with bootstrap
intervals. Lower values are better ones, as everywhere inside the package.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from archrank.predictors.profile import DeviceError

Array = NDArray[np.float64]
CHUNK = 2048


def mape(true: ArrayLike, predicted: ArrayLike) -> float:
    """Mean absolute percentage error: 100 · mean |predicted − true| / true, in %; `true` above 0."""
    y, p = _pair(true, predicted)
    if (y <= 0).any():
        raise DeviceError(f"true holds {y[y <= 0][0]:g}, but a percentage of it needs it above 0")
    return float(100 * np.mean(np.abs(p - y) / y))


def spearman(true: ArrayLike, predicted: ArrayLike) -> float:
    """Spearman's ρ: the correlation of the ranks, ties sharing their mean rank; nan where one side is constant."""
    y, p = _pair(true, predicted)
    a, b = _ranks(y), _ranks(p)
    spread = float(a.std() * b.std())
    return float(np.mean((a - a.mean()) * (b - b.mean())) / spread) if spread > 0 else float("nan")


def kendall(true: ArrayLike, predicted: ArrayLike) -> float:
    """Kendall's τ-b: (concordant − discordant) / √((pairs − ties in true) · (pairs − ties in predicted)) (Kendall
    1945); nan where one side is constant. Time grows with the square of the length, memory does not.
    """
    y, p = _pair(true, predicted)
    agree = apart = other = 0.0
    for first in range(0, len(y), CHUNK):
        a = np.sign(y[first : first + CHUNK, None] - y[None, :])
        b = np.sign(p[first : first + CHUNK, None] - p[None, :])
        agree, apart, other = agree + float((a * b).sum()), apart + float((a * a).sum()), other + float((b * b).sum())
    return agree / float(np.sqrt(apart * other)) if apart > 0 and other > 0 else float("nan")


def precision_at(k: int, true: ArrayLike, predicted: ArrayLike) -> float:
    """The share of the k predicted lowest that are among the k truly lowest (stable order among ties)."""
    y, p = _pair(true, predicted)
    _check_k(k, len(y))
    best, picked = np.argsort(y, kind="stable")[:k], np.argsort(p, kind="stable")[:k]
    return len(np.intersect1d(best, picked)) / k


def regret_at(k: int, true: ArrayLike, predicted: ArrayLike) -> float:
    """The lowest true value among the k predicted lowest, less the lowest of all: what is lost by measuring only these
    k.
    """
    y, p = _pair(true, predicted)
    _check_k(k, len(y))
    return float(y[np.argsort(p, kind="stable")[:k]].min() - y.min())


def bootstrap(
    metric: Callable[[Array, Array], float],
    true: ArrayLike,
    predicted: ArrayLike,
    rng: np.random.Generator,
    level: float = 0.9,
    draws: int = 1000,
) -> tuple[float, float]:
    """Percentile interval of a metric over resampled pairs (Efron 1979); draws without a value (nan) are left out."""
    y, p = _pair(true, predicted)
    if not 0 < level < 1:
        raise DeviceError(f"level = {level:g}, but it must be between 0 and 1")
    values = np.array([metric(y[i], p[i]) for i in (rng.integers(len(y), size=len(y)) for _ in range(draws))])
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _ranks(values: Array) -> Array:
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[place.ravel()])


def _check_k(k: int, length: int) -> None:
    if not 1 <= k <= length:
        raise DeviceError(f"k = {k}, but it must be from 1 to the {length} pairs given")


def _pair(true: ArrayLike, predicted: ArrayLike) -> tuple[Array, Array]:
    y, p = np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if y.ndim != 1 or y.shape != p.shape or len(y) < 2:
        raise DeviceError(f"true has shape {y.shape}, predicted {p.shape}: give two lists of one length, at least 2")
    if not (np.isfinite(y).all() and np.isfinite(p).all()):
        raise DeviceError("true or predicted holds a number that is not finite: leave such pairs out")
    return y, p
