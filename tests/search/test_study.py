"""Ask, tell, and the log behind it."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from archrank import grammar
from archrank.search.objective import ObjectiveError
from archrank.search.storage import Log
from archrank.search.strategies import StrategyError
from archrank.search.study import Study, StudyError

GRAMMAR = 'start: site site site\nsite: "r" RANK -> site\nRANK: "0" | "1" | "2" | "4" | "8"\n%ignore /\\s+/\n'
OBJECTIVES = ["loss", "adapter_params"]


def space():
    return grammar.loads(GRAMMAR)


def evaluate(d):
    digits = [int(c) for c in d.text if c.isdigit()]
    return {
        "loss": 1 / (1 + sum((i + 1) * math.sqrt(r) for i, r in enumerate(digits))),
        "adapter_params": sum(digits),
    }


def run(study, n):
    while len(study.trials) < n and (asked := study.ask(1)):
        study.tell(asked[0], evaluate(asked[0]), seconds=0.5)
    return study


def test_nothing_twice_and_the_end_of_a_small_space():
    study = Study(space(), OBJECTIVES, "random", 0)
    batch = study.ask(60)
    assert len({d.key for d in batch}) == 60
    more = study.ask(60)  # nothing told yet
    assert len({d.key for d in [*batch, *more]}) == 120
    for d in [*more, *batch]:
        study.tell(d, evaluate(d))
    assert len(study.ask(60)) == 5
    assert study.ask(3) == []
    assert [t.id for t in study.trials] == list(range(120))


def test_told_from_outside():
    s = space()
    study = Study(s, OBJECTIVES, "nsga2", 1)
    outside = list(s.enumerate())[:100]
    for d in outside:
        study.tell(d, evaluate(d))
    asked = study.ask(50)
    assert len(asked) == 25
    assert not {d.key for d in asked} & {d.key for d in outside}
    with pytest.raises(StudyError, match="told already as trial 0 at stage inherited"):
        study.tell(outside[0], evaluate(outside[0]))
    promoted = study.tell(outside[0], evaluate(outside[0]), stage="final", parent=0, extra={"test": {"loss": 0.5}})
    assert (promoted.id, promoted.parent, promoted.extra["test"]) == (125, 0, {"loss": 0.5})


def test_values_that_are_not_finite_fail():
    study = Study(space(), OBJECTIVES, "random", 0)
    a, b, c = study.ask(3)
    assert study.tell(a, {"loss": math.nan, "adapter_params": 3}).reason == "loss is nan"
    bad = study.tell(b, {"loss": np.float32("inf"), "adapter_params": -math.inf})
    assert (bad.state, bad.reason, dict(bad.values)) == ("failed", "loss is inf, adapter_params is -inf", {})
    assert study.fail(c, "out of memory", seconds=2).seconds == 2
    assert [t.state for t in study.trials] == ["failed"] * 3
    assert len(study.front()) == 0
    assert not {d.key for d in study.ask(122)} & {a.key, b.key, c.key}


def test_constraints_make_infeasible():
    study = Study(space(), OBJECTIVES, "nsga2", 0, constraints="adapter_params <= 4")
    run(study, 60)
    assert {(t.state, t.values["adapter_params"] <= 4) for t in study.trials} == {
        ("done", True),
        ("infeasible", False),
    }
    broken = next(t for t in study.trials if t.state == "infeasible")
    assert broken.reason == "does not meet adapter_params <= 4"
    assert broken.extra["violation"] == pytest.approx((broken.values["adapter_params"] - 4) / 4)
    assert all(t.values["adapter_params"] <= 4 for t in study.front())


def test_infeasible_before_it_is_measured():
    study = Study(space(), OBJECTIVES, "random", 0)
    trial = study.tell(study.ask(1)[0], {"adapter_params": 9}, infeasible="does not meet adapter_params <= 4")
    assert (trial.state, trial.reason) == ("infeasible", "does not meet adapter_params <= 4")


def test_what_cannot_be_told():
    study = Study(space(), OBJECTIVES, "random", 0, constraints=["latency_ms <= 3"])
    (d,) = study.ask(1)
    with pytest.raises(StudyError, match="no value 'adapter_params' told; it is needed and there are: loss"):
        study.tell(d, {"loss": 1.0})
    with pytest.raises(StudyError, match="no value 'latency_ms' told"):
        study.tell(d, evaluate(d))
    with pytest.raises(StudyError, match="loss must be a number, not 'low'"):
        study.tell(d, {**evaluate(d), "latency_ms": 1.0, "loss": "low"})
    with pytest.raises(StudyError, match="stage 'late': must be one of inherited, reranked, final, measured"):
        study.fail(d, "x", stage="late")
    with pytest.raises(StudyError, match="parent 7: no such trial"):
        study.fail(d, "x", parent=7)
    with pytest.raises(StudyError, match=r"ask\(-1\): must be at least 0"):
        study.ask(-1)
    assert study.trials == ()


def test_wrong_names():
    with pytest.raises(StrategyError, match="no strategy 'nsga'; did you mean nsga2"):
        Study(space(), OBJECTIVES, "nsga")
    with pytest.raises(ObjectiveError, match="did you mean accuracy"):
        Study(space(), ["acuracy"])


def test_a_strategy_from_outside_may_repeat_itself():
    class Stubborn:
        def ask(self, history, n):
            return [space().parse("r1r1r1")] * n

    study = Study(space(), OBJECTIVES, Stubborn())
    assert [d.text for d in study.ask(3)] == [space().parse("r1r1r1").text]
    assert study.ask(3) == []


def test_resumed_from_the_log_is_the_same_run(tmp_path):
    whole = run(Study(space(), OBJECTIVES, "nsga2", 4), 60)
    for _ in range(4):
        with Log.open(tmp_path / "trials.jsonl", {"seed": 4}) as log:
            study = Study(space(), OBJECTIVES, "nsga2", 4, log=log)
            run(study, len(study.trials) + 15)
    assert [(t.id, t.text, t.values) for t in study.trials] == [(t.id, t.text, t.values) for t in whole.trials]


def test_a_log_without_keys(tmp_path):
    path = tmp_path / "trials.jsonl"
    record = {"id": 3, "text": "r1 r1 r1", "values": {"loss": 1.0, "adapter_params": 3}}
    path.write_text('{"schema": 1}\n' + json.dumps({**record, "stage": "inherited", "state": "done"}) + "\n")
    with Log.open(path) as log:
        study = Study(space(), OBJECTIVES, "random", 0, log=log)
        assert study.trials[0].key == space().parse("r1r1r1").key
        assert study.next_id == 4
        assert len(study.ask(200)) == 124


def test_next_id_is_the_promoted_trials():
    study = run(Study(space(), OBJECTIVES, "random", 0), 5)
    expected = study.next_id
    d = study.space.parse(study.trials[2].text)
    assert study.tell(d, evaluate(d), stage="reranked", parent=2).id == expected == 5


def test_promotions_do_not_reach_the_strategy():
    seen = []

    class Spy:
        def ask(self, history, n):
            seen.append([(t.id, t.stage, t.state) for t in history])
            return list(space().enumerate())[len(history) : len(history) + n]

    study = Study(space(), OBJECTIVES, Spy())
    (a,) = study.ask(1)
    study.tell(a, evaluate(a))
    study.tell(a, evaluate(a), stage="final")
    study.ask(1)
    study.ask(1)
    assert seen[1:] == [[(0, "inherited", "done")], [(0, "inherited", "done"), (2, "inherited", "pending")]]


def test_the_example_in_the_docs_runs():
    page = (Path(__file__).parents[2] / "docs" / "search.md").read_text()
    example = page.split("```python\n")[1].split("```")[0]
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "'weights'" in done.stdout
