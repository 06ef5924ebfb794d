"""The record of a trial."""

import json

import numpy as np
import pytest

from archrank.search.trial import Trial, TrialError, plain_number

RECORD = {
    "id": 17,
    "text": "lora(8)",
    "values": {"loss": 0.31, "adapter_params": 20480},
    "stage": "inherited",
    "state": "done",
}


def test_round_trip_keeps_everything():
    record = {
        **RECORD,
        "key": "ab12",
        "seconds": 0.5,
        "parent": 3,
        "test": {"loss": 0.4},
        "seeds": [{"loss": 0.3}],
    }
    trial = Trial.from_json(record)
    assert trial.extra == {"test": {"loss": 0.4}, "seeds": [{"loss": 0.3}]}
    assert json.loads(json.dumps(trial.to_json(), allow_nan=False)) == record
    assert Trial.from_json(trial.to_json()) == trial


def test_defaults():
    trial = Trial.from_json({**RECORD, "schema": 1})
    assert (trial.key, trial.seconds, trial.reason, trial.parent, dict(trial.extra)) == (
        "lora(8)",
        0.0,
        None,
        None,
        {},
    )
    assert "reason" not in trial.to_json()
    assert isinstance(trial.values["adapter_params"], int)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"id": "x"}, "id must be a whole number from 0, not 'x'"),
        ({"id": -1}, "id must be a whole number"),
        ({"id": True}, "id must be a whole number"),
        ({"text": 3}, "text and key must be strings"),
        ({"key": None}, "text and key must be strings"),
        ({"values": [1]}, "values must map names to numbers"),
        ({"values": {"loss": "low"}}, "loss must be a number, not 'low'"),
        ({"values": {"loss": float("inf")}}, "loss is inf"),
        ({"values": {"loss": True}}, "loss must be a number"),
        ({"stage": "late"}, "stage must be one of inherited, reranked, final, measured, not 'late'"),
        ({"state": "pending"}, "state must be one of done, failed, infeasible"),
        ({"seconds": None}, "seconds must be a number"),
        ({"reason": 3}, "reason must be a string"),
        ({"parent": "a"}, "parent must be a whole number"),
    ],
)
def test_wrong_fields_are_named(change, part):
    with pytest.raises(TrialError) as error:
        Trial.from_json({**RECORD, **change})
    assert part in str(error.value)


@pytest.mark.parametrize("name", ["id", "text", "values", "stage", "state"])
def test_missing_fields_are_named(name):
    with pytest.raises(TrialError, match=f"no '{name}'"):
        Trial.from_json({k: v for k, v in RECORD.items() if k != name})


def test_extra_may_not_shadow_a_field():
    with pytest.raises(TrialError, match="extra key 'stage' is a field of the record itself"):
        Trial(0, "a", "a", {}, extra={"stage": 1}).to_json()


def test_numpy_numbers_become_plain():
    assert type(plain_number(np.int64(3), "n")) is int
    assert type(plain_number(np.float32(0.5), "n")) is float
