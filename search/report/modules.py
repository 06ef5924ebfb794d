"""Where a module stands in the heat map: its layer is a column, its kind a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NO_LAYER = "–"


@dataclass(frozen=True)
class Place:
    """One module's cell; `layer` is NO_LAYER for a name without a number."""

    name: str
    kind: str
    layer: str


def places(modules: Sequence[str]) -> list[Place]:
    """Layer and kind of every module, read off its dotted name.

    The layer is the numeric component; of several, the first that differs between modules of the same shape
    (`decoder.0.layers.7.fc` repeats at the 7 when there is one decoder). The kind is the rest of the path
    without the part that all kinds share.
    """
    patterns = [_pattern(name) for name in modules]
    varying: dict[str, list[set[str]]] = {}
    for name, pattern in zip(modules, patterns, strict=True):
        numbers = _numbers(name)
        seen = varying.setdefault(pattern, [set() for _ in numbers])
        for values, number in zip(seen, numbers, strict=True):
            values.add(number)
    split = [_split(name, varying[pattern]) for name, pattern in zip(modules, patterns, strict=True)]
    labels = _labels(list(dict.fromkeys(kind for kind, _ in split)))
    return [Place(name, labels[kind], layer) for name, (kind, layer) in zip(modules, split, strict=True)]


def _numbers(name: str) -> list[str]:
    return [part for part in name.split(".") if part.isdecimal()]


def _pattern(name: str) -> str:
    return ".".join("*" if part.isdecimal() else part for part in name.split("."))


def _split(name: str, varying: Sequence[set[str]]) -> tuple[str, str]:
    """(kind with `*` where the layer stood, layer)."""
    if not varying:
        return name, NO_LAYER
    wanted = next((i for i, values in enumerate(varying) if len(values) > 1), 0)
    parts = name.split(".")
    position = [i for i, part in enumerate(parts) if part.isdecimal()][wanted]
    layer = parts[position]
    parts[position] = "*"
    return ".".join(parts), layer


def _labels(kinds: Sequence[str]) -> dict[str, str]:
    """Short names, without the beginning that all layered kinds share; full where two would be equal."""
    layered = [kind.split(".") for kind in kinds if "*" in kind.split(".")]
    shared = 0
    while layered and all(len(p) > shared + 1 and p[shared] == layered[0][shared] for p in layered):
        shared += 1
        if layered[0][shared - 1] == "*":
            break  # what follows the layer is the kind, even where all kinds begin alike
    short = {}
    for kind in kinds:
        parts = kind.split(".")
        kept = [part for part in parts[shared:] if part != "*"] if "*" in parts else parts
        short[kind] = ".".join(kept) or kind
    counts = list(short.values())
    return {kind: label if counts.count(label) == 1 else kind for kind, label in short.items()}
