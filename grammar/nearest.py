"""Near names for "did you mean"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, choices: Iterable[str], n: int = 3) -> list[str]:
    """The at most `n` choices nearest to `word`, best first; letter case does not count.

    Similarity is `difflib`'s ratio, at least 0.55, or one being the beginning of the other.
    """
    wanted = word.lower()[:200]
    scored: list[tuple[float, str]] = []
    for choice in dict.fromkeys(choices):
        other = choice.lower()
        score = difflib.SequenceMatcher(None, wanted, other).ratio()
        if len(wanted) >= 2 and (other.startswith(wanted) or wanted.startswith(other)):
            score = max(score, 0.8)
        if score >= 0.55:
            scored.append((-score, choice))
    return [choice for _, choice in sorted(scored)[:n]]


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`; did you mean a or b?`, or a full stop where no choice is near: the end of a sentence either way."""
    near = nearest(word, choices)
    return f"; did you mean {' or '.join(near)}?" if near else "."
