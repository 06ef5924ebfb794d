"""Derivations as named columns that people can read: which way each decision took, and how often each production stands
in the sentence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archrank.grammar import Derivation, Space
from archrank.grammar.paths import Paths, Place

__all__ = ["Columns", "decision_names", "decisions", "productions"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Columns:
    """Named features of n candidates. `x` (n, columns); `groups`: for each name the columns that hold it."""

    names: tuple[str, ...]
    x: Array
    groups: tuple[tuple[int, ...], ...]


def decision_names(paths: Paths) -> list[str]:
    """One for each place: a module of the base, else the rule, numbered where it stands at several places."""
    count = Counter(place.rule for place in paths.places)
    if set(count) == {"site"}:
        return [place.name for place in paths.places]
    order = sorted(range(len(paths.places)), key=lambda i: _position(paths.places[i]))
    names, seen = [""] * len(order), Counter[str]()
    for i in order:
        rule = paths.places[i].rule
        seen[rule] += 1
        names[i] = f"{rule} {seen[rule]}" if count[rule] > 1 else rule
    return names


def _position(place: Place) -> list[int]:
    """Where the place stands, so that sorting gives the order of the sentence."""
    return [int(step) for step in place.name.removesuffix(place.rule).split(".") if step]


def decisions(space: Space, candidates: Sequence[Derivation]) -> Columns | None:
    """The decisions that differ among the candidates: the number that was chosen, or one column for each way that some
    candidate took; -1 where a sentence does not reach the place. None where the space does not unroll (`Space.paths`).
    """
    paths = space.paths()
    if paths is None or not candidates:
        return None
    codes = np.array([paths.encode(d) for d in candidates], dtype=np.int64)
    names, parts, groups, width = list[str](), list[Array](), list[tuple[int, ...]](), 0
    for place, name, column in zip(paths.places, decision_names(paths), codes.T, strict=True):
        ways = np.unique(column)
        if len(ways) < 2:
            continue
        block = _numbers(place, column) if place.numbers is not None else (column[:, None] == ways).astype(np.float64)
        names.append(name)
        parts.append(block)
        groups.append(tuple(range(width, width + block.shape[1])))
        width += block.shape[1]
    return Columns(tuple(names), np.concatenate(parts, axis=1) if parts else np.zeros((len(codes), 0)), tuple(groups))


def _numbers(place: Place, column: NDArray[np.int64]) -> Array:
    assert place.numbers is not None
    table = np.array([*place.numbers, -1.0])  # the last for -1, not reached
    found: Array = table[column][:, None]
    return found


def productions(space: Space, candidates: Sequence[Derivation]) -> Columns:
    """How often each production stands in each sentence; in a space of sites, how many modules take each option.

    Left out are productions that stand equally often in every sentence and those that count what an earlier one counts.
    """
    if space.is_site_space:
        labels = [option.label for option in space.site_options]
        counts = np.array([np.bincount(d.choices, minlength=len(labels)) for d in candidates], dtype=np.float64)
    else:
        counts = np.array([space.production_counts(d) for d in candidates], dtype=np.float64)
        labels = [space.production_name(i) for i in range(counts.shape[1])] if len(counts) else []
    kept, seen = list[int](), set[bytes]()
    for i, column in enumerate(counts.T if len(counts) else ()):
        if column.min() < column.max() and column.tobytes() not in seen:
            seen.add(column.tobytes())
            kept.append(i)
    x = counts[:, kept] if kept else np.zeros((len(candidates), 0))
    return Columns(tuple(labels[i] for i in kept), x, tuple((k,) for k in range(len(kept))))
