"""Filling a branch towards a shape: what makes two branches of unlike outputs join.

A target travels down: a leaf takes one of its values that gives the shape; a chain first asks its last slot which
shape would have to arrive there (`Op.inverse`), then lets its parts run free as far as they may; a branch asks its
join (`Join.parts`). Every attempt is bounded, so that a branch costs no more than a fixed number of looks.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from archrank.grammar.program import BRANCH, CHAIN, LEAF, Leaf
from archrank.grammar.signatures import Join, Op, Shape, Value

if TYPE_CHECKING:
    from archrank.grammar.fill import Fill, Frame

_DEEPEST = 48
_TRIES = 24
_WAYS_BACK = 4


def closings(fill: Fill, frame: Frame) -> Iterator[tuple[str, tuple[Value, ...]]]:
    """Refills a frame's modules in turn: all towards the first one's output, towards the last one's, and at last each
    keeping its piece's shape. Yields the name of the count and what the modules now give.
    """
    outs, begins = list(frame.outs), list(frame.marks)
    written = fill.out[begins[0].written :]
    spent = [(b.params - a.params, b.flops - a.flops) for a, b in pairwise(begins)]
    old = [written[a.written - begins[0].written : b.written - begins[0].written] for a, b in pairwise(begins)]
    times = frame.times * (frame.ways if len(outs) == 1 else 1)
    for anchor in dict.fromkeys((0, len(outs) - 1)) if len(outs) > 1 else ():
        fill.back(begins[0])
        goal, found = Goal(fill), list[Value]()
        for i, out in enumerate(outs):
            if out.shape == outs[anchor].shape:
                fill.out.extend(old[i])
                fill.params, fill.flops = fill.params + spent[i][0], fill.flops + spent[i][1]
                found.append(out)
                continue
            reached = goal.reach(begins[i].hint, frame.piece, outs[anchor].shape, 0)
            if reached is None:
                break
            found.append(reached)
        if len(found) == len(outs) and _within(fill):
            frame.outs = found
            yield "goal", tuple(found)
    fill.back(begins[0])
    kept = list[Value]()
    for begin in begins[:-1]:
        fill.times = times
        same = fill.forward(begin.hint, frame.piece, True)
        fill.times = frame.times
        if same is None:
            return
        kept.append(same)
    frame.outs = kept
    yield "fallback", tuple(kept)


def _within(fill: Fill) -> bool:
    return fill.params <= fill.limits.params and fill.flops <= fill.limits.flops


class Goal:
    """One search for a filling with a given output shape; it gives up after a fixed number of looks."""

    def __init__(self, fill: Fill) -> None:
        self.fill, self.program, self.hints = fill, fill.program, fill.hints
        self.tries = _TRIES
        self.failed: set[tuple[int, Value, Shape]] = set()

    def reach(self, at: int, value: Value, shape: Shape, depth: int) -> Value | None:
        """Fills the subtree at hint `at` so that it gives `shape`; None, with nothing written, where no way is seen."""
        if (at, value, shape) in self.failed:
            return None
        self.tries -= 1
        if self.tries < 0 or depth > _DEEPEST:
            return None
        plan = self.program.plans[self.hints[at]]
        if plan.kind == LEAF:
            return self.leaf(at, value, shape)
        found, mark = None, self.fill.mark(at)
        if plan.kind == CHAIN:
            self.fill.out.append(self.hints[at])
            found = self.chain(self.parts(at), value, shape, depth)
        elif plan.kind == BRANCH:
            found = self.branch(at, value, shape, depth)
        if found is None:
            self.fill.back(mark)
            if value.shape == shape:
                found = self.fill.forward(at, value, True)
                if found is None:
                    self.fill.back(mark)
        if found is None:
            self.failed.add((at, value, shape))
        return found

    def parts(self, at: int) -> list[int]:
        """Where the parts of a node begin."""
        starts, ends = [at + 1], self.fill.ends()
        for _ in range(self.program.plans[self.hints[at]].parts - 1):
            starts.append(ends[starts[-1]])
        return starts

    def options(self, at: int) -> list[Leaf]:
        """The leaves of a slot that can be asked what they need: the one drawn first, the others in a random order by
        weight.
        """
        hint = self.hint(at)
        others = self.program.invertible[self.program.heads[hint[0]]]
        keyed = [
            (1.0 if leaf.choices == hint else self.fill.uniform() ** (1 / leaf.weight) - 1, leaf) for leaf in others
        ]
        return [leaf for _, leaf in sorted(keyed, key=lambda pair: -pair[0])]

    def hint(self, at: int) -> tuple[int, ...]:
        """The leaf that was drawn for a slot."""
        return tuple(self.hints[at : at + 1 + self.program.plans[self.hints[at]].terminals])

    def leaf(self, at: int, value: Value, shape: Shape) -> Value | None:
        """A leaf of the slot that gives the shape: the one drawn, else another by weight."""
        fill, hint, program = self.fill, self.hint(at), self.program
        giving = program.giving(program.heads[hint[0]], value, shape)
        if not giving:
            return None
        result = program.leaves[hint].at(value)
        if result is not None and result.out.shape == shape and fill.pay(result):
            fill.out.extend(hint)
            return result.out
        result = fill.write([fit for fit in giving if fill.fits(fit[1])])
        return None if result is None else result.out

    def chain(self, parts: list[int], value: Value, shape: Shape, depth: int) -> Value | None:
        """Parts one after the other: back from the last slot, then with all but the last part free, then with the last
        ones keeping the shape, then with the first ones keeping theirs.
        """
        if not parts:
            return value if value.shape == shape else None
        if len(parts) == 1:
            return self.reach(parts[0], value, shape, depth + 1)
        mark = self.fill.mark(parts[0])
        for way in (self._back_from_last, self._free_before_last, self._keep_after_first, self._keep_before_last):
            found = way(parts, value, shape, depth)
            if found is not None:
                return found
            self.fill.back(mark)
            if self.tries < 0:
                return None
        return None

    def _back_from_last(self, parts: list[int], value: Value, shape: Shape, depth: int) -> Value | None:
        if self.program.plans[self.hints[parts[-1]]].kind != LEAF:
            return None
        mark, seen = self.fill.mark(parts[0]), set[Shape]()
        for leaf in self.options(parts[-1]):
            assert isinstance(leaf.op, Op)
            before = leaf.op.inverse(shape, *leaf.arguments) if leaf.op.inverse else None
            if before is None or before in seen:
                continue
            seen.add(before)
            reached = self.chain(parts[:-1], value, before, depth + 1)
            result = None if reached is None else leaf.at(reached)
            if result is not None and result.out.shape == shape and self.fill.pay(result):
                self.fill.out.extend(leaf.choices)
                return result.out
            self.fill.back(mark)
            if len(seen) == _WAYS_BACK:
                break
        return None

    def _free_before_last(self, parts: list[int], value: Value, shape: Shape, depth: int) -> Value | None:
        for part in parts[:-1]:
            found = self.fill.forward(part, value, False)
            if found is None:
                return None
            value = found
        return self.reach(parts[-1], value, shape, depth + 1)

    def _keep_after_first(self, parts: list[int], value: Value, shape: Shape, depth: int) -> Value | None:
        reached = self.reach(parts[0], value, shape, depth + 1)
        return None if reached is None else self.chain(parts[1:], reached, shape, depth + 1)

    def _keep_before_last(self, parts: list[int], value: Value, shape: Shape, depth: int) -> Value | None:
        reached = self.chain(parts[:-1], value, value.shape, depth + 1)
        return None if reached is None else self.reach(parts[-1], reached, shape, depth + 1)

    def branch(self, at: int, value: Value, shape: Shape, depth: int) -> Value | None:
        """Every module towards the shape that the join would need of it."""
        plan, parts, fill = self.program.plans[self.hints[at]], self.parts(at), self.fill
        frame = fill.opened(at, plan, value, False)
        if frame is None:
            return None
        mark, seen = frame.marks[0], set[Shape]()
        for leaf in self.options(parts[-1]):
            assert isinstance(leaf.op, Join)
            each = leaf.op.parts(shape, frame.ways, *leaf.arguments) if leaf.op.parts else None
            if each is None or each in seen:
                continue
            seen.add(each)
            frame.outs = []
            fill.times = frame.times * (frame.ways if plan.parts == 3 else 1)
            for part in parts[1:-1]:
                reached = self.reach(part, frame.piece, each, depth + 1)
                if reached is None:
                    break
                frame.outs.append(reached)
            fill.times = frame.times
            if len(frame.outs) == plan.parts - 2:
                result = leaf.join(frame.values())
                if result is not None and result.out.shape == shape and fill.pay(result):
                    fill.out.extend(leaf.choices)
                    return result.out
            fill.back(mark)
        return None
