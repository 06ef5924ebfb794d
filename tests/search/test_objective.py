"""Objectives: names, directions, the one change of sign."""

import numpy as np
import pytest

from archrank.search.objective import (
    KNOWN,
    Objective,
    ObjectiveError,
    minimised,
    parse_objective,
    parse_objectives,
)


def test_known_table():
    assert {n: o.direction for n, o in KNOWN.items()} == {
        "accuracy": "max", "loss": "min", "params": "min", "adapter_params": "min", "flops": "min",
        "latency_ms": "min", "memory_bytes": "min",
    }  # fmt: skip
    assert KNOWN["latency_ms"].unit == "ms"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("loss", Objective("loss", "min")),
        ("loss:max", Objective("loss", "max")),
        ("latency_ms@a100", Objective("latency_ms@a100", "min", "ms")),
        ("reward:max", Objective("reward", "max")),
        (" error : min ", Objective("error", "min")),
    ],
)
def test_reads(text, expected):
    assert parse_objective(text) == expected
    assert parse_objective(str(expected)) == expected


@pytest.mark.parametrize(
    ("texts", "part"),
    [
        (["acuracy"], "unknown objective 'acuracy'; did you mean accuracy? Known: accuracy, loss"),
        (["reward"], "a name of your own needs a direction, NAME:min or NAME:max"),
        (["loss:down"], "objective 'loss:down': the direction must be min or max, as in loss:min"),
        ([":min"], "has no name"),
        ([], "no objective given"),
        (["loss", "accuracy", "loss:max"], "objective 'loss' is given twice"),
    ],
)
def test_refuses(texts, part):
    with pytest.raises(ObjectiveError) as error:
        parse_objectives(texts)
    assert part in str(error.value)


def test_allowed_names_only():
    with pytest.raises(
        ObjectiveError, match=r"unknown objective 'los'; did you mean loss\? Known: loss, latency_ms@h100$"
    ):
        parse_objective("los:min", ["loss", "latency_ms@h100"])
    with pytest.raises(
        ObjectiveError, match="objective 'zeal' has no direction of its own; write zeal:min or zeal:max"
    ):
        parse_objective("zeal", ["zeal"])
    assert parse_objective("latency_ms@h100", ["loss", "latency_ms@h100"]).unit == "ms"


def test_order_is_kept_and_objects_pass():
    mine = Objective("z", "max")
    assert [o.name for o in parse_objectives(["loss", mine, "accuracy"])] == ["loss", "z", "accuracy"]
    with pytest.raises(ObjectiveError, match="x:up: the direction must be min or max"):
        Objective("x", "up")


def test_minimised_is_signed_and_ordered():
    objectives = parse_objectives(["accuracy", "loss"])
    rows = [{"loss": 1.0, "accuracy": 0.9, "other": 3.0}, {"accuracy": 0.5}]
    np.testing.assert_array_equal(minimised(rows, objectives), [[-0.9, 1.0], [-0.5, np.nan]])
    assert minimised([], objectives).shape == (0, 2)
