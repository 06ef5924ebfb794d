"""Which trials a rung lets up; the rule itself is tested where it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from archrank.search.objective import Objective, minimised
from archrank.search.pareto import ranks

pytest.importorskip("ray.tune")

from archrank.search.ray.halving import Halving


def best_by_rank(
    rungs: Sequence[Mapping[int, Mapping[str, float]]], objectives: Sequence[Objective], reduction: int
) -> tuple[int, int] | None:
    """The best ⌊n / η⌋ by non-dominated rank alone, those of the next rung left out."""
    ids = sorted(rungs[0])
    order = np.argsort(ranks(minimised([rungs[0][i] for i in ids], objectives)), kind="stable")
    left = [ids[i] for i in order[: len(ids) // reduction] if ids[i] not in rungs[1]]
    return (left[0], 1) if left else None


def verdict(s: Halving, name: str, iteration: int, error: float, size: float) -> str:
    result = {"training_iteration": iteration, "error": error, "size": size}
    return s.on_trial_result(None, SimpleNamespace(trial_id=name), result)


def test_dominated_trials_end_at_their_rung() -> None:
    s = Halving(["error:min", "size:min"], [1, 3, 9], best_by_rank, reduction=3)
    assert [verdict(s, "a", 1, 0.9, 9.0), verdict(s, "b", 1, 0.8, 8.0)] == ["CONTINUE"] * 2
    assert verdict(s, "c", 1, 0.95, 9.5) == "STOP"
    assert verdict(s, "d", 1, 0.1, 9.0) == "STOP"  # on the front, but one of four goes up, and b stands before it
    assert [verdict(s, "e", 1, 0.99, 9.9), verdict(s, "f", 1, 0.05, 1.0)] == ["STOP", "CONTINUE"]
    assert verdict(s, "f", 2, 0.05, 1.0) == "CONTINUE"  # no rung
    assert verdict(s, "f", 9, 0.05, 1.0) == "CONTINUE"  # the end


@pytest.mark.parametrize(("rungs", "reduction"), [([], 3), ([3, 1], 3), ([1, 3], 1)])
def test_rungs_that_are_none(rungs: list[int], reduction: int) -> None:
    with pytest.raises(ValueError, match="rungs must rise, the reduction be 2 or more"):
        Halving(["error:min"], rungs, best_by_rank, reduction)
