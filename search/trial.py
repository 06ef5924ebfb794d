"""One finished evaluation, as it stands in the log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real

__all__ = ["STAGES", "STATES", "Trial", "TrialError", "plain_number"]

STAGES = ("inherited", "reranked", "final", "measured")
STATES = ("done", "failed", "infeasible")
PENDING = "pending"  # asked and not yet told: handed to strategies, never written
_FIELDS = ("id", "text", "key", "values", "stage", "state", "seconds", "reason", "parent")


class TrialError(ValueError):
    """A record that is no trial; the message names the field."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate (its sentence `text` and the hash `key` of its canonical form) and what was measured of it.

    values: {name: finite number} in each value's own unit and direction; stage: what was measured
    (`inherited` weights, `reranked` after a short fine-tune, `final` after the full one, `measured` by the
    user); state: `done`, `failed` (with a `reason`) or `infeasible` (measured, breaks a constraint); seconds:
    wall time of the evaluation; parent: the trial it was promoted from; extra: everything else in the record.
    """

    id: int
    text: str
    key: str
    values: Mapping[str, float] = field(default_factory=dict, hash=False)
    stage: str = "inherited"
    state: str = "done"
    seconds: float = 0.0
    reason: str | None = None
    parent: int | None = None
    extra: Mapping[str, object] = field(default_factory=dict, hash=False)

    @property
    def raced(self) -> bool:
        """Whether the evaluation stopped early because others were better for certain: its quality is an estimate, and
        it stands on no front.
        """
        return "raced" in self.extra

    def to_json(self) -> dict[str, object]:
        """The record, keys of `extra` beside the others; strict JSON (no nan). What is absent is left out."""
        record: dict[str, object] = {
            "id": self.id,
            "text": self.text,
            "key": self.key,
            "values": dict(self.values),
        }
        record |= {"stage": self.stage, "state": self.state, "seconds": self.seconds}
        if self.reason is not None:
            record["reason"] = self.reason
        if self.parent is not None:
            record["parent"] = self.parent
        for name, value in self.extra.items():
            if name in _FIELDS or name in ("event", "schema"):
                raise TrialError(f"extra key {name!r} is a field of the record itself; choose another name")
            record[name] = value
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, object]) -> Trial:
        """The trial of a record; unknown keys go to `extra`. TrialError names what is missing or wrong.

        A record without `key` gets its text as key; whoever has the space can hash it.
        """
        for name in ("id", "text", "values", "stage", "state"):
            if name not in record:
                raise TrialError(f"no {name!r}")
        text, reason, parent = record["text"], record.get("reason"), record.get("parent")
        key = record.get("key", text)
        if not isinstance(text, str) or not isinstance(key, str):
            raise TrialError(f"text and key must be strings, not {text!r:.40} and {key!r:.40}")
        if not (reason is None or isinstance(reason, str)):
            raise TrialError(f"reason must be a string, not {reason!r:.40}")
        return cls(
            _whole(record["id"], "id"),
            text,
            key,
            _values(record["values"]),
            _one_of(record["stage"], "stage", STAGES),
            _one_of(record["state"], "state", STATES),
            float(plain_number(record.get("seconds", 0.0), "seconds")),
            reason,
            None if parent is None else _whole(parent, "parent"),
            {k: v for k, v in record.items() if k not in _FIELDS and k != "schema"},
        )


def plain_number(value: object, name: str) -> float:
    """An int or float equal to `value` (numpy's numbers included); TrialError for anything else, nan and
    infinities included.
    """
    if type(value) is int or (type(value) is float and math.isfinite(value)):  # nearly all, without asking further
        return value
    if isinstance(value, bool):
        raise TrialError(f"{name} must be a number, not {value}")
    if isinstance(value, Real):
        found = int(value) if isinstance(value, Integral) else float(value)
        if math.isfinite(found):
            return found
        raise TrialError(f"{name} is {found}")
    raise TrialError(f"{name} must be a number, not {value!r:.40}")


def _values(value: object) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise TrialError(f"values must map names to numbers, not {value!r:.40}")
    return {str(name): plain_number(v, str(name)) for name, v in value.items()}


def _whole(value: object, name: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise TrialError(f"{name} must be a whole number from 0, not {value!r:.40}")


def _one_of(value: object, name: str, choices: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in choices:
        return value
    raise TrialError(f"{name} must be one of {', '.join(choices)}, not {value!r:.40}")
