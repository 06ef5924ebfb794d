"""Sentences over an encoder's layers that people choose without a search: all layers cut alike, or those at the bottom
left and all above them dropped.

They are the baselines of structured pruning: uniform width, and depth (Sajjad et al., On the effect of dropping layers
of pre-trained transformer models, 2023).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from archrank.grammar.model import Grammar

__all__ = ["alike", "lower_part"]

Labels = tuple[str, ...]


def alike(grammar: Grammar) -> Iterator[tuple[int, ...]]:
    """Choices in preorder of every sentence in which places that offer the same alternatives choose the same one: each
    layer as the next, all its adapters of one rank, heads and channels at one share where the file names the same
    shares for both. Alternatives that have left the space are not taken; a sentence without end is none.
    """
    waiting: list[dict[Labels, str]] = [{}]
    while waiting:
        found = _written(grammar, waiting.pop())
        if isinstance(found, list):
            waiting += found[::-1]
        elif found is not None:
            yield found


def lower_part(grammar: Grammar, lower: Sequence[int], above: Sequence[int], layer: str) -> tuple[int, ...]:
    """The choices of `lower` below a layer and those of `above` from it on: two single networks over the same layers,
    in a grammar that is written out for them.
    """

    def start(choices: Sequence[int]) -> int:
        heads = (grammar.names[grammar.productions[c].head] for c in choices)
        return next(i for i, name in enumerate(heads) if name.endswith(f"@{layer}"))

    return (*lower[: start(lower)], *above[start(above) :])


def _written(grammar: Grammar, chosen: dict[Labels, str]) -> tuple[int, ...] | list[dict[Labels, str]] | None:
    """The sentence of these choices; where a place is met that they leave open, what they become with each of its
    alternatives; None where there is no such sentence.
    """
    productions = grammar.productions
    choices, open_, above = list[int](), [grammar.start], set[int]()
    while open_:
        head = open_.pop()
        if head < 0:  # the end of a rule
            above.remove(~head)
            continue
        if head in above:
            return None  # what is chosen here would be chosen again below it, without end
        offered = {productions[i].label: i for i in grammar.by_head[head]}
        labels = tuple(offered)
        if len(labels) > 1 and labels not in chosen:
            return [{**chosen, labels: label} for label in labels]
        picked = offered[chosen.get(labels, labels[0])]
        if not productions[picked].p > 0:
            return None
        choices.append(picked)
        above.add(head)
        open_ += [~head, *reversed(productions[picked].children)]
    return tuple(choices)
