"""Many candidates over one batch, layer by layer: a prefix of choices that candidates share is run once.

Two candidates that agree on all bound modules up to layer l have the same hidden state h_l, so what there is to run
are the distinct prefixes (a trie). m uniform mutations of a parent whose states are at hand leave 1 / (m + 1) of the
depth shared. The nodes of one layer run one after the other, or stacked along the rows with one gate row each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from archrank.supernet.adapters.base import AdapterFamily
from archrank.supernet.chain import Chain, Recorded
from archrank.supernet.states import StateCache
from archrank.supernet.wiring import Choices, Slot, Stack, Weight, mergeable, merged_weight, wired

__all__ = ["Population", "Vector", "Way", "distinct_nodes"]

Vector = tuple[int, ...]
"""The rank of each bound module, in model order."""

Node = tuple[int, Vector]
"""(layers run, the choices of the bound modules in them)."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Way:
    """How nodes run: up to `copies` of one layer stacked (1: one after the other); `merged`: with W + ΔW instead of
    the branch; `keep`: whether states may come from, and stay for, other calls (only where copies is 1: then a state's
    bits depend on its prefix alone).
    """

    copies: int = 1
    merged: bool = False
    keep: bool = False


@dataclass
class Population:
    """Runs candidates of one net over batches, with at most `state_bytes` of hidden states in flight and
    `weight_bytes` of merged weights.
    """

    chain: Chain
    targets: Sequence[nn.Module]
    adapters: Sequence[AdapterFamily]
    states: StateCache
    state_bytes: int
    weight_bytes: int
    _weights: dict[tuple[int, int], Weight] = field(default_factory=dict)
    _weighed: int = 0
    _masks: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def run(
        self, vectors: Sequence[Vector], batch: Mapping[str, Tensor], key: int, read: Callable[[Any], T], way: Way
    ) -> list[T]:
        """`read` of the base's answer for each candidate; `key` stands for the batch's content."""
        recorded = self.chain.record(batch)
        told: dict[Vector, T] = {}
        with wired(self.targets, self.adapters) as slots:
            for group in self._groups(sorted(set(vectors)), recorded):
                for vector, hidden in self._hidden(group, recorded, key, way, slots):
                    self._set(slots, self.chain.tail, [vector], way)
                    told[vector] = read(self.chain.finish(hidden, recorded))
        return [told[v] for v in vectors]

    def _groups(self, vectors: list[Vector], recorded: Recorded) -> Iterator[list[Vector]]:
        """Neighbours in order share prefixes; as many at a time as two layers' states fit into `state_bytes`."""
        size = recorded.first.numel() * recorded.first.element_size()
        most = max(1, self.state_bytes // (2 * max(1, size)))
        for low in range(0, len(vectors), most):
            yield vectors[low : low + most]

    def _hidden(
        self, vectors: list[Vector], recorded: Recorded, key: int, way: Way, slots: list[Slot]
    ) -> Iterator[tuple[Vector, Tensor]]:
        """(candidate, h_L) for each."""
        paths = {v: path(self.chain, v) for v in vectors}
        copies = 1 if recorded.square else way.copies
        held: dict[Node, Tensor] = {(0, ()): recorded.first}
        for depth, level in enumerate(self._needed(paths, held, key, way)):
            for low in range(0, len(level), copies):
                chunk = level[low : low + copies]
                owners = [v for _, _, v in chunk]
                self._set(slots, self.chain.places[depth], owners, way)
                before = [held[parent] for parent, _, _ in chunk]
                out = self.chain.run(depth, before[0] if len(before) == 1 else torch.cat(before), recorded)
                for (_, node, _), part in zip(chunk, out.chunk(len(chunk)) if len(chunk) > 1 else [out], strict=True):
                    held[node] = part
                    if way.keep:
                        self.states.put((key, way.merged, node), part)
            # nothing of this depth is read again, but for what came from the store further down
            held = {node: h for node, h in held.items() if node[0] > depth}
        for vector in vectors:
            yield vector, held[paths[vector][-1]]

    def _needed(
        self, paths: Mapping[Vector, tuple[Node, ...]], held: dict[Node, Tensor], key: int, way: Way
    ) -> list[list[tuple[Node, Node, Vector]]]:
        """(parent, node, a candidate that has it) to run at each layer; adds to `held` what the store has."""
        levels: list[list[tuple[Node, Node, Vector]]] = [[] for _ in self.chain.layers]
        met: set[Node] = set()
        for vector, nodes in paths.items():
            for depth in range(len(levels) - 1, -1, -1):
                node = nodes[depth + 1]
                if node in met:
                    break
                met.add(node)
                found = self.states.get((key, way.merged, node)) if way.keep else None
                if found is not None:
                    held[node] = found
                    break
                levels[depth].append((nodes[depth], node, vector))
        return levels

    def _set(self, slots: list[Slot], places: Sequence[int], vectors: Sequence[Vector], way: Way) -> None:
        for place in places:
            slots[place] = self._slot(place, [v[place] for v in vectors], way)

    def _slot(self, place: int, ranks: Sequence[int], way: Way) -> Slot:
        if not any(ranks):
            return None
        if way.merged and mergeable(self.targets[place]):
            return self._weight(place, ranks[0]) if len(ranks) == 1 else self._choices(place, ranks)
        gates = torch.cat([self._mask(place, rank) for rank in ranks])
        return gates if len(ranks) == 1 else Stack(gates)

    def _choices(self, place: int, ranks: Sequence[int]) -> Choices:
        """Each stacked candidate's weight, in the layout of a linear layer."""
        kinds = sorted(set(ranks))
        values = [self._weight(place, rank).value for rank in kinds]
        turned = [v if isinstance(self.targets[place], nn.Linear) else v.T for v in values]
        choice = torch.tensor([kinds.index(rank) for rank in ranks], device=turned[0].device)
        return Choices(torch.stack(turned), choice)

    def _mask(self, place: int, rank: int) -> Tensor:
        full = self.adapters[place].rank
        if (full, rank) not in self._masks:
            device = next(self.adapters[place].parameters()).device
            self._masks[full, rank] = (torch.arange(full, device=device) < rank).float()[None]
        return self._masks[full, rank]

    def _weight(self, place: int, rank: int) -> Weight:
        """W + ΔW, kept for the length of one evaluation while there is room."""
        found = self._weights.get((place, rank))
        if found is None:
            found = merged_weight(self.targets[place], self.adapters[place], rank)
            size = found.value.numel() * found.value.element_size()
            if self._weighed + size <= self.weight_bytes:
                self._weights[place, rank] = found
                self._weighed += size
        return found


def path(chain: Chain, vector: Vector) -> tuple[Node, ...]:
    """The nodes that a candidate passes: before the first layer, then after each."""
    nodes: list[Node] = [(0, ())]
    for depth, places in enumerate(chain.places):
        nodes.append((depth + 1, (*nodes[-1][1], *(vector[p] for p in places))))
    return tuple(nodes)


def distinct_nodes(chain: Chain, vectors: Sequence[Vector]) -> list[int]:
    """How many distinct prefixes end at each layer: what there is to run without a store."""
    met = {node for v in set(vectors) for node in path(chain, v)}
    return [sum(node[0] == depth + 1 for node in met) for depth in range(len(chain.layers))]
