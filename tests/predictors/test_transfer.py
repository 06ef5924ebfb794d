"""Few-shot transfer and the ranking metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from archrank.predictors import DeviceError, metrics, transfer

RNG = np.random.default_rng(0)
X = RNG.integers(0, 2, (300, 12)).astype(float)
SOURCES = np.exp(0.3 * X @ RNG.random((12, 4)) + 0.02 * RNG.standard_normal((300, 4)))
TARGET = np.exp(0.25 * X @ RNG.random(12) + 0.5 * np.log(SOURCES[:, 0]) + 0.01 * RNG.standard_normal(300))


def test_ten_samples_rank_the_rest() -> None:
    known = {int(i): float(TARGET[i]) for i in RNG.choice(300, 10, replace=False)}
    told = transfer(X, SOURCES, known)
    assert metrics.spearman(TARGET, told.ms) > 0.9
    assert np.all((told.low < told.ms) & (told.ms < told.high))
    assert 0.75 < np.mean((told.low <= TARGET) & (told.high >= TARGET)) <= 1
    with_prior = transfer(X, SOURCES, known, prior=TARGET**1.5)
    assert metrics.spearman(TARGET, with_prior.ms) > metrics.spearman(TARGET, told.ms)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"features": X[0]}, r"features has shape \(12,\), but it is \(rows, columns\)"),
        ({"features": X[:5]}, r"measured row 7 is not one of the 5 rows of features"),
        ({"sources_ms": SOURCES[:5]}, r"features has 300 rows, sources_ms 5"),
        ({"sources_ms": -SOURCES}, r"sources_ms holds -[\d.]+, but each must be above 0"),
        ({"features": X * np.nan}, r"features holds a number that is not finite"),
        ({"features": [["a"]]}, r"features is not an array of numbers"),
        ({"known": {3: 1.0}}, r"1 measured latencies were given: transfer needs at least 2"),
        ({"known": {3: 1.0, 999: 1.0}}, r"measured row 999 is not one of the 300 rows"),
        ({"known": {3: 1.0, 4: 0.0}}, r"a measured latency is 0 ms"),
        ({"prior": np.ones(4)}, r"prior has 4 rows, features 300"),
    ],
)
def test_what_cannot_be_transferred_is_told(change: dict[str, Any], said: str) -> None:
    arguments: dict[str, Any] = {"features": X, "sources_ms": SOURCES, "known": {3: 1.0, 7: 2.0}, **change}
    with pytest.raises(DeviceError, match=said):
        transfer(**arguments)


def test_metrics_are_those_of_scipy_ties_included() -> None:
    y, p = RNG.integers(0, 9, 80).astype(float), RNG.integers(0, 9, 80).astype(float)
    assert metrics.kendall(y, p) == pytest.approx(stats.kendalltau(y, p).statistic)
    assert metrics.spearman(y, p) == pytest.approx(stats.spearmanr(y, p).statistic)
    assert metrics.mape([1, 2], [1.1, 1.8]) == pytest.approx(10)
    assert np.isnan(metrics.spearman([1, 1], [1, 2]))
    assert np.isnan(metrics.kendall([1, 1], [1, 2]))


def test_the_best_k_and_the_bootstrap() -> None:
    true, told = [3.0, 1.0, 2.0, 4.0], [1.0, 2.0, 3.0, 4.0]
    assert metrics.precision_at(2, true, told) == 0.5
    assert metrics.regret_at(1, true, told) == 2
    assert metrics.regret_at(2, true, told) == 0
    y = RNG.random(60)
    low, high = metrics.bootstrap(metrics.spearman, y, y + 0.2 * RNG.random(60), np.random.default_rng(0), draws=200)
    assert 0.5 < low < metrics.spearman(y, y + 0.1) <= 1
    assert low < high
    with pytest.raises(DeviceError, match=r"k = 9, but it must be from 1 to the 4 pairs given"):
        metrics.precision_at(9, true, told)
    with pytest.raises(DeviceError, match=r"give two lists of one length, at least 2"):
        metrics.kendall([1.0], [1.0])
    with pytest.raises(DeviceError, match=r"true or predicted holds a number that is not finite"):
        metrics.kendall([1.0, np.nan], [1.0, 2.0])
    with pytest.raises(DeviceError, match=r"true holds 0, but a percentage"):
        metrics.mape([0.0, 1.0], [1.0, 1.0])
    with pytest.raises(DeviceError, match=r"level = 2, but it must be between 0 and 1"):
        metrics.bootstrap(metrics.kendall, true, told, RNG, level=2)
