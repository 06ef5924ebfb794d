"""Equal parts that follow one another, drawn once: a tower of layers becomes one layer and its number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from archrank.search.drawing.picture import INPUT, Frame, Item, Picture

LEAST_SAVED = 3
"""Rows that a frame has to save, since it takes room of its own."""
_LONGEST_PERIOD = 64


class Run(NamedTuple):
    """Items that are `times` times the first `period` ones, from the value `source` on."""

    ids: tuple[int, ...]
    period: tuple[int, ...]
    times: int
    source: int


def repeats(picture: Picture) -> Picture:
    """The picture with every run of equal parts in a frame, inside of frames as well."""
    items = tuple(
        Frame(item.count, item.sequence, repeats(item.body)) if isinstance(item, Frame) else item
        for item in picture.items
    )
    same = Picture(picture.input, items, picture.reads, picture.output)
    runs = list(_runs(same))
    return _contracted(same, runs) if runs else same


def part(picture: Picture, ids: Sequence[int], source: int, output: int) -> Picture:
    """Some items as a picture of their own, whose input is the value `source`."""
    at = {i: k for k, i in enumerate(ids)}
    reads = tuple(tuple(at.get(read, INPUT) for read in picture.reads[i]) for i in ids)
    return Picture(picture.shape_of(source), tuple(picture.items[i] for i in ids), reads, at.get(output, INPUT))


def _contracted(picture: Picture, runs: Sequence[Run]) -> Picture:
    inside = {i: run for run in runs for i in run.ids}
    items, reads, at = list[Item](), list[tuple[int, ...]](), {INPUT: INPUT}
    for i, item in enumerate(picture.items):
        run = inside.get(i)
        if run is None:
            at[i] = len(items)
            items.append(item)
            reads.append(tuple(at[read] for read in picture.reads[i]))
        elif i == run.ids[-1]:  # the last one: whatever it reads stands before it
            at[i] = len(items)
            body = repeats(part(picture, run.period, run.source, run.period[-1]))
            items.append(Frame(run.times, True, body))
            reads.append((at[run.source],))
    return Picture(picture.input, tuple(items), tuple(reads), at[picture.output])


def _runs(picture: Picture) -> Iterator[Run]:
    """Runs that do not overlap: in the whole, and inside the branches of what does not repeat."""
    readers = _readers(picture)
    known = dict[Item, int]()
    kinds = [known.setdefault(item, len(known)) for item in picture.items]
    todo: list[tuple[list[int], int, int]] = [(list(range(len(picture.items))), INPUT, picture.output)]
    while todo:
        ids, source, output = todo.pop()
        segments = _segments(picture, ids, output)
        forms = _forms(picture, kinds, segments, source)
        at = 0
        while at < len(segments):
            period, count = _longest(forms, [len(s) for s in segments], at)
            before = segments[at - 1][-1] if at else source
            if count > 1:
                run = [i for segment in segments[at : at + period * count] for i in segment]
                yield Run(tuple(run), tuple(run[: len(run) // count]), count, before)
            elif len(segments[at]) > LEAST_SAVED:
                todo.extend(_branches(picture, readers, segments[at][:-1], before))
            at += period * count


def _segments(picture: Picture, ids: Sequence[int], output: int) -> list[list[int]]:
    """The items cut behind each one that every path passes."""
    at = {i: k for k, i in enumerate(ids)}
    last = list(range(len(ids)))
    entry = 0
    for k, i in enumerate(ids):
        for read in picture.reads[i]:
            if read in at:
                last[at[read]] = max(last[at[read]], k)
            else:
                entry = max(entry, k)
    unread = {k for k in range(len(ids)) if last[k] == k and ids[k] != output}
    segments, current, reach = list[list[int]](), list[int](), entry
    for k, i in enumerate(ids):
        current.append(i)
        if k >= reach and k not in unread:
            segments.append(current)
            current = []
        reach = max(reach, len(ids) if k in unread else last[k])
    return [*segments, current] if current else segments


def _forms(picture: Picture, kinds: Sequence[int], segments: Sequence[Sequence[int]], source: int) -> list[int]:
    """A number for each segment, equal for equal ones; `kinds`: a number for each item."""
    if len(segments) < 2:
        return [0] * len(segments)
    known, forms = dict[object, int](), list[int]()
    for segment in segments:
        at = {i: k for k, i in enumerate(segment)}
        form = tuple((kinds[i], tuple(at.get(read, INPUT) for read in picture.reads[i])) for i in segment)
        forms.append(known.setdefault((picture.shape_of(source), form), len(known)))
        source = segment[-1]
    return forms


def _longest(forms: Sequence[int], sizes: Sequence[int], at: int) -> tuple[int, int]:
    """(period, count) of the run at a place that saves most rows; (1, 1) where none saves enough."""
    best, saved = (1, 1), LEAST_SAVED - 1
    for period in range(1, min(_LONGEST_PERIOD, (len(forms) - at) // 2) + 1):
        count = 1
        first = forms[at : at + period]
        while forms[at + count * period : at + (count + 1) * period] == first:
            count += 1
        gain = (count - 1) * sum(sizes[at : at + period])
        if gain > saved:
            best, saved = (period, count), gain
    return best


def _branches(
    picture: Picture, readers: Sequence[Sequence[int]], ids: Sequence[int], source: int
) -> Iterator[tuple[list[int], int, int]]:
    """What lies between two cuts, by connected parts: those with one input and one output."""
    component: dict[int, list[int]] = {}
    for i in ids:
        component[i] = joined = [i]
        for read in picture.reads[i]:
            if read in component and component[read] is not joined:
                small, joined = sorted((component[read], joined), key=len)
                joined.extend(small)
                component.update(dict.fromkeys(small, joined))
    for unsorted in {id(c): c for c in component.values()}.values():
        members = sorted(unsorted)
        inside = set(members)
        outside = {read for i in members for read in picture.reads[i] if read not in inside}
        ends = [i for i in members if not inside.issuperset(readers[i]) or not readers[i]]
        if len(members) > LEAST_SAVED and outside == {source} and ends == members[-1:]:
            yield members, source, members[-1]


def _readers(picture: Picture) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in picture.items]
    for i, reads in enumerate(picture.reads):
        for read in reads:
            if read != INPUT:
                found[read].append(i)
    return found
