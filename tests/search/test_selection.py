"""Who moves up, on trials whose order can be seen."""

from __future__ import annotations

from archrank.search.objective import parse_objectives
from archrank.search.selection import by_quality, spread
from archrank.search.trial import Trial


def trial(number: int, loss: float, params: float) -> Trial:
    return Trial(number, f"t{number}", f"k{number}", {"loss": loss, "adapter_params": params, "accuracy": 1 - loss})


OBJECTIVES = parse_objectives(["loss", "adapter_params"])
GROUPS = [[trial(0, 0.9, 10), trial(1, 0.7, 12)], [], [trial(2, 0.2, 90), trial(3, 0.2, 80), trial(4, 0.5, 70)]]


def test_the_first_objective_decides_then_the_cost() -> None:
    assert [t.id for t in by_quality(GROUPS[2], OBJECTIVES)] == [3, 2, 4]
    assert [t.id for t in by_quality(GROUPS[0], parse_objectives(["accuracy:max", "adapter_params"]))] == [1, 0]


def test_the_strata_take_turns() -> None:
    assert [t.id for t in spread(GROUPS, 3, OBJECTIVES)] == [1, 3, 0]
    assert [t.id for t in spread(GROUPS, 99, OBJECTIVES)] == [1, 3, 0, 2, 4]
    assert spread(GROUPS, 0, OBJECTIVES) == []
    assert spread([], 4, OBJECTIVES) == []
