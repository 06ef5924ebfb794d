"""A layered layout: longest-path layers, barycentre ordering, positions by least squares. Boxes and arrows, no text."""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from archrank.search.drawing.picture import DrawingError

MOST_POINTS = 20_000
"""Boxes and places that arrows pass, in one drawing."""
_SWEEPS = 8
_REAL, _PASSING = 4.0, 0.002  # arrows that pass give way: they are made straight at the end


@dataclass(frozen=True, slots=True)
class Spacing:
    """Distances between boxes of one layer, and between a box and an arrow that passes it."""

    boxes: float = 30.0
    lanes: float = 18.0


@dataclass(frozen=True, slots=True)
class Layering:
    """`layers[k]`: the nodes of layer k from left to right, numbered on beyond the boxes for the points at which long
    arrows pass. `chains[e]`: the nodes that arrow e runs through. `centres`: x of each node.
    """

    layers: tuple[tuple[int, ...], ...]
    chains: tuple[tuple[int, ...], ...]
    centres: tuple[float, ...]


def arranged(
    widths: Sequence[float],
    edges: Sequence[tuple[int, int]],
    ports: Sequence[tuple[float, float]],
    spacing: Spacing,
) -> Layering:
    """Nodes in an order in which each edge goes forward; every node but the first is reached from it. `ports[e]`: where
    edge e leaves its node and enters the next, relative to their centres.
    """
    layer = [0] * len(widths)
    for source, target in sorted(edges, key=lambda edge: edge[1]):
        layer[target] = max(layer[target], layer[source] + 1)
    leaving = Counter(source for source, _ in edges)
    chains, keys, at = _chains(layer, edges, len(widths), leaving)
    # an arrow from a fork only passes by; one from a branch is that branch going on
    solid = [True] * len(widths) + [leaving[chain[0]] == 1 for chain in chains for _ in chain[1:-1]]
    rows: list[list[int]] = [[] for _ in range(max(layer) + 1)]
    for node in sorted(range(len(at)), key=lambda node: keys[node]):
        rows[at[node]].append(node)
    links = _Links(len(at), chains, ports)
    rows = _ordered(rows, links)
    every = [*widths, *[0.0] * (len(at) - len(widths))]
    apart = [_distances(row, every, len(widths), spacing) for row in rows]
    centres = _positions(rows, links, solid, apart)
    _straighten(rows, chains, ports, centres, apart)
    left = min(centres[node] - every[node] / 2 for row in rows for node in row)
    centres = [centre - left for centre in centres]
    return Layering(tuple(map(tuple, rows)), tuple(map(tuple, chains)), tuple(centres))


def _chains(
    layer: Sequence[int], edges: Sequence[tuple[int, int]], count: int, leaving: Counter[int]
) -> tuple[list[list[int]], list[float], list[int]]:
    """The nodes of each edge, a key that orders nodes of a layer at first, and the layer of every node."""
    at, keys = list(layer), [float(i) for i in range(count)]
    chains = []
    for source, target in edges:
        between = range(layer[source] + 1, layer[target])
        chains.append([source, *range(len(at), len(at) + len(between)), target])
        at.extend(between)
        if len(at) > MOST_POINTS:
            raise DrawingError(
                f"the picture's arrows pass more than {MOST_POINTS:,} places; --format ascii draws it, a line an op"
            )
        # an arrow that leaves a fork goes to the right of what it passes, one from a finished branch stays where it is
        keys.extend([target - 0.5 if leaving[source] > 1 else source + 0.25] * len(between))
    return chains, keys, at


class _Links:
    """Neighbours above and below of every node, each with how far beside it the node stands when the arrow is
    straight.
    """

    def __init__(self, count: int, chains: Sequence[Sequence[int]], ports: Sequence[tuple[float, float]]) -> None:
        self.above: list[list[tuple[int, float]]] = [[] for _ in range(count)]
        self.below: list[list[tuple[int, float]]] = [[] for _ in range(count)]
        for chain, (leaves, enters) in zip(chains, ports, strict=True):
            for k, (one, other) in enumerate(pairwise(chain)):
                shift = leaves * (k == 0) - enters * (k == len(chain) - 2)
                self.below[one].append((other, -shift))
                self.above[other].append((one, shift))


def _ordered(rows: list[list[int]], links: _Links) -> list[list[int]]:
    """Barycentre sweeps; the order with the fewest crossings."""
    best, least = rows, _crossings(rows, links)
    for sweep in range(_SWEEPS):
        if not least:
            break
        rows = [list(row) for row in rows]
        down = sweep % 2 == 0
        for k in range(1, len(rows)) if down else range(len(rows) - 2, -1, -1):
            place = {node: i for i, node in enumerate(rows[k - 1 if down else k + 1])}
            near = links.above if down else links.below
            now = {node: float(i) for i, node in enumerate(rows[k])}
            rows[k].sort(key=lambda n, p=place, w=now: _mean([p[o] for o, _ in near[n]], w[n]))  # type: ignore[misc]
        found = _crossings(rows, links)
        if found < least:
            best, least = rows, found
    return best


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _crossings(rows: Sequence[Sequence[int]], links: _Links) -> int:
    """Pairs of arrows that cross, by counting inversions."""
    total = 0
    for upper, lower in pairwise(rows):
        place = {node: i for i, node in enumerate(lower)}
        seen: list[int] = []
        for node in upper:
            ends = sorted(place[other] for other, _ in links.below[node])
            total += sum(len(seen) - bisect_right(seen, end) for end in ends)
            for end in ends:
                insort(seen, end)
    return total


def _positions(
    rows: Sequence[Sequence[int]],
    links: _Links,
    solid: Sequence[bool],
    apart: Sequence[Sequence[float]],
) -> list[float]:
    """Each layer in turn as near to its neighbours as its order allows, down and up."""
    x = [0.0] * len(solid)
    for row, distances in zip(rows, apart, strict=True):
        for node, at in zip(row, accumulate(distances, initial=-sum(distances) / 2), strict=True):
            x[node] = at
    for sweep in range(2 * _SWEEPS):
        down = sweep % 2 == 0
        for k in range(len(rows)) if down else range(len(rows) - 1, -1, -1):
            near = links.above if down else links.below
            wanted = [_wanted(node, near[node], x, solid) for node in rows[k]]
            found = spread([w for w, _ in wanted], [weight for _, weight in wanted], apart[k])
            for node, value in zip(rows[k], found, strict=True):
                x[node] = value
    return x


def _distances(row: Sequence[int], widths: Sequence[float], boxes: int, spacing: Spacing) -> list[float]:
    """Least distances between the centres of neighbours."""
    return [
        (widths[a] + widths[b]) / 2 + (spacing.boxes if a < boxes and b < boxes else spacing.lanes)
        for a, b in pairwise(row)
    ]


def _wanted(
    node: int, near: Sequence[tuple[int, float]], x: Sequence[float], solid: Sequence[bool]
) -> tuple[float, float]:
    """Where a node would like to stand, and how much: in line with branches rather than with arrows that only pass."""
    if not near:
        return x[node], 0.1
    real = [(other, shift) for other, shift in near if solid[other]] if solid[node] else []
    weight = _REAL * len(real) if real else _PASSING
    return _mean([x[other] + shift for other, shift in real or near], 0.0), weight


def _straighten(
    rows: Sequence[Sequence[int]],
    chains: Sequence[Sequence[int]],
    ports: Sequence[tuple[float, float]],
    x: list[float],
    apart: Sequence[Sequence[float]],
) -> None:
    """Long arrows become straight wherever their neighbours leave room, from the outermost on."""
    place = {node: (k, i) for k, row in enumerate(rows) for i, node in enumerate(row)}

    def room(node: int) -> tuple[float, float]:
        k, i = place[node]
        low = x[rows[k][i - 1]] + apart[k][i - 1] if i else -math.inf
        high = x[rows[k][i + 1]] - apart[k][i] if i + 1 < len(rows[k]) else math.inf
        return low, high

    long = [(chain, port) for chain, port in zip(chains, ports, strict=True) if len(chain) > 2]
    for chain, (leaves, enters) in sorted(long, key=lambda c: -max(x[node] for node in c[0][1:-1])):
        ends = (x[chain[0]] + leaves, x[chain[-1]] + enters)
        piece: list[int] = []
        low, high = -math.inf, math.inf
        for node in [*chain[1:-1], -1]:
            least, most = room(node) if node >= 0 else (math.inf, -math.inf)
            if piece and max(low, least) > min(high, most):
                _settle(piece, low, high, ends, x)
                piece, low, high = [], -math.inf, math.inf
            piece.append(node)
            low, high = max(low, least), min(high, most)


def _settle(piece: Sequence[int], low: float, high: float, ends: tuple[float, float], x: list[float]) -> None:
    """One x for a piece of an arrow: that of its end where there is room, else as near to it as can be."""
    middle = sum(x[node] for node in piece) / len(piece)
    fitting = [end for end in ends if low <= end <= high]
    chosen = fitting[0] if fitting else min(max(middle, low), high)
    for node in piece:
        x[node] = chosen


def spread(wanted: Sequence[float], weights: Sequence[float], apart: Sequence[float]) -> list[float]:
    """The positions x that minimise Σ weight · (x − wanted)² with x[i + 1] − x[i] ≥ apart[i]: isotonic regression
    by pooling adjacent violators.
    """
    offsets = [0.0]
    for distance in apart:
        offsets.append(offsets[-1] + distance)
    pools: list[tuple[float, float, int]] = []
    for value, weight, offset in zip(wanted, weights, offsets, strict=True):
        mean, mass, count = value - offset, weight, 1
        while pools and pools[-1][0] > mean:
            other, more, members = pools.pop()
            mean = (mean * mass + other * more) / (mass + more)
            mass, count = mass + more, count + members
        pools.append((mean, mass, count))
    means = [mean for mean, _, count in pools for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]
