"""Where the members of an ensemble leave their trunk: the value itself; its gradient is divided by their number."""

from __future__ import annotations

from archrank.grammar.signatures import Op, Value


def infer(value: Value, members: int) -> Value | None:
    """The input; None where there is no member."""
    return value if members > 0 else None


OP = Op(name="fork", arguments=1, infer=infer, view=True)
