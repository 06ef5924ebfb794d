"""Fronts, hypervolume, knees and picks."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from archrank.search.errors import NothingFeasible
from archrank.search.expression import ExpressionError, parse_where
from archrank.search.objective import ObjectiveError, parse_objectives
from archrank.search.pareto import (
    ParetoFront,
    PickError,
    Scale,
    crowding_distance,
    hypervolume,
    knee,
    latest,
    log2_params,
    non_dominated,
    ranks,
    reference_point,
)
from archrank.search.trial import Trial

LOSS_PARAMS = parse_objectives(["loss", "adapter_params"])


def dominates(a, b):
    return (a <= b).all() and (a < b).any()


def plain_ranks(values):
    """The definition, peeled front by front."""
    left, found, rank = set(range(len(values))), np.full(len(values), -1), 0
    while left:
        front = [i for i in left if not any(dominates(values[j], values[i]) for j in left)]
        found[front], left, rank = rank, left - set(front), rank + 1
    return found


@pytest.mark.parametrize("m", [1, 2, 3])
def test_ranks_and_front_follow_the_definition(m):
    rng = np.random.default_rng(m)
    for _ in range(20):
        values = rng.integers(0, 6, (25, m)).astype(float)
        np.testing.assert_array_equal(ranks(values), plain_ranks(values))
        np.testing.assert_array_equal(non_dominated(values), plain_ranks(values) == 0)


def test_rows_that_are_not_finite_come_last():
    values = np.array([[1.0, 2.0], [np.nan, 0.0], [2.0, 3.0], [-np.inf, 0.0]])
    np.testing.assert_array_equal(non_dominated(values), [True, False, False, False])
    np.testing.assert_array_equal(ranks(values), [0, 2, 1, 2])
    assert hypervolume(values, np.array([3.0, 3.0])) == 2.0
    assert not non_dominated(values[1:2]).any()
    assert ranks(np.zeros((0, 2))).shape == non_dominated(np.zeros((0, 2))).shape == (0,)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_hypervolume_is_the_covered_share_of_a_grid(m):
    rng = np.random.default_rng(m)
    values, side = rng.integers(0, 6, (7, m)).astype(float), 5
    cells = itertools.product(range(side), repeat=m)
    covered = sum(any(all(v[j] <= c[j] for j in range(m)) for v in values) for c in cells)
    assert hypervolume(values, np.full(m, float(side))) == pytest.approx(covered)
    assert hypervolume(values[:0], np.full(m, 1.0)) == 0.0


def test_crowding_distance_by_hand():
    values = np.array([[0.0, 4.0], [1.0, 2.0], [2.0, 1.0], [4.0, 0.0]])
    np.testing.assert_allclose(crowding_distance(values), [np.inf, 2 / 4 + 3 / 4, 3 / 4 + 2 / 4, np.inf])
    np.testing.assert_array_equal(crowding_distance(np.ones((3, 2)))[[0, 2]], [np.inf, np.inf])
    assert crowding_distance(np.zeros((0, 2))).shape == (0,)
    assert crowding_distance(np.zeros((1, 2))).tolist() == [np.inf]


def test_reference_point():
    values = np.array([[0.0, 2.0], [1.0, 2.0], [np.nan, 9.0]])
    np.testing.assert_allclose(reference_point(values, 0.5), [1.5, 3.0])
    with pytest.raises(NothingFeasible, match="no reference point: no finished trial"):
        reference_point(values[2:])


def test_log2_params():
    np.testing.assert_array_equal(log2_params(np.array([0.0, 64.0, 128.0]), 64), [6, 6, 7])


def test_knee_is_the_bulge_and_deterministic():
    assert knee(np.array([[0.0, 1.0], [0.2, 0.2], [1.0, 0.0]])) == 1
    assert knee(np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])) == 1  # on the line: the balanced one
    assert knee(np.array([[3.0, 1.0]])) == 0
    assert knee(np.array([[0.0, 1.0], [0.1, 0.3], [0.3, 0.1], [1.0, 0.0]])) == 1  # a tie: the first
    assert knee(np.array([[0.0, 5.0, 1.0], [1.0, 5.0, 0.0]])) == 0
    with pytest.raises(NothingFeasible, match="no knee: the front is empty"):
        knee(np.zeros((0, 2)))


def trials():
    rows = [
        (0.9, 0, 1.0),
        (0.5, 64, 1.5),
        (0.30, 512, 2.0),
        (0.299, 4096, 2.5),
        (0.6, 4096, 0.5),
        (0.298, 8192, 9.0),
    ]
    return [
        Trial(i, f"s{i}", f"k{i}", {"loss": a, "adapter_params": b, "latency_ms": c})
        for i, (a, b, c) in enumerate(rows)
    ]


def test_front_order_and_picks():
    front = ParetoFront.of(trials(), LOSS_PARAMS)
    assert [t.id for t in front] == [5, 3, 2, 1, 0]
    assert len(front) == 5
    assert front[0].id == 5
    assert front.knee().id == front.pick("knee").id == 1
    assert front.best("loss").id == front.pick("best:loss").id == 5
    assert front.best("adapter_params").id == 0
    assert front.best("latency_ms").id == 4  # no objective, and not on the front
    assert front.best("latency_ms:max").id == 5
    assert front.best("loss", where="latency_ms <= 2 and adapter_params <= 4k").id == 2
    assert front.within("0.5%").id == front.pick("within:0.5%").id == 3
    assert front.within(0.05).id == 2
    assert front.pick("within:0%").id == 5
    assert front.pick("4").id == 4


def test_front_with_constraints():
    front = ParetoFront.of(trials(), LOSS_PARAMS, parse_where("latency_ms <= 0.9"))
    assert [t.id for t in front] == [4]
    without = [Trial(9, "a", "a", {"loss": 1.0, "adapter_params": 3})]
    assert len(ParetoFront.of(without, LOSS_PARAMS, parse_where("latency_ms <= 1"))) == 0
    assert len(ParetoFront.of(without, parse_objectives(["loss", "flops"]))) == 0


def test_equal_candidates_are_both_kept_and_maximised_ones_too():
    twins = [Trial(i, str(i), str(i), {"accuracy": a}) for i, a in enumerate([0.5, 0.9, 0.9])]
    front = ParetoFront.of(twins, parse_objectives(["accuracy"]))
    assert [t.id for t in front] == [1, 2]
    assert front.within("1%").id == front.knee().id == 1


@pytest.mark.parametrize(
    ("pick", "kind", "part"),
    [
        (
            "kneee",
            PickError,
            "cannot pick 'kneee'; did you mean knee? Write knee, best:OBJECTIVE, within:0.5% or a trial's id",
        ),
        ("best", PickError, "Write knee, best:OBJECTIVE"),
        ("best:los", ObjectiveError, "did you mean loss?"),
        ("within:much", PickError, "'much' is not a number"),
        ("within:200%", PickError, "must be between 0% and 100%"),
        ("99", PickError, "no feasible trial 99 at its latest stage; the front has 5, 3, 2, 1, 0"),
        ("-1", PickError, "cannot pick '-1'"),
    ],
)
def test_wrong_picks(pick, kind, part):
    with pytest.raises(kind) as error:
        ParetoFront.of(trials(), LOSS_PARAMS).pick(pick)
    assert part in str(error.value)


def test_nothing_meets():
    front = ParetoFront.of(trials(), LOSS_PARAMS)
    with pytest.raises(NothingFeasible, match=r"no trial of the run meets loss <= 0.1"):
        front.best("loss", where="loss <= 0.1")
    with pytest.raises(ExpressionError, match="did you mean loss"):
        front.best("loss", where="los <= 0.1")
    empty = ParetoFront.of([], LOSS_PARAMS)
    for ask in (
        empty.knee,
        lambda: empty.best("loss"),
        lambda: empty.within("1%"),
        lambda: empty.pick("knee"),
    ):
        with pytest.raises(NothingFeasible, match="the front is empty"):
            ask()
    assert list(empty) == []


def test_latest_stage_counts():
    def told(i, text, stage, state="done"):
        return Trial(i, text, text, {"loss": float(i)}, stage, state)

    found = latest(
        [
            told(0, "a", "inherited"),
            told(1, "b", "inherited"),
            told(2, "c", "inherited"),
            told(3, "d", "inherited", "infeasible"),
            told(4, "a", "final"),
            told(5, "a", "reranked"),
            told(6, "b", "reranked", "failed"),
            told(7, "c", "reranked", "infeasible"),
            told(8, "e", "inherited", "failed"),
        ]
    )
    assert [(t.text, t.id) for t in found] == [("b", 1), ("a", 4)]


def test_scale_is_saved_once():
    saved = {"event": "reference", "values": {"loss": 1.0, "adapter_params": 16384}, "floor": 64}
    scale = Scale.from_json(LOSS_PARAMS, saved)
    np.testing.assert_array_equal(scale.reference, [1.0, 14.0])
    np.testing.assert_allclose(scale.points(trials())[:3], [[0.9, 6], [0.5, 6], [0.3, 9]])
    assert scale.hypervolume(trials()[1:2]) == pytest.approx(0.5 * 8)
    assert scale.hypervolume([]) == 0.0
    upward = Scale.from_json(parse_objectives(["accuracy"]), {"values": {"accuracy": 0.5}})
    assert upward.reference.tolist() == [-0.5]
    with pytest.raises(ValueError, match="a reference needs values and a floor"):
        Scale.from_json(LOSS_PARAMS, {"values": 3})


def test_to_pandas():
    pytest.importorskip("pandas")
    frame = ParetoFront.of(trials(), LOSS_PARAMS).to_pandas()
    assert list(frame.columns) == ["id", "text", "stage", "seconds", "loss", "adapter_params", "latency_ms"]
    assert frame["id"].tolist() == [5, 3, 2, 1, 0]


def test_to_pandas_without_pandas():
    code = (
        "import sys; sys.modules['pandas'] = None\nfrom archrank.search.pareto import ParetoFront\n"
        "try: ParetoFront((), (), ()).to_pandas()\nexcept ImportError as e: print(e)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "to_pandas needs pandas: pip install pandas\n"
