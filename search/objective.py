"""What is searched for: a name, a direction, a unit. Inside, everything is minimised; the sign changes here
and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archrank.grammar import nearest

__all__ = ["KNOWN", "Objective", "ObjectiveError", "minimised", "parse_objective", "parse_objectives"]


class ObjectiveError(ValueError):
    """An objective that is unknown, given twice, or that nothing tells the value of."""


@dataclass(frozen=True, slots=True)
class Objective:
    """`direction` is `min` or `max`; `unit` is for people (`ms`, `bytes`; empty where there is none)."""

    name: str
    direction: str = "min"
    unit: str = ""

    def __post_init__(self) -> None:
        if self.direction not in ("min", "max"):
            raise ObjectiveError(f"{self.name}:{self.direction}: the direction must be min or max")

    def __str__(self) -> str:
        """`loss:min`, which `parse_objective` reads back."""
        return f"{self.name}:{self.direction}"

    @property
    def sign(self) -> int:
        """+1 to minimise, -1 to maximise: `sign * value` is always minimised."""
        return 1 if self.direction == "min" else -1


_TABLE = (
    Objective("accuracy", "max"),
    Objective("loss", "min"),
    Objective("params", "min"),
    Objective("adapter_params", "min"),
    Objective("flops", "min"),
    Objective("latency_ms", "min", "ms"),
    Objective("memory_bytes", "min", "bytes"),
)
KNOWN: Mapping[str, Objective] = {o.name: o for o in _TABLE}


def parse_objective(text: str, names: Iterable[str] | None = None) -> Objective:
    """The objective of `NAME` or `NAME:min|max`; a known name may carry a device, `latency_ms@a100`.

    names: the allowed names; None allows any name that is known or has a direction. Raises ObjectiveError
    naming the nearest.
    """
    name, colon, direction = (part.strip() for part in text.partition(":"))
    if not name:
        raise ObjectiveError(f"objective {text!r} has no name; write NAME or NAME:min|max, as in loss or reward:max")
    if colon and direction not in ("min", "max"):
        raise ObjectiveError(f"objective {text!r}: the direction must be min or max, as in {name}:min")
    known = KNOWN.get(name.split("@")[0])
    allowed = None if names is None else list(dict.fromkeys(names))
    if known is None and not colon and allowed is not None and name in allowed:
        raise ObjectiveError(f"objective {name!r} has no direction of its own; write {name}:min or {name}:max")
    if (allowed is not None and name not in allowed) or (known is None and not colon):
        choices = list(KNOWN) if allowed is None else allowed
        near = nearest(name, choices)
        hint = f"did you mean {near[0]}? " if near else ""
        own = "; a name of your own needs a direction, NAME:min or NAME:max" if allowed is None else ""
        raise ObjectiveError(f"unknown objective {name!r}; {hint}Known: {', '.join(choices)}{own}")
    if known is None:
        return Objective(name, direction)
    return Objective(name, direction or known.direction, known.unit)


def parse_objectives(texts: Iterable[str | Objective], names: Iterable[str] | None = None) -> tuple[Objective, ...]:
    """Each parsed, in the given order (the first is the quality, the second the cost); ObjectiveError on none
    or on one given twice.
    """
    allowed = None if names is None else list(names)
    objectives = tuple(o if isinstance(o, Objective) else parse_objective(o, allowed) for o in texts)
    if not objectives:
        raise ObjectiveError("no objective given; name at least one, e.g. loss")
    for i, o in enumerate(objectives):
        if o.name in (other.name for other in objectives[:i]):
            raise ObjectiveError(f"objective {o.name!r} is given twice; each once")
    return objectives


def minimised(rows: Sequence[Mapping[str, float]], objectives: Sequence[Objective]) -> NDArray[np.float64]:
    """Returns (n, m): row i, column j is `sign_j * rows[i][name_j]`, so that smaller is better; a missing
    value is nan.
    """
    table = [[o.sign * row.get(o.name, np.nan) for o in objectives] for row in rows]
    return np.array(table, dtype=np.float64).reshape(len(rows), len(objectives))
