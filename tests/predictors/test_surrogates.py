"""Surrogates: what each must do, whatever its kind, and features of any space."""

from __future__ import annotations

import numpy as np
import pytest

from archrank import grammar, spaces
from archrank.predictors import metrics, surrogates
from archrank.predictors.surrogates import SurrogateError

SPACE = spaces.load("nasbench201")
RNG = np.random.default_rng(0)
SOME = list({d.key: d for d in SPACE.sample(RNG, 260)}.values())
X = surrogates.features(SPACE, SOME)
GAIN = {"nor_conv_3x3": 3.0, "nor_conv_1x1": 2.0, "skip_connect": 1.5, "avg_pool_3x3": 0.7, "none": 0.0}
CLEAN = np.array([sum(GAIN[edge] for edge in d.text[5:-1].split(",")) for d in SOME])
NOISE = 0.5
Y = CLEAN + NOISE * RNG.standard_normal(len(SOME))
TRAIN = 120


@pytest.mark.parametrize("name", surrogates.available())
def test_learns_an_order_and_knows_how_far_it_is_off(name: str) -> None:
    model = surrogates.load(name)(seed=0)
    told = model.fit(X[:TRAIN], Y[:TRAIN]).predict(X[TRAIN:])
    assert told.mean.shape == told.std.shape == (len(SOME) - TRAIN,)
    assert metrics.kendall(CLEAN[TRAIN:], told.mean) > 0.75
    low, high = told.interval(0.9)
    assert 0.8 <= np.mean((low <= Y[TRAIN:]) & (Y[TRAIN:] <= high)) <= 0.99
    assert np.median(told.std) < Y.std()
    again = surrogates.load(name)(seed=0).fit(X[:TRAIN], Y[:TRAIN]).predict(X[TRAIN:])
    assert np.array_equal(told.mean, again.mean)
    moved = model.fit(X[:TRAIN], 1000 + 10 * Y[:TRAIN]).predict(X[TRAIN:])  # units do not matter
    assert np.allclose(moved.mean, 1000 + 10 * told.mean, atol=0.5)
    assert np.allclose(moved.std, 10 * told.std, rtol=0.05)
    assert surrogates.summary(name)


@pytest.mark.parametrize("name", surrogates.available())
def test_fewer_candidates_mean_more_doubt(name: str) -> None:
    few, many = (surrogates.load(name)().fit(X[:n], Y[:n]).predict(X[TRAIN:]) for n in (10, TRAIN))
    assert np.median(few.std) > np.median(many.std)


@pytest.mark.parametrize("name", surrogates.available())
def test_one_value_and_three_candidates_are_enough(name: str) -> None:
    told = surrogates.load(name)().fit(X[:3], [1.0, 1.0, 1.0]).predict(X[3:6])
    assert np.allclose(told.mean, 1.0)
    assert np.isfinite(told.std).all()


@pytest.mark.parametrize("name", surrogates.available())
def test_what_cannot_be_fitted_is_told(name: str) -> None:
    model = surrogates.load(name)()
    with pytest.raises(SurrogateError, match=r"2 candidate\(s\) were given: a surrogate needs at least 3"):
        model.fit(X[:2], [1, 2])
    with pytest.raises(SurrogateError, match=r"x has 4 rows, y has shape \(3,\): one value a candidate"):
        model.fit(X[:4], [1, 2, 3])
    with pytest.raises(SurrogateError, match=r"y holds a number that is not finite: leave failed candidates out"):
        model.fit(X[:3], [1, 2, np.nan])
    with pytest.raises(SurrogateError, match=r"x has shape \(3,\), but it is \(candidates, features\)"):
        model.fit(X[0, :3], [1, 2, 3])
    with pytest.raises(SurrogateError, match=r"features, but the model was fitted on"):
        model.fit(X[:3], [1, 2, 3]).predict(X[:, :5])


def test_names_and_levels() -> None:
    with pytest.raises(
        SurrogateError, match=r"no surrogate 'tree'; did you mean trees\? there are: gp, kernel_ridge, tr"
    ):
        surrogates.load("tree")
    with pytest.raises(SurrogateError, match=r"level = 2, but it must be between 0 and 1"):
        surrogates.load("gp")().fit(X[:3], [1, 2, 3]).predict(X[:1]).interval(2)


@pytest.mark.parametrize("name", ["einspace", "gpt2_elastic", "mobilenetv3"])
def test_features_of_any_space(name: str) -> None:
    space = spaces.load(name)
    drawn = space.sample(np.random.default_rng(1), n=12)
    x = surrogates.features(space, drawn)
    assert len(x) == 12
    assert np.isfinite(x).all()
    assert np.array_equal(x[:5], surrogates.features(space, drawn[:5]))
    assert len(np.unique(x, axis=0)) == len({d.key for d in drawn})


def test_ranks_are_also_numbers() -> None:
    space = grammar.load("lora_ranks").bind({"a.q": (32, 32), "a.v": (32, 32)})
    drawn = space.sample(np.random.default_rng(0), n=40)
    x = surrogates.features(space, drawn)
    ranks = np.array(
        [[space.adapters(d)[s].rank if s in space.adapters(d) else 0 for s in ("a.q", "a.v")] for d in drawn]
    )
    logs = np.log2(1 + ranks)
    assert all(any(np.allclose(x[:, c], logs[:, s]) for c in range(x.shape[1])) for s in range(2))
