"""Heights of layers and orthogonal arrows between them: each gap has as many tracks as its arrows need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from archrank.search.drawing.layers import Layering

Point = tuple[float, float]
_STRAIGHT = 0.75
_APART = 8.0


@dataclass(frozen=True, slots=True)
class Gaps:
    """Room in a gap: below a box (for the shape of its value), for each track, and above the next box."""

    below: float = 20.0
    track: float = 9.0
    above: float = 13.0


@dataclass(frozen=True, slots=True)
class Placed:
    """`tops`: y of each box; `routes`: the corners of each arrow; the size of the whole."""

    tops: tuple[float, ...]
    routes: tuple[tuple[Point, ...], ...]
    width: float
    height: float


@dataclass(slots=True)
class _Bus:
    """Arrows of one gap that share a horizontal line: one source, or one target."""

    heads: set[float]
    feet: set[float]
    track: int = -1

    @property
    def span(self) -> Point:
        every = self.heads | self.feet
        return min(every) - _APART, max(every) + _APART


def placed(
    layering: Layering, sizes: Sequence[tuple[float, float]], ports: Sequence[tuple[float, float]], gaps: Gaps
) -> Placed:
    """`ports[e]`: where arrow e leaves its box and enters the next, relative to their centres."""
    layers, x = layering.layers, layering.centres
    heights = [max((sizes[n][1] for n in layer if n < len(sizes)), default=0.0) for layer in layers]
    at = {node: k for k, layer in enumerate(layers) for node in layer}
    steps = [_steps(chain, ports[e], x) for e, chain in enumerate(layering.chains)]
    tracks, counts = _tracks(layering, steps, at)
    tops, y = [], 0.0
    for k, height in enumerate(heights):
        tops.append(y)
        y += height + gaps.below + gaps.above + gaps.track * max(0, (counts[k] if k < len(counts) else 0) - 1)
    box_tops = [tops[at[n]] + (heights[at[n]] - sizes[n][1]) / 2 for n in range(len(sizes))]
    routes = []
    for e, chain in enumerate(layering.chains):
        source, target = chain[0], chain[-1]
        points: list[Point] = [(steps[e][0][0], box_tops[source] + sizes[source][1])]
        for k, (one, other) in enumerate(steps[e]):
            if abs(one - other) >= _STRAIGHT:
                level = tops[at[chain[k]]] + heights[at[chain[k]]] + gaps.below + gaps.track * tracks[e][k]
                points += [(one, level), (other, level)]
        points.append((steps[e][-1][1], box_tops[target]))
        routes.append(tuple(points))
    right = max(x[n] + (sizes[n][0] / 2 if n < len(sizes) else 0.0) for layer in layers for n in layer)
    return Placed(tuple(box_tops), tuple(routes), right, tops[-1] + heights[-1])


def _steps(chain: Sequence[int], port: tuple[float, float], x: Sequence[float]) -> list[Point]:
    """Where x is at the upper and the lower end of each piece of an arrow."""
    at = [x[node] for node in chain]
    at[0] += port[0]
    at[-1] += port[1]
    return [(one, one if abs(one - other) < _STRAIGHT else other) for one, other in pairwise(at)]


def _tracks(
    layering: Layering, steps: Sequence[Sequence[Point]], at: dict[int, int]
) -> tuple[list[list[int]], list[int]]:
    """The track of each piece of each arrow, and how many tracks each gap has."""
    gaps: list[dict[tuple[str, int], _Bus]] = [{} for _ in layering.layers[1:]]
    entering: dict[int, int] = {}
    for chain in layering.chains:
        entering[chain[-1]] = entering.get(chain[-1], 0) + 1
    names: list[list[tuple[str, int]]] = []
    for e, chain in enumerate(layering.chains):
        names.append([])
        for k, (one, other) in enumerate(steps[e]):
            last = k == len(steps[e]) - 1 and entering[chain[-1]] > 1
            name = (f"into {other:.1f}", chain[k + 1]) if last else ("from", chain[k])
            names[-1].append(name)
            if abs(one - other) >= _STRAIGHT:
                bus = gaps[at[chain[k]]].setdefault(name, _Bus(set(), set()))
                bus.heads.add(one)
                bus.feet.add(other)
    for gap in gaps:
        _assign(list(gap.values()))
    tracks = [
        [gaps[at[chain[k]]][name].track if name in gaps[at[chain[k]]] else 0 for k, name in enumerate(names[e])]
        for e, chain in enumerate(layering.chains)
    ]
    return tracks, [max((bus.track for bus in gap.values()), default=-1) + 1 for gap in gaps]


def _assign(buses: list[_Bus]) -> None:
    """Tracks from the top: a line that starts in a column stands above one that ends in it, so that two values never
    share a piece of it; lines on one track do not touch.
    """
    open_ = sorted(buses, key=lambda bus: (bus.span[1] - bus.span[0], bus.span[0]))
    while open_:
        free = [bus for bus in open_ if not any(_above(other, bus) for other in open_ if other is not bus)]
        for bus in free or open_[:1]:
            least = max((other.track + 1 for other in buses if other.track >= 0 and _above(other, bus)), default=0)
            taken = {other.track for other in buses if other.track >= 0 and _overlap(other.span, bus.span)}
            while least in taken:
                least += 1
            bus.track = least
            open_.remove(bus)


def _above(one: _Bus, other: _Bus) -> bool:
    return any(abs(head - foot) < _APART / 2 for head in one.heads for foot in other.feet)


def _overlap(one: Point, other: Point) -> bool:
    return one[0] < other[1] and other[0] < one[1]
