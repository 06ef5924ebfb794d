"""ε-nets: one point of a box, and nothing left out that is farther than ε from what stays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import archrank as ar
from archrank import grammar
from archrank.search.cli import main
from archrank.search.epsilon import EpsilonError
from archrank.search.objective import parse_objectives
from archrank.search.pareto import ParetoFront
from archrank.search.trial import Trial

OBJECTIVES = parse_objectives(["loss:min", "speed:max"])


def front(n: int = 200, seed: int = 0) -> ParetoFront:
    """Both grow along it, so that no point dominates another."""
    loss = np.sort(np.random.default_rng(seed).uniform(0.1, 9, n))
    trials = [Trial(i, f"t{i}", f"k{i}", {"loss": float(v), "speed": float(v**1.5)}) for i, v in enumerate(loss)]
    return ParetoFront.of(trials, OBJECTIVES)


def column(of: ParetoFront, name: str) -> np.ndarray:  # type: ignore[type-arg]
    return np.array([t.values[name] for t in of])


@pytest.mark.parametrize("epsilon", [["5%"], ["20%"], ["loss=0.5", "speed=10%"], ["0.3"]])
def test_every_point_has_a_near_one_in_the_net(epsilon: list[str]) -> None:
    whole = front()
    thin = whole.epsilon_net(epsilon)
    assert 1 < len(thin) < len(whole)
    assert [t.id for t in thin] == sorted(t.id for t in thin)  # in the front's order
    assert {t.id for t in thin} <= {t.id for t in whole}
    given = {part.rpartition("=")[0]: part.rpartition("=")[2] for part in epsilon}
    near = np.ones((len(whole), len(thin)), bool)
    for o in OBJECTIVES:
        text = given.get(o.name, given.get("", ""))
        all_, kept = column(whole, o.name)[:, None], column(thin, o.name)[None]
        if text.endswith("%"):
            near &= np.abs(np.log(all_ / kept)) <= np.log1p(float(text[:-1]) / 100) * (1 + 1e-9)
        else:
            near &= np.abs(all_ - kept) <= float(text) * (1 + 1e-9)
    assert near.any(axis=1).all()


def test_of_a_box_the_point_nearest_its_best_corner_stays() -> None:
    values = [(1.1, 1.9), (1.2, 1.95), (2.5, 2.5), (2.7, 2.6)]
    trials = [Trial(i, f"t{i}", f"k{i}", {"loss": a, "speed": b}) for i, (a, b) in enumerate(values)]
    thin = ParetoFront.of(trials, OBJECTIVES).epsilon_net("1")
    assert [t.id for t in thin] == [0, 2]  # (1.1 − 1) + (2 − 1.9) is less than (1.2 − 1) + (2 − 1.95)
    assert [t.id for t in ParetoFront.of(trials, OBJECTIVES).epsilon_net("loss=10")] == [0]


def test_an_empty_front_stays_empty() -> None:
    assert len(ParetoFront.of([], OBJECTIVES).epsilon_net("5%")) == 0


@pytest.mark.parametrize(
    ("epsilon", "message"),
    [
        ("some", "epsilon some: write 5%, 0.01, NAME=5% or NAME=0.01"),
        ("0", "epsilon 0: must be above 0"),
        ("-5%", "epsilon -5%: must be above 0"),
        ("los=0.1", "epsilon los=0.1: the front has loss, speed; did you mean loss?"),
        ([], "epsilon: none given; write 5%, 0.01, NAME=5% or NAME=0.01"),
    ],
)
def test_what_cannot_be_read(epsilon: str | list[str], message: str) -> None:
    with pytest.raises(EpsilonError) as told:
        front().epsilon_net(epsilon)
    assert str(told.value) == message


def test_a_share_of_nothing() -> None:
    trials = [Trial(0, "a", "a", {"loss": 0.0, "speed": 1.0})]
    with pytest.raises(EpsilonError) as told:
        ParetoFront.of(trials, OBJECTIVES).epsilon_net("5%")
    assert str(told.value) == (
        "epsilon 5%: loss has the value 0 on the front, and a share needs values above 0; give it in its own unit: "
        "loss=0.01"
    )


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space = grammar.loads('start: NUMBER\nNUMBER: "1" | "2" | "3" | "4" | "8"\n')
    ar.optimize(
        space, lambda d: {"a": int(d.text), "b": -int(d.text)}, ["a:min", "b:min"], "random", 5, out=tmp_path / "r"
    )
    capsys.readouterr()
    assert main(["front", str(tmp_path / "r"), "--epsilon", "a=3", "--json"]) == 0
    assert [t["values"]["a"] for t in json.loads(capsys.readouterr().out)] == [1, 3, 8]
    assert main(["front", str(tmp_path / "r"), "--epsilon", "5%"]) == 2
    assert "search front: epsilon 5%: b has the value -8 on the front" in capsys.readouterr().err
