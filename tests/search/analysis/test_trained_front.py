"""The interval around the hypervolume curve: the front of each moment, had it been trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from archrank.grammar import Space
from archrank.search.analysis.trained_front import trained_front
from archrank.search.pareto import hypervolume, non_dominated
from archrank.search.results import Run
from archrank.search.trial import Trial

RunOf = Callable[..., Run]
WORST = {"loss": 4.0, "flops": 120.0}


def _trials(space: Space, pairs: int, noise: float, n: int = 60) -> list[Trial]:
    """Trained losses are half of the inherited ones, with noise; the first `pairs` candidates are trained."""
    rng = np.random.default_rng(1)
    texts = [d.text for d in space.enumerate()]
    first = [
        Trial(i, texts[k], "", {"loss": 1 + 2 * float(rng.random()), "flops": float(k)})
        for i, k in enumerate(rng.permutation(len(texts))[:n])
    ]
    later = [
        Trial(
            n + i, t.text, "", {**t.values, "loss": t.values["loss"] / 2 + noise * rng.normal()}, "final", parent=t.id
        )
        for i, t in enumerate(first[:pairs])
    ]
    return [*first, *later]


def test_an_exact_line_leaves_no_doubt(space: Space, run_of: RunOf) -> None:
    run = run_of(space, _trials(space, 10, 0.0), worst=WORST)
    band = trained_front(run)
    assert all(high - low < 1e-9 for _, low, _, high in band.points)
    first = [t for t in run.trials if t.stage == "inherited"]
    points = np.array([[t.values["loss"], t.values["flops"]] for t in first])
    front = points[non_dominated(points)] * [0.5, 1]
    assert band.points[-1][0] == 60
    assert band.points[-1][2] == pytest.approx(hypervolume(front, np.array([4.0, 120.0])))


def test_noise_widens_it_and_the_truth_lies_inside(space: Space, run_of: RunOf) -> None:
    little, much = (trained_front(run_of(space, _trials(space, 20, s), worst=WORST)).points[-1] for s in (0.02, 0.2))
    assert little[3] - little[1] < much[3] - much[1]
    exact = trained_front(run_of(space, _trials(space, 20, 0.0), worst=WORST)).points[-1][2]
    assert little[1] < exact < little[3]
    assert much[1] < exact < much[3]


def test_it_says_what_it_is(space: Space, run_of: RunOf) -> None:
    said = trained_front(run_of(space, _trials(space, 10, 0.1), worst=WORST)).said
    assert "90 % of 200 draws in which a point without a final value takes one predicted from its first value" in said
    assert "through the 10 candidates that have both" in said


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (0, "No interval: no candidate was measured at a second stage; runs that differ in their seed give one"),
        (1, "No interval: only 1 candidate was measured again at a later stage, at least 8 are needed;"),
        (7, "No interval: only 7 candidates were measured again at a later stage, at least 8 are needed;"),
    ],
)
def test_too_few_trained_candidates_give_none(space: Space, run_of: RunOf, pairs: int, said: str) -> None:
    band = trained_front(run_of(space, _trials(space, pairs, 0.1), worst=WORST))
    assert not band.points
    assert band.said.startswith(said)


def test_later_values_without_a_parent_are_matched_by_their_candidate(space: Space, run_of: RunOf) -> None:
    trials = _trials(space, 10, 0.1)
    told = [replace(t, parent=None, stage="measured") if t.stage == "final" else t for t in trials]
    by_parent, by_key = (trained_front(run_of(space, of, worst=WORST)) for of in (trials, told))
    assert by_key.points == by_parent.points
    assert "without a measured value" in by_key.said


def test_a_run_without_reference_has_no_curve_to_doubt(space: Space, run_of: RunOf) -> None:
    assert trained_front(run_of(space, _trials(space, 10, 0.1))).points == ()


def test_raced_trials_stand_on_no_front(space: Space, run_of: RunOf) -> None:
    trials = _trials(space, 10, 0.1)
    best = replace(trials[30], values={"loss": 0.001, "flops": 0.0}, extra={"raced": 3})
    with_raced = run_of(space, [*trials[:30], best, *trials[31:]], worst=WORST)
    assert trained_front(with_raced).points[-1][2] < 4 * 120 * 0.95
