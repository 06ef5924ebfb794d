"""The arithmetic of pragmas and constraints: numbers, suffixes, + - * / and brackets; no code is run."""

from __future__ import annotations

import math
import re

from archrank.grammar.errors import shortened

SUFFIXES = {
    "": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12,
    "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20,
    "GiB": 2.0**30, "TiB": 2.0**40, "%": 0.01,
}  # fmt: skip
ALLOWED = "a number such as 8, 0.68/3, 1e-3, 2M, 3.5k or 64MiB, with + - * / and brackets"
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d[\d_]*(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)(?P<suffix>[A-Za-z%]*)|(?P<sign>[-+*/()]))"
)
_LONGEST = 200


def number(text: str) -> float:
    """The value of an arithmetic text: `0.68/3`, `2M` (2,000,000), `3.5k`, `64MiB`, `1e-3`.

    Suffixes: k, M, G (or B), T in powers of 1000; KiB, MiB, GiB, TiB in powers of 1024; `%` is 1/100.
    Raises ValueError, saying what is allowed, on anything else, a division by zero, or a value that is not
    finite.
    """
    tokens = _tokens(text)
    value, at = _sum(tokens, 0, text)
    if at != len(tokens):
        raise _error(text)
    if not math.isfinite(value):
        raise ValueError(f"{shortened(text)!r} is not a finite number; allowed is {ALLOWED}")
    return value


def _error(text: str) -> ValueError:
    return ValueError(f"{shortened(text.strip())!r} is not a number; allowed is {ALLOWED}")


def _tokens(text: str) -> list[float | str]:
    if not text.strip() or len(text) > _LONGEST:
        raise _error(text)
    tokens: list[float | str] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        if found is None or (found["suffix"] or "") not in SUFFIXES:
            raise _error(text)
        if found["sign"]:
            tokens.append(found["sign"])
        else:
            tokens.append(float(found["number"].replace("_", "")) * SUFFIXES[found["suffix"]])
        at = found.end()
    return tokens


def _sum(tokens: list[float | str], at: int, text: str) -> tuple[float, int]:
    value, at = _product(tokens, at, text)
    while at < len(tokens) and tokens[at] in ("+", "-"):
        other, after = _product(tokens, at + 1, text)
        value, at = (value + other if tokens[at] == "+" else value - other), after
    return value, at


def _product(tokens: list[float | str], at: int, text: str) -> tuple[float, int]:
    value, at = _atom(tokens, at, text)
    while at < len(tokens) and tokens[at] in ("*", "/"):
        other, after = _atom(tokens, at + 1, text)
        if tokens[at] == "/" and other == 0:
            raise ValueError(f"{shortened(text.strip())!r} divides by zero; allowed is {ALLOWED}")
        value, at = (value * other if tokens[at] == "*" else value / other), after
    return value, at


def _atom(tokens: list[float | str], at: int, text: str) -> tuple[float, int]:
    """A number, a signed atom or a bracket; recursion is bounded by the text's length, at most 200."""
    if at >= len(tokens):
        raise _error(text)
    token = tokens[at]
    if isinstance(token, float):
        return token, at + 1
    if token in ("+", "-"):
        value, after = _atom(tokens, at + 1, text)
        return (-value if token == "-" else value), after
    if token == "(":
        value, after = _sum(tokens, at + 1, text)
        if after < len(tokens) and tokens[after] == ")":
            return value, after + 1
    raise _error(text)
