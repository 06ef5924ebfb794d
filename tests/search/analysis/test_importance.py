"""Features of derivations, and which of them matter."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from archrank import grammar, spaces
from archrank.grammar import Space
from archrank.search.analysis.features import decisions, productions
from archrank.search.analysis.found import features_of, importances_of, read_candidates
from archrank.search.analysis.importance import FEWEST, importance
from archrank.search.report.findings import Importance
from archrank.search.results import Run
from archrank.search.trial import Trial

RunOf = Callable[..., Run]


def test_decisions_are_numbers_and_ways(space: Space) -> None:
    found = decisions(space, [space.parse(t) for t in ("d8 conv pool skip", "d2 conv conv skip", "d2 conv skip skip")])
    assert found is not None
    assert found.names == ("DEPTH", "op 2"), "the first and the last op do not differ"
    assert found.x[:, found.groups[0]].ravel().tolist() == [8.0, 2.0, 2.0]
    assert np.array_equal(found.x[:, found.groups[1]].sum(axis=1), [1, 1, 1]), "one way each"


def test_a_place_that_is_not_reached_is_told_apart() -> None:
    space = grammar.loads('start: "a" -> a | "b" R -> b\nR: "1" | "2" | "4"\n%ignore /\\s+/\n')
    found = decisions(space, [space.parse(t) for t in ("a", "b 1", "b 4")])
    assert found is not None
    assert found.x[:, found.groups[found.names.index("R")]].ravel().tolist() == [-1.0, 1.0, 4.0]


def test_productions_are_counted(space: Space) -> None:
    found = productions(space, [space.parse(t) for t in ("d8 conv pool conv", "d8 skip skip skip")])
    told = dict(zip(found.names, found.x.T.tolist(), strict=True))
    assert told == {"op = conv": [2.0, 0.0], "op = pool": [1.0, 0.0], "op = skip": [0.0, 3.0]}


def test_sites_count_their_options() -> None:
    space = spaces.load("lora_ranks").bind({f"layers.{i}.q": (32, 32) for i in range(3)})
    candidates = [space.from_ranks({"layers.0.q": 4}), space.from_ranks({"layers.0.q": 4, "layers.2.q": 4})]
    assert dict(zip((f := productions(space, candidates)).names, f.x.T.tolist(), strict=True)) == {
        "none": [2.0, 1.0],
        "lora(4)": [1.0, 2.0],
    }
    found = decisions(space, candidates)
    assert found is not None
    assert found.names == ("layers.2.q",)


def test_a_recursive_space_has_productions_only() -> None:
    space = spaces.load("einspace")
    candidates = space.sample(np.random.default_rng(0), 5)
    assert decisions(space, candidates) is None
    assert productions(space, candidates).names


def _trials(space: Space, n: int, seed: int = 0) -> list[Trial]:
    """The first op says most, the depth a little, the others nothing."""
    rng = np.random.default_rng(seed)
    texts = [d.text for d in space.enumerate()]
    found = []
    for i, k in enumerate(rng.permutation(len(texts))[:n]):
        depth, first = re.findall(r"\d+|conv|pool|skip", texts[k])[:2]
        loss = {"conv": 0.0, "pool": 1.0, "skip": 3.0}[first] + 0.1 * int(depth)
        found.append(Trial(i, texts[k], "", {"loss": loss + 0.1 * rng.normal(), "flops": float(k)}))
    return found


def _of_loss(space: Space, n: int) -> Importance:
    trials = _trials(space, n)
    columns = decisions(space, [space.parse(t.text) for t in trials])
    assert columns is not None
    return importance("loss", "decision", columns, [t.values["loss"] for t in trials])


def test_what_matters_is_found(space: Space) -> None:
    loss = _of_loss(space, 80)
    told = dict(zip(loss.names, zip(loss.low, loss.share, loss.high, strict=True), strict=True))
    assert loss.names[0] == "op 1"
    assert all(low <= share <= high for low, share, high in told.values())
    assert told["op 1"][0] > 0.5, "its interval is far from 0"
    assert told["op 3"][0] < 0.05 > told["op 2"][0], "theirs are not"
    assert loss.r2 > 0.9
    assert loss.trials == 80
    assert loss == _of_loss(space, 80), "the same trials, the same figures"


def test_the_interval_is_narrower_with_more_trials(space: Space) -> None:
    few, many = _of_loss(space, FEWEST), _of_loss(space, 108)
    assert few.trials == FEWEST
    assert many.high[0] - many.low[0] < few.high[0] - few.low[0]


def test_every_objective_by_decision_and_by_production(space: Space, run_of: RunOf) -> None:
    run = run_of(space, _trials(space, FEWEST), objectives=["loss:min"])
    found = importances_of(run, read_candidates(run))
    assert [(i.objective, i.by, i.trials) for i in found] == [("loss", "decision", 40), ("loss", "production", 40)]
    assert set(found[1].names) <= {"op = conv", "op = pool", "op = skip", *(f"DEPTH = {n}" for n in (1, 2, 4, 8))}


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (0, "0 trials have a full value at the first stage: too few to tell what matters; at least 40 are needed."),
        (1, "1 trial has a full value at the first stage: too few to tell what matters; at least 40 are needed."),
        (39, "39 trials have a full value at the first stage: too few to tell what matters; at least 40 are needed."),
    ],
)
def test_too_few_trials_are_refused(space: Space, run_of: RunOf, n: int, said: str) -> None:
    run = run_of(space, _trials(space, n))
    found = importances_of(run, read_candidates(run))
    assert {i.refused for i in found} == {said}
    assert not any(i.names for i in found)


def test_noise_is_refused(space: Space) -> None:
    candidates = [space.parse(t.text) for t in _trials(space, 60)]
    noise = np.random.default_rng(5).normal(size=60)
    columns = decisions(space, candidates)
    assert columns is not None
    found = importance("loss", "decision", columns, noise.tolist())
    assert found.refused == (
        "A forest grown on the 60 trials predicts held-out ones no better than their mean does: nothing can be said "
        "about what matters."
    )
    assert importance("loss", "decision", columns, [1.0] * 60).refused == "All trials have the same value."
    same = decisions(space, candidates[:1] * 60)
    assert same is not None
    assert importance("loss", "d", same, noise.tolist()).refused == "The trials do not differ in any of these."


def test_the_features_that_go_with_the_quality_come_first(space: Space, run_of: RunOf) -> None:
    run = run_of(space, _trials(space, 60))
    found = features_of(run, read_candidates(run))
    assert len(found) == 5
    assert found[0].name in ("op = conv", "op = skip")
    assert "DEPTH" in {f.name for f in found}
    assert set(found[0].values) == {t.id for t in run.trials}
    assert features_of(run_of(space, _trials(space, 2)), read_candidates(run_of(space, _trials(space, 2)))) == []
