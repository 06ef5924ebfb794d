"""Boosted regression trees as plain arrays: grown with scikit-learn, kept as JSON, read with numpy alone.

    g(x) = start + Σ_t leaf_t(x), clipped to [low, high]

low and high are the 0.5 and 99.5 % quantiles of what the trees were grown on (rows of weight), so that a shape far from
every measured one gets no correction larger than a measured one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
CLIP = 0.005
CELLS = 200_000
"""Trees × rows that are walked at a time: what fits in a cache."""


@dataclass(frozen=True)
class Forest:
    """Trees of at most L nodes, T of them. `feature`, `left`, `right` (T, L) whole numbers, a leaf leads to itself;
    `value` (T, L) is a node's threshold, or a leaf's value; x ≤ threshold goes left.
    """

    start: float
    low: float
    high: float
    depth: int
    feature: NDArray[np.int32]
    value: Array
    left: NDArray[np.int32]
    right: NDArray[np.int32]

    def __call__(self, x: Array) -> Array:
        """G of each row: `x` (rows, features) -> (rows,)."""
        total = np.empty(len(x))
        step = max(1, CELLS // max(1, len(self.feature)))
        for first in range(0, len(x), step):
            total[first : first + step] = self._sum(x[first : first + step])
        return np.clip(total, self.low, self.high)

    def _sum(self, x: Array) -> Array:
        """Start + Σ leaf: all trees walk down together, (T, rows) nodes at a time."""
        trees, length = self.feature.shape
        root = (np.arange(trees) * length)[:, None]
        flat, width = x.ravel(), x.shape[1]
        row = (np.arange(len(x)) * width)[None, :]
        feature, value = self.feature.ravel(), self.value.ravel()
        left, right = self.left.ravel(), self.right.ravel()
        node = np.zeros((trees, len(x)), dtype=np.intp) + root
        for _ in range(self.depth):
            less = flat[row + feature[node]] <= value[node]
            node = root + np.where(less, left[node], right[node])
        return np.asarray(self.start + value[node].sum(axis=0))

    def to_json(self) -> dict[str, Any]:
        """The same as JSON values; thresholds in full, since a row may lie on one, leaves with six digits."""
        trees = [
            [[float(v), int(f), int(a), int(b)] if a != i else [float(f"{v:.6g}")] for i, (v, f, a, b) in rows]
            for rows in (
                list(enumerate(zip(v, f, a, b, strict=True)))
                for v, f, a, b in zip(self.value, self.feature, self.left, self.right, strict=True)
            )
        ]
        trimmed = [tree[: _used(tree)] for tree in trees]
        return {"start": self.start, "low": self.low, "high": self.high, "trees": trimmed}


def _used(tree: Sequence[Sequence[float]]) -> int:
    """Nodes before the padding: the furthest child that is reached from the root, and one."""
    return 1 + max((int(max(node[2:])) for node in tree if len(node) > 1), default=0)


def from_json(data: Mapping[str, Any]) -> Forest:
    """What `Forest.to_json` gave."""
    return _packed(data["trees"], float(data["start"]), float(data["low"]), float(data["high"]))


def _packed(trees: Sequence[Sequence[Sequence[float]]], start: float, low: float, high: float) -> Forest:
    length = max((len(tree) for tree in trees), default=1)
    own = np.tile(np.arange(length, dtype=np.int32), (len(trees), 1))
    feature, value = np.zeros((len(trees), length), dtype=np.int32), np.zeros((len(trees), length))
    left, right = own.copy(), own.copy()
    for t, tree in enumerate(trees):
        for i, node in enumerate(tree):
            value[t, i] = node[0]
            if len(node) > 1:
                feature[t, i], left[t, i], right[t, i] = int(node[1]), int(node[2]), int(node[3])
    depth = max((_depth(tree) for tree in trees), default=0)
    return Forest(start, low, high, depth, feature, value, left, right)


def _depth(tree: Sequence[Sequence[float]]) -> int:
    level, deepest = {0: 0}, 0
    for i, node in enumerate(tree):
        deepest = max(deepest, level.get(i, 0))
        if len(node) > 1:
            level[int(node[2])] = level[int(node[3])] = level.get(i, 0) + 1
    return deepest


@dataclass(frozen=True)
class Growth:
    """How a forest is grown: histogram boosting with half of the features at each split."""

    trees: int = 300
    rate: float = 0.06
    leaves: int = 12
    rows_per_leaf: int = 20
    features: float = 0.5


def grow(x: Array, y: Array, weight: Array, growth: Growth) -> Forest:
    """The forest of least weighted squared error: `x` (rows, features), `y` and `weight` (rows,). The same rows give
    the same forest.

    Histogram gradient boosting as in LightGBM (Ke et al. 2017), from scikit-learn. RuntimeError where this version of
    scikit-learn keeps its trees in another way than the one read here.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    heavy = y[weight > np.median(weight) / 4]
    low, high = (float(q) for q in np.quantile(heavy, (CLIP, 1 - CLIP)))
    model = HistGradientBoostingRegressor(
        max_iter=growth.trees,
        learning_rate=growth.rate,
        max_leaf_nodes=growth.leaves,
        min_samples_leaf=growth.rows_per_leaf,
        max_features=growth.features,
        early_stopping=False,
        random_state=0,
    )
    with threadpool_limits(1):  # these tables are small: threads wait for each other longer than they work
        model.fit(x, np.clip(y, low, high), sample_weight=weight)
    trees = []
    for (predictor,) in model._predictors:
        trees.append(
            [
                [float(node["value"])]
                if node["is_leaf"]
                else [float(node["num_threshold"]), int(node["feature_idx"]), int(node["left"]), int(node["right"])]
                for node in predictor.nodes
            ]
        )
    forest = _packed(trees, float(np.ravel(model._baseline_prediction)[0]), low, high)
    some = x[:: max(1, len(x) // 200)]
    if not np.allclose(forest(some), np.clip(model.predict(some), low, high), atol=1e-6):
        raise RuntimeError("scikit-learn's trees are not where archrank.predictors.forest reads them: pin scikit-learn")
    return forest
