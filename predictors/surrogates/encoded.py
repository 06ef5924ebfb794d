"""Candidates as numbers: what a derivation chose, where, and how often.

- A space with at most `SLOTS` decisions: an indicator of each choice of each slot of `space.encoding()`; numbers, such
  as ranks and widths, also as log2 in one column a slot.
- Any space of productions: how often each was used, as √count.
- A larger space: √counts of pairs of productions that follow each other in preorder, hashed into `BINS` columns.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np

from archrank.grammar import Derivation, Space
from archrank.predictors.surrogates.base import Array

__all__ = ["features"]

SLOTS = 400
BINS = 256
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def features(space: Space, derivations: Sequence[Derivation]) -> Array:
    """(candidates, features): the same columns for every list of candidates of one space."""
    blocks = []
    slots = _slots(space)
    if slots is not None:
        blocks += _chosen(space, derivations, slots)
    if not space.is_site_space:
        blocks.append(_counts(derivations))
        if slots is None:
            blocks.append(_pairs(derivations))
    return np.concatenate(blocks, axis=1)


def _slots(space: Space) -> list[tuple[str, ...]] | None:
    """The choices of each slot; None where there are too many."""
    try:
        slots = space.encoding()
    except ValueError:
        return None
    return [slot.choices for slot in slots] if len(slots) <= SLOTS else None


def _chosen(space: Space, derivations: Sequence[Derivation], slots: Sequence[tuple[str, ...]]) -> list[Array]:
    values = np.array([space.encode(d) for d in derivations], dtype=np.intp).reshape(len(derivations), len(slots))
    blocks = []
    for column, choices in enumerate(slots):
        blocks.append(np.eye(len(choices))[values[:, column]])
        numbers = [_NUMBER.search(choice) for choice in choices]
        if sum(n is not None for n in numbers) > 1:
            logs = np.array([np.log2(1 + float(n[0])) if n else 0.0 for n in numbers])
            blocks.append(logs[values[:, column], None])
    return blocks


def _counts(derivations: Sequence[Derivation]) -> Array:
    table = np.zeros((len(derivations), BINS))
    for row, d in enumerate(derivations):
        np.add.at(table[row], np.asarray(d.choices, dtype=np.intp) % BINS, 1.0)
    return np.sqrt(table)


def _pairs(derivations: Sequence[Derivation]) -> Array:
    table = np.zeros((len(derivations), BINS))
    for row, d in enumerate(derivations):
        for pair in zip(d.choices, d.choices[1:], strict=False):
            table[row, zlib.crc32(b"%d %d" % pair) % BINS] += 1
    return np.sqrt(table)
