"""Constraints as people write them: `latency_ms <= 3 and adapter_params <= 2M`. Read by hand, never
evaluated.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from archrank.grammar import nearest, number

__all__ = ["Constraint", "ExpressionError", "parse_where"]

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*(?:@[\w./-]+)?")
_COMPARISON = re.compile(r"<=|>=|==|<|>")
_JOIN = re.compile(r"\s+and\s+|,", re.IGNORECASE)
_SHAPE = 'write NAME <= NUMBER (or >=, <, >, ==), as in "latency_ms <= 3 and adapter_params <= 2M"'


class ExpressionError(ValueError):
    """A constraint that cannot be read, or that speaks of a value that is not there."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """`name op value`, in the unit that the value is reported in (its own direction, never negated)."""

    name: str
    op: str
    value: float

    def __str__(self) -> str:
        """`latency_ms <= 3`; large numbers in full."""
        value = f"{self.value:.0f}" if self.value.is_integer() else repr(self.value)
        return f"{self.name} {self.op} {value}"

    def holds(self, values: Mapping[str, float]) -> bool:
        """Whether `values` meets it; nan never does. ExpressionError where the name is missing."""
        return _OPERATORS[self.op](self._of(values), self.value)

    def violation(self, values: Mapping[str, float]) -> float:
        """0 where it holds, else |value - bound| / |bound| (a bound of 0 counts as 1), above 0; inf for
        nan.
        """
        value = self._of(values)
        if _OPERATORS[self.op](value, self.value):
            return 0.0
        if math.isnan(value):
            return math.inf
        return max(abs(value - self.value) / (abs(self.value) or 1.0), 1e-12)

    def _of(self, values: Mapping[str, float]) -> float:
        if self.name not in values:
            raise ExpressionError(f"{self}: no value {self.name!r} there; there are: {', '.join(values) or 'none'}")
        return values[self.name]


def parse_where(text: str, names: Iterable[str] | None = None) -> tuple[Constraint, ...]:
    """The constraints of `text`, joined by `and` or commas.

    names: the allowed names; None allows any. Numbers are `archrank.grammar.number`'s (2M, 3.5k, 64MiB).
    Raises ExpressionError naming the part that is wrong and what is allowed there.
    """
    if len(text) > 2000:
        raise ExpressionError(f"a constraint of {len(text)} characters (2000 allowed): {text[:40]!r}…; {_SHAPE}")
    allowed = None if names is None else list(dict.fromkeys(names))
    return tuple(_one(part.strip(), text, allowed) for part in _JOIN.split(text))


def _one(part: str, text: str, names: list[str] | None) -> Constraint:
    signs = list(_COMPARISON.finditer(part))
    if not signs:
        what = f"{part!r} compares nothing" if part else f"a part of {text!r} is empty"
        raise ExpressionError(f"{what}; {_SHAPE}")
    name, right = part[: signs[0].start()].strip(), part[signs[0].end() :].strip()
    if not _NAME.fullmatch(name):
        raise ExpressionError(f"{part!r}: {name!r} is not a name; {_SHAPE}")
    if names is not None and name not in names:
        near = nearest(name, names)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ExpressionError(f"{part!r}: unknown name {name!r}; {hint}Names: {', '.join(names)}")
    if len(signs) > 1:
        raise ExpressionError(f"{part!r}: more than one comparison; join two with `and`")
    try:
        value = number(right)
    except ValueError as error:
        raise ExpressionError(
            f"{part!r}: {error}" if right else f"{part!r}: no number after {signs[0][0]}; {_SHAPE}"
        ) from None
    return Constraint(name, signs[0][0], value)
