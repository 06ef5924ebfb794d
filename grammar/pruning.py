"""A grammar without some of its productions."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

from archrank.grammar.model import Grammar


def pruned(grammar: Grammar, dropped: Collection[int]) -> Grammar:
    """`dropped` get probability 0, the others of their rules p / Σ of what is left; numbers stay as they are.

    ValueError for a number that is none, or a rule that would lose its last alternative.
    """
    gone, productions = set(dropped), list(grammar.productions)
    wrong = [i for i in gone if not 0 <= i < len(productions)]
    if wrong:
        raise ValueError(f"production {wrong[0]}: the grammar has numbers from 0 to {len(productions) - 1}")
    for head in {productions[i].head for i in gone}:
        left = math.fsum(productions[i].p for i in grammar.by_head[head] if i not in gone)
        if left <= 0:
            raise ValueError(f"{grammar.names[head]} would lose its last alternative")
        for i in grammar.by_head[head]:
            p = 0.0 if i in gone else productions[i].p / left
            productions[i] = replace(productions[i], p=p, log_p=math.log(p) if p > 0 else -math.inf)
    return replace(grammar, productions=tuple(productions))
