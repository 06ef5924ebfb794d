"""Where a point is from, and the front of each device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from archrank import grammar, spaces
from archrank.grammar import Space
from archrank.search.analysis.device_fronts import device_fronts
from archrank.search.analysis.found import findings_of, read_candidates
from archrank.search.analysis.lineage import Lineages
from archrank.search.results import Run
from archrank.search.trial import Trial

RunOf = Callable[..., Run]


def _trial(number: int, text: str, loss: float, stage: str = "inherited", parent: int | None = None) -> Trial:
    return Trial(number, text, "", {"loss": loss, "flops": 1.0}, stage, parent=parent)


def _lineages(run: Run) -> Lineages:
    return Lineages(run, read_candidates(run))


def test_stages_then_the_nearest_earlier_candidates(space: Space, run_of: RunOf) -> None:
    trials = [
        _trial(0, "d8 skip skip skip", 4),
        _trial(1, "d1 conv conv conv", 3),
        _trial(2, "d1 conv pool conv", 2),
        _trial(3, "d1 conv pool pool", 1),
        _trial(4, "d1 conv pool pool", 0.5, "final", 3),
    ]
    found = _lineages(run_of(space, trials)).of(4)
    assert [s.trial for s in found.steps] == [4, 3, 2, 1]
    assert found.steps[1].relation == "the same candidate, trained further"
    assert found.steps[2].relation == "1 of 4 decisions differ"
    assert found.steps[2].changes == ["op 3: conv → pool"]
    assert found.steps[3].changes == ["op 2: conv → pool"]
    assert found.end == "a new candidate: the nearest earlier one, #0, differs in 4 of 4 decisions"


def test_the_latest_of_equally_near_ones(space: Space, run_of: RunOf) -> None:
    trials = [_trial(i, f"d1 conv conv {op}", 1) for i, op in enumerate(("conv", "pool", "skip"))]
    found = _lineages(run_of(space, trials)).of(2)
    assert [s.trial for s in found.steps] == [2, 1, 0]
    assert found.end == "the first candidate of the run"


def test_later_candidates_are_no_ancestors(space: Space, run_of: RunOf) -> None:
    trials = [_trial(0, "d1 conv conv conv", 1), _trial(1, "d1 conv conv pool", 1)]
    assert [s.trial for s in _lineages(run_of(space, trials)).of(0).steps] == [0]


def test_references_and_failed_candidates(space: Space, run_of: RunOf) -> None:
    failed = Trial(1, "d1 conv conv pool", "", {}, state="failed", reason="nan")
    trials = [_trial(0, "d1 conv conv conv", 1), failed, _trial(2, "d1 conv conv skip", 1, "final")]
    run = run_of(space, trials)
    assert _lineages(run).of(2).end == "a reference, trained without having been searched for"
    assert [s.trial for s in _lineages(run).of(0).steps] == [0]


def test_a_later_stage_without_a_parent_is_found_by_its_candidate(space: Space, run_of: RunOf) -> None:
    trials = [_trial(0, "d1 conv conv conv", 1), _trial(1, "d1 conv conv conv", 0.5, "measured")]
    found = _lineages(run_of(space, trials)).of(1)
    assert [(s.trial, s.relation) for s in found.steps] == [(1, ""), (0, "the same candidate, evaluated before")]
    assert found.end == "the first candidate of the run"


def test_a_long_lineage_ends_and_long_changes_are_counted(run_of: RunOf) -> None:
    space = spaces.load("lora_ranks").bind({f"layers.{i}.q": (32, 32) for i in range(24)})
    texts = [space.from_ranks({f"layers.{i}.q": 4 for i in range(n)}).text for n in (1, 11, 12, 13, 14, 15, 16, 17)]
    found = _lineages(run_of(space, [_trial(i, t, 1) for i, t in enumerate(texts)]))
    assert found.of(7).end == "6 steps back from the first evaluation"
    step = found.of(1).steps[1]
    assert (step.relation, len(step.changes), step.more) == ("10 of 24 decisions differ", 8, 2)
    assert step.changes[0] == "layers.1.q: none → lora(4)"


def test_recursive_spaces_differ_in_words(run_of: RunOf) -> None:
    space = grammar.loads(
        'start: block\nblock: "conv" block -> more | "pool" block -> pools | "end" -> end\n%ignore /\\s+/\n'
    )
    texts = ["conv conv conv end", "conv pool conv end", "pool pool pool pool end"]
    found = _lineages(run_of(space, [_trial(i, t, 1) for i, t in enumerate(texts)]))
    assert found.of(1).steps[1].changes == ["conv → pool"]
    assert found.of(1).steps[1].relation == "1 of 4 words differ"
    assert found.of(2).end == "a new candidate: the nearest earlier one, #1, differs in 3 of 5 words"


def test_the_front_of_each_device(space: Space, run_of: RunOf) -> None:
    texts = [d.text for d in space.enumerate()][:4]
    rows = [(1.0, 1.0, 9.0), (2.0, 0.5, 1.0), (3.0, 0.7, 0.5), (4.0, 9.0, 9.0)]
    trials = [
        Trial(i, t, "", {"loss": a, "latency_ms@x": b, "latency_ms@y": c})
        for i, (t, (a, b, c)) in enumerate(zip(texts, rows, strict=True))
    ]
    objectives = ["loss:min", "latency_ms@x:min", "latency_ms@y:min"]
    assert device_fronts(run_of(space, trials, objectives)) == {"latency_ms@x": [0, 1], "latency_ms@y": [0, 1, 2]}
    bounded = run_of(space, trials, objectives, where=("latency_ms@x <= 0.8",))
    assert device_fronts(bounded) == {"latency_ms@x": [1], "latency_ms@y": [1, 2]}
    assert device_fronts(run_of(space, trials, objectives[:2])) == {}


def test_a_candidate_from_outside_the_space_is_left_out(space: Space, run_of: RunOf) -> None:
    run = run_of(space, [_trial(0, "d1 conv conv conv", 1), _trial(1, "d1 conv conv pool", 2)])
    outside = replace(run.trials[1], id=2, text="d1 conv conv melt", key="melt")
    run = replace(run, contents=replace(run.contents, trials=[*run.trials, outside]))
    found, warning = findings_of(run, [1, 2])
    assert [lineage.steps[0].trial for lineage in found.lineages] == [1]
    assert not warning


def test_a_space_that_cannot_be_read_is_a_warning(space: Space, run_of: RunOf, tmp_path: Path) -> None:
    run = run_of(space, [_trial(0, "d1 conv conv conv", 1)])
    (tmp_path / "space.lark").write_text("start: melt\n")
    found, warning = findings_of(replace(run, given=None, path=tmp_path), [0])
    assert not found.lineages
    assert not found.importances
    assert "space.lark cannot be read, so what rests on derivations is left out: " in warning


def test_words_are_told_apart_without_spaces(run_of: RunOf) -> None:
    space = grammar.loads('start: b\nb: "seq(" b "," b ")" -> seq | "conv" -> conv | "pool" -> pool\n')
    texts = ["seq(conv,seq(pool,conv))", "seq(conv,seq(pool,pool))"]
    step = _lineages(run_of(space, [_trial(i, t, 1) for i, t in enumerate(texts)])).of(1).steps[1]
    assert (step.relation, step.changes) == ("1 of 5 words differ", ["conv → pool"])


def test_decisions_that_one_of_two_takes_are_counted(run_of: RunOf) -> None:
    space = grammar.loads('start: "a" -> a | "b" R R R -> b\nR: "1" | "2" | "4"\n%ignore /\\s+/\n')
    found = _lineages(run_of(space, [_trial(0, "b 1 2 4", 1), _trial(1, "a", 1)])).of(1)
    assert found.end == "a new candidate: the nearest earlier one, #0, differs in 4 of 4 decisions"
