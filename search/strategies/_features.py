"""Candidates as feature vectors for a surrogate model, in groups that share a length scale.

Where the space unrolls (`Space.paths`), each place is a group: indicators of its ways, or a thermometer code where they
are numbers (4 is nearer to 8 than to 16); each rule that stands at several places is one more group, how often each of
its ways was taken. In recursive spaces there is one group of hashed counts of words and of pairs of words.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from archrank.grammar import Derivation
    from archrank.grammar.paths import Codes, Paths, Place

__all__ = ["RowFeatures", "word_features"]

Array = NDArray[np.float64]
WORDS = 256
MOST_GROUPS = 120  # above, the places of a rule share a group
_WORD = re.compile(r"\w+|\S")


class RowFeatures:
    """Features of rows of `paths`; `groups` (features,) numbers the group of each."""

    def __init__(self, paths: Paths) -> None:
        places = paths.places
        self._tables: list[Array] = []  # place -> (ways + 1, features); the last row: not reached
        rules: dict[str, list[int]] = {}
        for i, place in enumerate(places):
            self._tables.append(_table(place))
            if len(place.labels) > 1:
                rules.setdefault(place.rule, []).append(i)
        self._sums = [(of, _shared_labels([places[i] for i in of])) for of in rules.values() if len(of) > 1]
        shared = sum(t.shape[1] > 0 for t in self._tables) > MOST_GROUPS
        names = [place.rule if shared else place.name for place in places]
        owners = [name for name, t in zip(names, self._tables, strict=True) for _ in range(t.shape[1])]
        owners += [f"sum {places[of[0]].rule}" for of, labels in self._sums for _ in labels]
        numbers = {name: k for k, name in enumerate(dict.fromkeys(owners))}
        self.groups = np.array([numbers[name] for name in owners], np.int64)

    def __call__(self, codes: Codes) -> Array:
        """(n, places) -> (n, features)."""
        parts = [table[column] for table, column in zip(self._tables, codes.T, strict=True) if table.shape[1]]
        for of, labels in self._sums:
            here = codes[:, of]
            scale = 1 / np.sqrt(len(of))
            parts.append(np.stack([(here == k).sum(1) * scale for k in range(len(labels))], axis=1))
        return np.concatenate(parts, axis=1) if parts else np.zeros((len(codes), 1))


def _table(place: Place) -> Array:
    ways = len(place.labels)
    if ways < 2:
        return np.zeros((ways + 1, 0))
    if place.numbers is None:
        return np.asarray(np.vstack([np.eye(ways), np.zeros(ways)]) / np.sqrt(2))
    thermometer = np.tril(np.ones((ways, ways)), -1)[:, :-1] / np.sqrt(ways - 1)
    return np.asarray(np.vstack([thermometer, np.full(ways - 1, 0.5) / np.sqrt(ways - 1)]))


def _shared_labels(places: Sequence[Place]) -> tuple[str, ...]:
    return max((p.labels for p in places), key=len)


def word_features(d: Derivation) -> Array:
    """(256,): square roots of hashed counts of the sentence's words and of neighbouring pairs."""
    counts = np.zeros(WORDS)
    words = _WORD.findall(d.text)
    for a, b in zip(words, [*words[1:], ""], strict=True):
        counts[zlib.crc32(a.encode()) % WORDS] += 1
        counts[zlib.crc32(f"{a} {b}".encode()) % WORDS] += 1
    found: Array = np.sqrt(counts)
    return found
