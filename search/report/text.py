"""Numbers, durations and sentences as people read them; for the report, the tables and the progress line."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

NOTHING = "–"
_SI = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BINARY = ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))


def number(value: float | None, unit: str = "", digits: int = 3, zeros: bool = False) -> str:
    """A value for people: ``20,480``, ``0.312``, ``1.2 ms``, ``64 MiB``, ``12.3 G``; a dash for none or NaN.

    Whole numbers below ten million keep every figure, since parameter counts are compared to the unit;
    everything else is rounded to `digits` significant figures, with trailing zeros where a column wants them.
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    if unit.lower() in ("byte", "bytes", "b"):
        return _scaled(value, _BINARY, digits, " B")
    return _plain(value, digits, zeros) + (f" {unit}" if unit else "")


def _plain(value: float, digits: int, zeros: bool) -> str:
    size = abs(value)
    if value == int(value) and size < 1e7:
        return f"{int(value):,}"
    if size >= 1e6:
        return _scaled(value, _SI, digits, "")
    if size >= 10**digits:
        return f"{value:,.0f}"
    if size < 1e-4:
        return f"{value:.{digits - 1}e}"
    return f"{value:#.{digits}g}".rstrip(".") if zeros else f"{value:.{digits}g}"


def _scaled(value: float, steps: tuple[tuple[float, str], ...], digits: int, small: str) -> str:
    value = float(f"{value:.{max(digits, 4) - 1}e}")  # first, so that 999,999.5 becomes 1 M and not 1000 k
    for size, name in steps:
        if abs(value) >= size:
            scaled = value / size
            return f"{scaled:,.0f} {name}" if abs(scaled) >= 100 else f"{scaled:.{digits}g} {name}"
    return f"{value:.{digits}g}{small}"


def short_number(value: float, unit: str = "") -> str:
    """An axis tick: ``20k``, ``0.3``, ``4 MiB``."""
    if unit.lower() in ("byte", "bytes", "b"):
        return _scaled(value, _BINARY, 3, " B")
    return _scaled(value, _SI, 3, "").replace(" ", "")


def duration(seconds: float | None) -> str:
    """``0.4 s``, ``23 s``, ``2 min 14 s``, ``3 h 05 min``, ``2 d 4 h``."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def shorten(sentence: str, width: int) -> str:
    """At most `width` characters on one line; the middle goes, since a sentence differs at both ends."""
    line = " ".join(sentence.split())
    if len(line) <= width:
        return line
    width = max(width, 3)
    head = width // 2
    tail = width - 1 - head
    return f"{line[:head]}…{line[-tail:]}"


def without_shared_start(names: Sequence[str]) -> list[str]:
    """Dotted names without the parts that all begin with; what is left is never empty."""
    parts = [n.split(".") for n in names]
    shared = 0
    while len(parts) > 1 and all(len(p) > shared + 1 and p[shared] == parts[0][shared] for p in parts):
        shared += 1
    return [".".join(p[shared:]) for p in parts]


def folded(name: str, width: int, most: int = 3) -> list[str]:
    """A long name as at most `most` lines of about `width` characters, broken before `.`, `@`, `_` and after spaces; a
    line that is still longer is shortened.
    """
    lines = [""]
    for part in re.findall(r"[.@_]?[^.@_ ]+ ?|[.@_ ]", name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    if len(lines) > most:
        lines = [*lines[: most - 1], "".join(lines[most - 1 :])]
    return [shorten(line, width + 4) for line in lines]
