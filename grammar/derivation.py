"""One candidate: its choices in preorder, its sentence, and the hash of its canonical form."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from archrank.grammar.errors import shortened


@dataclass(frozen=True, slots=True, repr=False)
class Derivation:
    """A sentence of a space, flat: `choices` never nests, however deep the sentence does.

    `text` is the sentence as the space writes it, `key` a hash of the canonical form: equal iff it is the
    same candidate. In a space of sites `choices` has one option index per site, otherwise one production
    per node.
    """

    text: str
    key: str
    choices: tuple[int, ...]

    def __eq__(self, other: object) -> bool:
        """The same sentence, whatever space object it came from."""
        return isinstance(other, Derivation) and self.text == other.text and self.choices == other.choices

    def __hash__(self) -> int:
        """Of the sentence."""
        return hash(self.text)

    def __repr__(self) -> str:
        """The beginning of the sentence."""
        return f"Derivation({shortened(self.text)!r})"


def key_of(canonical: str) -> str:
    """The first 32 hexadecimal digits of SHA-256 of the canonical form."""
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]
