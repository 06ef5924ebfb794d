"""Search by budget."""

import numpy as np
import pytest

from archrank import grammar
from archrank.search.objective import parse_objectives
from archrank.search.strata import Strata, log_edges
from archrank.search.strategies import StrategyError
from archrank.search.study import Study
from archrank.search.trial import Trial

OBJECTIVES = parse_objectives(["loss", "adapter_params"])


@pytest.fixture(scope="module")
def space():
    return grammar.load("lora_ranks").bind({f"layer{i}.q": (32, 32) for i in range(6)})


def evaluate(space, d):
    cost = space.cost(d).adapter_params
    return {
        "loss": 1 / (1 + sum((i + 1) * a.rank for i, a in enumerate(space.adapters(d).values()))),
        "adapter_params": cost,
    }


def test_log_edges():
    assert log_edges(10, 160, 4) == pytest.approx([10, 20, 40, 80, 160])
    with pytest.raises(StrategyError, match="strata need 0 < low <= high and at least one, not 0, 3 and 2"):
        log_edges(0, 3, 2)


def test_edges_must_rise(space):
    with pytest.raises(StrategyError, match="edges of strata must rise, not 1, 5, 3"):
        Strata(space, [1, 5, 3])
    with pytest.raises(StrategyError, match="edges of strata must rise"):
        Strata(space, [1])


def test_each_candidate_has_one_stratum(space):
    strata = Strata(space, [64, 128, 512, 3072])
    assert [strata.stratum_of(p) for p in (0, 64, 127, 128, 129, 512, 513, 3072, 9999)] == [0, 0, 0, 0, 1, 1, 2, 2, 2]
    rng = np.random.default_rng(0)
    for i, part in enumerate(strata.spaces):
        assert {strata.stratum_of(space.cost(d).adapter_params) for d in part.sample(rng, n=30)} == {i}
    failed = Trial(0, space.sample(rng)[0].text, "k", {}, state="failed")
    assert strata.place(failed) == strata.stratum_of(space.cost(space.parse(failed.text)).adapter_params)


@pytest.mark.parametrize("name", ["random", "nsga2", "optuna:TPESampler"])
def test_strata_take_turns_and_resume(space, name):
    strata = Strata(space, log_edges(64, 3072, 4))

    def study():
        return Study(space, OBJECTIVES, strata.strategy(name, OBJECTIVES, 3))

    one, batches = study(), study()
    for _ in range(100):
        (d,) = one.ask(1)
        one.tell(d, evaluate(space, d))
    sizes = [len(g) for g in strata.groups(one.trials)]
    assert max(sizes) <= max(sizes[-1], 26)
    assert sizes[-1] - sizes[-2] <= 1
    assert len({t.key for t in one.trials}) == 100
    for t in one.trials[:70]:
        batches.tell(space.parse(t.text), t.values)
    assert [d.text for d in batches.ask(1)] == [one.trials[70].text]
    assert len({d.key for d in batches.ask(8)}) == 8


def test_a_small_stratum_leaves_its_turn(space):
    strata = Strata(space, [64, 65, 3072])  # the first holds one rank-1 module: six candidates
    study = Study(space, OBJECTIVES, strata.strategy("random", OBJECTIVES, 0))
    first = study.ask(30)
    costs = [space.cost(d).adapter_params for d in first]
    assert sum(c == 64 for c in costs) == 6
    assert [c == 64 for c in costs[:12]] == [True, False] * 6
    assert len(first) == 30


def test_an_empty_stratum_is_left_out(space):
    strata = Strata(space, [65, 100, 3072])
    assert strata.spaces[0] is None
    assert len(Study(space, OBJECTIVES, strata.strategy("nsga2", OBJECTIVES, 0)).ask(4)) == 4
