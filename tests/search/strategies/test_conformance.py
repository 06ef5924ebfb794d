"""What every strategy must keep; a new file in search/strategies is tested by being there."""

import ast
import math
import re
from pathlib import Path

import numpy as np
import pytest

from archrank import grammar
from archrank.search import strategies
from archrank.search.pareto import hypervolume
from archrank.search.study import Study

NAMES = [
    *strategies.available(),
    "optuna:NSGAIISampler",
    "optuna:NSGAIIISampler",
]  # `optuna` is optuna:TPESampler
OBJECTIVES = ("error:min", "latency_ms:min", "gain:max")


def toy(loops):
    """16 ** loops sentences."""
    return grammar.loads(
        "start: "
        + " ".join(["loop"] * loops)
        + '\nloop: "tile" "(" SIZE "," ORDER ")" -> tiled\n | "unroll" "(" ORDER ")" -> unrolled\n'
        ' | "plain" -> plain\nSIZE: "8" | "16" | "32" | "64"\nORDER: "1" | "3" | "5"\n%ignore /\\s+/\n'
    )


def evaluate(d):
    found = re.findall(r"tile\((\d+),(\d)\)|unroll\((\d)\)|plain", "".join(d.text.split()))
    loops = [(int(s), int(o)) if s else (4, int(u)) if u else (0, 0) for s, o, u in found]
    gain = sum((i + 1) * (math.log2(1 + s) / 6 + (o == 3) - 0.3 * (o == 5)) for i, (s, o) in enumerate(loops))
    return {
        "error": 10 / (1 + gain),
        "latency_ms": 0.5 + sum(s * (1 + 0.1 * o) for s, o in loops) / 20,
        "gain": gain,
    }


def run(name, seed, trials, *, loops=4, objectives=2, batch=1, function=evaluate, **more):
    study = Study(toy(loops), OBJECTIVES[:objectives], name, seed, **more)
    while len(study.trials) < trials and (asked := study.ask(min(batch, trials - len(study.trials)))):
        for d in asked:
            values = function(d)
            study.tell(d, values) if values else study.fail(d, "on fire")
    return study


def texts(study):
    return [t.text for t in study.trials]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_proposals_are_new_sentences_of_the_space(name, objectives):
    study, space = run(name, 0, 45, objectives=objectives, batch=4), toy(4)
    assert len(study.trials) == len({t.key for t in study.trials}) == 45
    for t in study.trials:
        d = space.parse(t.text)
        assert (d.key, d.text) == (t.key, t.text)
        assert space.meets(d)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_proposals(name):
    a, b, c = (texts(run(name, seed, 40, batch=5)) for seed in (0, 0, 1))
    assert a == b != c


@pytest.mark.parametrize("name", NAMES)
def test_a_replayed_history_gives_the_same_proposals(name):
    def told(order):
        study, seen = Study(toy(4), OBJECTIVES[:2], name, 3), []
        for _ in range(6):  # past two generations of 20
            batch = study.ask(8)
            for d in batch[::order]:
                study.tell(d, evaluate(d))
            seen += batch
        return seen, [d.text for d in study.ask(8)]

    (seen, after), (backward, late) = told(1), told(-1)
    assert ([d.text for d in seen], after) == ([d.text for d in backward], late)
    again = Study(toy(4), OBJECTIVES[:2], name, 3)
    for d in seen:
        again.tell(toy(4).parse(d.text), evaluate(d))
    assert [d.text for d in again.ask(8)] == after


@pytest.mark.parametrize("name", NAMES)
def test_a_fold_continues_where_another_stopped(name):
    whole = run(name, 2, 50)
    later = Study(toy(4), OBJECTIVES[:2], name, 2)
    for t in whole.trials[:33]:
        later.tell(toy(4).parse(t.text), t.values)
    for t in whole.trials[33:]:
        (d,) = later.ask(1)
        assert d.text == t.text
        later.tell(d, t.values)


@pytest.mark.parametrize("name", NAMES)
def test_survives_failures_and_constraints(name):
    def hazard(d):
        kind = sum(d.text.encode()) % 5
        return None if kind == 0 else {**evaluate(d), **({"error": math.nan} if kind == 1 else {})}

    study = run(name, 1, 45, function=hazard, batch=3, constraints="latency_ms <= 4")
    assert {t.state for t in study.trials} == {"done", "failed", "infeasible"}
    assert len({t.key for t in study.trials}) == 45
    none = run(name, 1, 30, function=lambda d: None)
    assert len(none.trials) == 30


@pytest.mark.parametrize("name", NAMES)
def test_out_of_turn_answers(name):
    """Candidates that are still being measured are not asked for again; late values count."""
    study = Study(toy(4), OBJECTIVES[:2], name, 5)
    waiting = study.ask(4)
    for _ in range(30):
        d = waiting.pop(len(study.trials) % 3)
        study.tell(d, evaluate(d))
        waiting += study.ask(1)
    assert len({d.key for d in waiting} | {t.key for t in study.trials}) == 34


@pytest.mark.parametrize("name", NAMES)
def test_ends_with_all_of_a_small_space(name):
    study = run(name, 0, 20, loops=1, batch=3)
    assert len(study.trials) == len({t.key for t in study.trials}) == 16
    single = grammar.loads('start: "a" -> only\n')
    one = Study(single, ["error:min"], name)
    (d,) = one.ask(2)
    one.tell(d, {"error": 1.0})
    assert one.ask(2) == []


@pytest.mark.parametrize("name", [n for n in NAMES if n != "random"])
def test_beats_random_search(name):
    def volume(study):
        values = np.array([[t.values["error"], math.log2(t.values["latency_ms"])] for t in study.trials])
        return hypervolume(values, np.array([5.0, 4.0]))

    ours, chance = ([volume(run(n, seed, 100, loops=6)) for seed in range(3)] for n in (name, "random"))
    assert np.mean(ours) > np.mean(chance)


@pytest.mark.parametrize("name", ["nsga2", "optuna", "optuna:NSGAIISampler"])
def test_constraints_are_learned(name):
    shares = {}
    for n in (name, "random"):
        study = run(n, 0, 100, constraints="latency_ms <= 1.5")
        shares[n] = np.mean([t.state == "done" for t in study.trials[40:]])
    assert shares[name] > 1.5 * shares["random"]


def test_no_input_or_output():
    for file in Path(strategies.__path__[0]).glob("*.py"):
        if file.stem == "__init__":
            continue
        calls = {ast.unparse(n.func) for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Call)}
        assert not {
            c for c in calls if c in ("open", "print") or c.endswith((".write_text", ".read_text", ".write_bytes"))
        }, file


def test_registry():
    assert {"random", "nsga2", "optuna"} <= set(strategies.available())
    for name in NAMES:
        line = strategies.summary(name)
        assert 20 < len(line) < 150
    assert strategies.summary("nsga2").startswith("NSGA-II on sentences")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (
            "nsga",
            "no strategy 'nsga'; did you mean nsga2? There are: cross_entropy, linas, local_search, nsga2, optuna, ",
        ),
        ("base", "no strategy 'base'"),
        ("nsga2:TPESampler", "no strategy 'nsga2:TPESampler'"),
        (
            "optuna:TPSampler",
            "no sampler optuna:TPSampler; did you mean optuna:TPESampler? There are: BruteForce",
        ),
        ("optuna:GridSampler", "no sampler optuna:GridSampler"),
        ("../run", "no strategy '../run'"),
        ("", "no strategy ''"),
    ],
)
def test_unknown_names(name, part):
    with pytest.raises(strategies.StrategyError) as error:
        strategies.load(name)
    assert part in str(error.value)


def test_optuna_needs_a_bound():
    endless = grammar.loads('start: "a" start -> more\n | "b" -> end\n')
    with pytest.raises(strategies.StrategyError, match=r"optuna:TPESampler needs a flat encoding: .*bound"):
        strategies.load("optuna")(endless, (), 0)
