"""Sentences over an encoder's layers that people choose without a search: all layers cut alike, or those at the bottom
left and all above them dropped.

They are the baselines of structured pruning: uniform width, and depth (Sajjad et al., On the effect of dropping layers
of pre-trained transformer models, 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from archrank.grammar.derivation import Derivation
from archrank.grammar.model import Grammar

if TYPE_CHECKING:
    from archrank.grammar.space_sentences import SpaceSentences

__all__ = ["alike", "equal_layers"]

Labels = tuple[str, ...]
Choices = tuple[int, ...]


def equal_layers(space: SpaceSentences, grammar: Grammar, made: Callable[[Choices], Derivation]) -> list[Derivation]:
    """Those of a space that is bound to layers, within its bounds. grammar: written out for them; made(choices)."""
    layers, fitting = list(space.layers), (d for d in map(made, alike(grammar)) if space.meets(d))
    cut = {d: space.ensemble_choices(d) for d in fitting}
    single = {d: tuple(c.members[0].values()) for d, c in cut.items() if len(c.members) == 1}
    none = next((d for d, choices in single.items() if not any(c.kept for c in choices)), None)
    full = [(layer.heads, layer.ffn) for layer in space.layers.values()]
    found = [d for d in single if d != none]
    joined = list[Derivation]()
    whole = [d for d in found if [(c.heads, c.ffn) for c in single[d]] == full]
    if none is not None:
        joined += [made(_joined(grammar, at, [d.choices, none.choices], 0)) for d in whole for at in layers[1:]]
    groups: dict[tuple[int, int, tuple[tuple[int, int], ...]], list[Derivation]] = {}
    for d, choice in cut.items():
        first = choice.members[0].values()
        if len(choice.members) > 1 and any(c.kept for c in first):
            key = len(choice.members), choice.split, tuple((c.heads, c.ffn) for c in first)
            groups.setdefault(key, []).append(d)
    for (many, split, _), group in groups.items():
        for i in range(len(group) if len(group) >= many else 0):
            members = [group[i - k].choices for k in range(many)]
            joined.append(made(_joined(grammar, layers[split], members, 1)))
    return found + [d for d in joined if space.meets(d)]


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


def _joined(grammar: Grammar, layer: str, parts: Sequence[Choices], first: int) -> Choices:
    """The choices of parts[0] up to the place where a layer stands for the time `first` (from 0), there those of
    parts[1], where it stands again those of parts[2] and so on. All parts are sentences of one form.
    """

    def places(choices: Choices) -> list[int]:
        heads = [grammar.names[grammar.productions[c].head] for c in choices]
        site = next(name for name in heads if name.endswith(f"@{layer}"))
        return [i for i, name in enumerate(heads) if name == site]

    found = [places(choices) for choices in parts]
    joined = [*parts[0][: found[0][first]]]
    for k in range(1, len(parts)):
        at, last = found[k], k + 1 == len(parts)
        joined += parts[k][at[first + k - 1] : None if last else at[first + k]]
    return tuple(joined)


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
