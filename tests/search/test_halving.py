"""Who is promoted."""

from archrank.search.halving import all_promotable, promotable, rung_steps
from archrank.search.objective import parse_objectives

TWO = parse_objectives(["loss:min", "cost:min"])
ONE = parse_objectives(["accuracy:max"])


def test_steps_of_the_rungs():
    assert rung_steps(900, 3) == [33, 100, 300, 900]
    assert rung_steps(100, 4) == [25, 100]
    assert rung_steps(20, 3) == [20]


def test_the_best_third_goes_up_one_by_one():
    rungs = [{i: {"accuracy": float(i)} for i in range(6)}, {}, {}]
    assert promotable(rungs, ONE, 3) == (5, 1)
    rungs[1][5] = {"accuracy": 5.5}
    assert promotable(rungs, ONE, 3) == (4, 1)
    rungs[1][4] = {"accuracy": 4.5}
    assert promotable(rungs, ONE, 3) is None
    rungs[1][0] = {"accuracy": 0.0}
    assert promotable(rungs, ONE, 3) == (5, 2)  # of three on rung 1 one may, before rung 0 is looked at
    rungs[2][5] = {"accuracy": 6.0}
    assert promotable(rungs, ONE, 3) is None


def test_nobody_waits_for_a_rung_to_fill():
    assert promotable([{0: {"accuracy": 1.0}, 1: {"accuracy": 0.5}}, {}], ONE, 3) is None
    assert promotable([{0: {"accuracy": 1.0}, 1: {"accuracy": 0.5}, 2: {"accuracy": 0.1}}, {}], ONE, 3) == (0, 1)


def test_by_non_dominated_rank():
    front = {0: (1.0, 9.0), 1: (5.0, 5.0), 2: (9.0, 1.0)}
    behind = {3: (6.0, 6.0), 4: (9.0, 9.0), 5: (10.0, 9.5)}
    rungs = [{i: dict(zip(("loss", "cost"), v, strict=True)) for i, v in (front | behind).items()}, {}]
    gone = []
    while (found := promotable(rungs, TWO, 2)) is not None:
        gone.append(found[0])
        rungs[1][found[0]] = rungs[0][found[0]]
    assert sorted(gone) == [0, 1, 2]


def test_who_failed_above_stays_there():
    rungs = [{i: {"accuracy": float(i)} for i in range(3)}, {2: {}}, {}]
    assert promotable(rungs, ONE, 3) is None


def test_all_who_go_up_from_a_full_rung():
    below = {i: {"accuracy": float(i)} for i in range(7)} | {7: {}}
    assert all_promotable(below, {}, ONE, 3) == [6, 5]
    assert all_promotable(below, {6: {"accuracy": 9.0}}, ONE, 3) == [5]
    assert all_promotable(below, {6: {}, 5: {}}, ONE, 3) == []
