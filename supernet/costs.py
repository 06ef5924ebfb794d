"""Which way of evaluating a population is fastest, from what was measured (benchmarks/population_evaluation.py).

The choice is a function of shapes and candidates alone. A choice by the clock would give other roundings from one run
to the next, and a resumed run must repeat an uninterrupted one bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archrank.supernet.population import Way

__all__ = ["COSTS", "Costs", "choose", "copies"]


@dataclass(frozen=True, slots=True)
class Costs:
    """What a device's forwards cost, as far as a choice depends on it.

    stack_tokens: tokens of one stacked layer call beyond which stacking more candidates gains nothing (cpu: the
    calls' overhead is spread by then, and larger activations leave the cache: at 4,096 tokens stacking was 1.1 to 1.5
    times slower than running one after the other); stack_nodes: distinct prefixes of a layer from which stacking pays;
    stack_least: candidates that must fit, since fewer gain less by stacking than by a parent's kept states (at 256
    tokens, four of them: 1.3 against 1.7 times the loop's speed).
    """

    stack_tokens: int
    stack_nodes: int
    stack_least: int


COSTS = {
    "cpu": Costs(stack_tokens=1024, stack_nodes=4, stack_least=8),
    # not measured yet: a launch-bound layer call of a small encoder is far below this
    "cuda": Costs(stack_tokens=16384, stack_nodes=2, stack_least=2),
}


def choose(device: str, tokens: int, nodes: Sequence[int], *, stackable: bool) -> Way:
    """How to run candidates of `tokens` tokens each whose distinct prefixes number `nodes` at each layer.

    Stacked where several fit into stack_tokens and there are enough of them; else one after the other from kept states.
    """
    known = COSTS.get(device, COSTS["cpu"])
    stacked = copies(device, tokens)
    pays = stacked >= known.stack_least and sum(nodes) >= known.stack_nodes * len(nodes)
    return Way(copies=stacked) if stackable and pays else Way(keep=True)


def copies(device: str, tokens: int) -> int:
    """Candidates of `tokens` tokens to stack in one call of a layer."""
    return max(1, COSTS.get(device, COSTS["cpu"]).stack_tokens // max(1, tokens))
