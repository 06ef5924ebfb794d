"""The best n of the band are the best n of all, whatever the order of their coming."""

from __future__ import annotations

import numpy as np
import pytest

from archrank.search.strategies._band import Band
from archrank.search.strategies.nsga2 import survivors

N = 20


@pytest.mark.parametrize("objectives", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_are_those_of_all_rows(seed: int, objectives: int) -> None:
    """Rows on a coarse grid, so that many are equal; some are not finite, some infeasible."""
    rng = np.random.default_rng(seed)
    values = rng.integers(12, size=(400, objectives)).astype(float) + 0.1 * (rng.random((400, objectives)) < 0.3)
    values[rng.random(400) < 0.03, 0] = np.nan
    violations = np.where(rng.random(400) < 0.3, rng.integers(1, 9, size=400), 0).astype(float)
    violations[rng.random(400) < 0.02] = np.inf
    values[violations > 0] = np.nan
    for upto in (1, 5, 30, 120, 400):
        expected = survivors(values[:upto], violations[:upto], N)
        for order in (np.arange(upto), rng.permutation(upto)):
            band = Band(N, objectives)
            for i in order.tolist():
                band.add(i, values[i], float(violations[i]))
            ids, *rows = band.rows()
            assert [ids[i] for i in survivors(*rows, N)] == expected


def test_a_row_that_changes_nothing_says_so() -> None:
    band = Band(2, 2)
    assert [band.add(i, np.full(2, float(i)), 0.0) for i in range(4)] == [True, True, False, False]
    assert [band.add(9, np.full(2, np.nan), v) for v in (0.0, 3.0, 2.0, 5.0)] == [False, True, True, False]
    assert band.rows()[0] == [0, 1, 9, 9]
