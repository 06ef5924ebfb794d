"""Trees as arrays, and the lattice that keeps more work from taking less time."""

from __future__ import annotations

import json

import numpy as np

from archrank.predictors import lattice
from archrank.predictors.forest import Growth, from_json, grow

RNG = np.random.default_rng(0)
X = RNG.random((400, 3))
Y = np.sin(5 * X[:, 0]) + (X[:, 1] > 0.5)
SMALL = Growth(trees=40, rate=0.2, leaves=6, rows_per_leaf=5)


def test_it_learns_keeps_to_what_it_saw_and_survives_json() -> None:
    forest = grow(X, Y, np.ones(len(Y)), SMALL)
    assert np.corrcoef(forest(X), Y)[0, 1] > 0.95
    far = forest(np.array([[1e9, 1e9, 1e9], [-1e9, -1e9, -1e9]]))
    assert np.all((far >= forest.low) & (far <= forest.high))
    again = from_json(json.loads(json.dumps(forest.to_json())))
    assert np.allclose(again(X), forest(X), atol=2e-3)
    assert np.array_equal(grow(X, Y, np.ones(len(Y)), SMALL)(X), forest(X))


def test_rows_are_read_alone_and_together_alike() -> None:
    forest = grow(X, Y, np.ones(len(Y)), SMALL)
    many = RNG.random((9000, 3))
    assert np.allclose(forest(many)[[0, 5000, 8999]], forest(many[[0, 5000, 8999]]))
    assert forest(np.zeros((0, 3))).shape == (0,)


def test_no_doubling_lowers_the_price() -> None:
    def base(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return 1 + 1e-4 * sizes.prod(axis=1), np.ones(len(sizes))

    def wild(sizes: np.ndarray) -> np.ndarray:
        return 0.4 * np.cos(3 * np.log2(sizes).sum(axis=1))

    points = RNG.integers(1, 300, (60, 2)).astype(float)
    price = lattice.rising(points, range(2), base, wild, 0.4)
    assert np.all(price >= base(points)[0] * np.exp(wild(points)) - 1e-12)
    for axis in range(2):
        more = points.copy()
        more[:, axis] *= 2
        assert np.all(lattice.rising(more, range(2), base, wild, 0.4) >= price / lattice.SLACK)
