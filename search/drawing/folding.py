"""From an architecture to its picture: copies of one place are merged, the parts they make up put in frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import gcd

from archrank.grammar.architecture import Architecture
from archrank.grammar.signatures import Join, Shape, Split
from archrank.search.drawing.picture import INPUT, Frame, Picture, Row
from archrank.search.drawing.repeats import repeats


def picture_of(architecture: Architecture) -> Picture:
    """The picture of an architecture, equal parts drawn once."""
    merged = merge(architecture)
    return repeats(merged.framed(range(len(merged.rows)), 1, INPUT, merged.output))


@dataclass(slots=True)
class Merged:
    """Ops with equal copies merged: `counts[i]` how many ops row i stands for. Filled once, by `merge`."""

    input: Shape
    rows: list[Row] = field(default_factory=list)
    reads: list[tuple[int, ...]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    readers: list[list[int]] = field(default_factory=list)
    output: int = INPUT

    def framed(self, ids: Sequence[int], level: int, source: int, output: int) -> Picture:
        """Rows `ids` as a picture, where `level` copies stand for one; those that stand more often in frames."""
        parts = [_Part([i], i) for i in ids if self.counts[i] <= level]
        for component in self._components([i for i in ids if self.counts[i] > level]):
            parts.extend(self._framed_part(component, level))
        parts.sort(key=lambda part: part.ids[0])
        at = {i: k for k, part in enumerate(parts) for i in part.ids}
        items = tuple(part.frame or self._row(part.output, level) for part in parts)
        reads = tuple(self._reads(part, parts, at, level) for part in parts)
        shape = self.input if source == INPUT else self.rows[source].shape
        return Picture(shape, items, reads, at.get(output, INPUT))

    def _framed_part(self, component: list[int], level: int) -> list[_Part]:
        """One frame; the rows one by one where they are no part with one input and one output."""
        factor = gcd(*(self.counts[i] for i in component))
        ends = self._ends(component)
        if ends is None or factor % level or factor <= level:
            return [_Part([i], i) for i in component]
        source, output = ends
        if len(component) == 1:
            return [_Part(component, output)]
        return [_Part(component, output, Frame(factor // level, False, self.framed(component, factor, source, output)))]

    def _row(self, i: int, level: int) -> Row:
        row, times = self.rows[i], max(1, self.counts[i] // level)
        return Row(row.op, row.arguments, row.takes, row.shape, row.params, row.flops, times, row.ordered)

    def _stands(self, part: _Part, level: int) -> int:
        """How many values a part gives that are drawn as one."""
        return part.frame.count if part.frame is not None else max(1, self.counts[part.output] // level)

    def _reads(self, part: _Part, parts: Sequence[_Part], at: Mapping[int, int], level: int) -> tuple[int, ...]:
        """What a part reads, as places among the parts; a frame's copies are read as one."""
        if part.frame is not None:
            outside = (r for i in part.ids for r in self.reads[i] if r not in part.members)
            return tuple(dict.fromkeys(at.get(read, INPUT) for read in outside))
        found, seen = list[int](), dict[int, int]()
        for read in self.reads[part.output]:
            place = at.get(read, INPUT)
            stands = self._stands(parts[place], level) if place != INPUT else 1
            seen[place] = seen.get(place, -1) + 1
            if seen[place] % stands == 0:
                found.append(place)
        return tuple(found)

    def _components(self, ids: Sequence[int]) -> list[list[int]]:
        """Rows that are connected among themselves, each set in order."""
        root = {i: i for i in ids}
        for i in ids:
            for read in self.reads[i]:
                if read in root:
                    root[_find(root, i)] = _find(root, read)
        found: dict[int, list[int]] = {}
        for i in ids:
            found.setdefault(_find(root, i), []).append(i)
        return list(found.values())

    def _ends(self, component: Sequence[int]) -> tuple[int, int] | None:
        """The one value that the rows read from outside, and the one that is read outside; None where it is not one."""
        inside = set(component)
        sources = {read for i in component for read in self.reads[i] if read not in inside}
        given = {i for i in component if i == self.output or not inside.issuperset(self.readers[i])}
        if len(sources) != 1 or len(given) != 1:
            return None
        return next(iter(sources)), next(iter(given))


@dataclass(frozen=True, slots=True)
class _Part:
    ids: list[int]
    output: int
    frame: Frame | None = None

    @property
    def members(self) -> frozenset[int]:
        return frozenset(self.ids)


def _find(root: dict[int, int], i: int) -> int:
    while root[i] != i:
        root[i] = root[root[i]]
        i = root[i]
    return i


def merge(architecture: Architecture) -> Merged:
    """One row for each set of equal copies: ops that come from one place of the sentence and read equal values. The
    pieces of a split are one row.
    """
    found = Merged(architecture.input)
    known, at = dict[object, int](), {INPUT: INPUT}
    for index, node in enumerate(architecture.ops):
        signature = architecture.signatures[index]
        split = isinstance(signature, Split)
        arguments = node.arguments[:-2] if split else node.arguments
        reads = tuple(at[i] for i in node.inputs)
        at[index] = place = known.setdefault((node.node, node.op, arguments, node.shape, reads), len(known))
        if place < len(found.rows):
            found.counts[place] += not split or node.arguments[-2] == 0
            continue
        takes = architecture.input if not reads or reads[0] == INPUT else found.rows[reads[0]].shape
        text = ",".join(map(str, arguments)) + (f" → {node.arguments[-1]}" if split else "")
        ordered = isinstance(signature, Join) and not signature.commutative
        found.rows.append(Row(node.op, text.lstrip(), takes, node.shape, node.params, node.flops, 1, ordered))
        found.reads.append(reads)
        found.readers.append([])
        for read in dict.fromkeys(reads):
            if read != INPUT:
                found.readers[read].append(place)
        found.counts.append(1)
    found.output = at[architecture.output]
    return found
