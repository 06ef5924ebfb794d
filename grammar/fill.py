"""Typed fill: a derivation drawn without looking at shapes becomes one whose ops all fit, left to right.

Each slot keeps the leaf that was drawn where it fits the value that arrives and the budgets that are left, and is
drawn again among those that do where it does not. Given the slots before it, a slot's distribution is then the
grammar's own conditioned on fitting: P(x) [x fits] + P(nothing drawn fits) P(x | fits) = P(x | fits). Structure, and
with it the size, is never changed.

Where no join fits what its branches give, a branch is filled again towards the shape of the other one (`goal`); only if
that fails in both directions are both filled so that they keep the shape of their piece.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

from archrank.grammar.program import BRANCH, CHAIN, HOST, LEAF, Fit, Leaf, Plan, Program, Result, ends
from archrank.grammar.signatures import Join, Linear, Op, Value, rows

_VISIT, _NEXT, _JOIN = range(3)
_FIRST: tuple[int, None] = (_VISIT, None)


class Limits(NamedTuple):
    """Upper bounds of an architecture: parameters, FLOPs, elements of the largest activation, adapter parameters."""

    params: float = math.inf
    flops: float = math.inf
    elements: float = math.inf
    adapter_params: float = math.inf


class Mark(NamedTuple):
    """Where a fill stood: the next hint, what was written, what was spent."""

    hint: int
    written: int
    params: int
    flops: int


class Frame:
    """A branch that is being filled: its input, the piece that each module gets, what the modules gave, and where each
    began (one mark more than modules: where the last one ended).
    """

    __slots__ = ("marks", "outs", "piece", "times", "value", "ways")

    def __init__(self, value: Value, piece: Value, ways: int, times: int) -> None:
        self.value, self.piece, self.ways, self.times = value, piece, ways, times
        self.outs: list[Value] = []
        self.marks: list[Mark] = []

    def values(self) -> tuple[Value, ...]:
        """What the join gets: a module that is built several times gives its output several times."""
        return tuple(self.outs) if len(self.outs) == self.ways else tuple(self.outs * self.ways)


class Fill:
    """One fill of one derivation: `run` gives the productions, or None where some slot has no leaf that fits."""

    def __init__(
        self, program: Program, limits: Limits, hints: Sequence[int], uniform: Callable[[], float], counts: Counter[str]
    ) -> None:
        self.program, self.limits, self.hints, self.uniform, self.counts = program, limits, hints, uniform, counts
        self.out: list[int] = []
        self.params = self.flops = self.adapter_params = 0
        self.times = 1
        self._ends: list[int] | None = None

    def run(self, value: Value) -> list[int] | None:
        """The filled derivation for an input."""
        return self.out if self.forward(0, value, False) is not None else None

    def ends(self) -> list[int]:
        """Where the subtree of each hint ends; made once, and only where a branch needs it."""
        if self._ends is None:
            self._ends = ends(self.program.plans, self.hints)
        return self._ends

    def forward(self, at: int, value: Value, keep: bool) -> Value | None:
        """Fills the subtree at hint `at`; with `keep` each slot keeps its input's shape. None where nothing fits."""
        plans, hints, out = self.program.plans, self.hints, self.out
        tasks: list[tuple[int, Frame | None]] = [_FIRST]
        while tasks:
            kind, frame = tasks.pop()
            if kind == _VISIT:
                plan = plans[hints[at]]
                if plan.kind == LEAF:
                    stop = at + 1 + plan.terminals
                    result = self.slot(tuple(hints[at:stop]), value, keep)
                    if result is None:
                        return None
                    value, at = result.out, stop
                elif plan.kind == HOST:
                    hosted = self.host(at, value)
                    if hosted is None:
                        return None
                    value, at = hosted, self.ends()[at]
                elif plan.kind == CHAIN:
                    out.append(hints[at])
                    at += 1
                    tasks.extend([_FIRST] * plan.parts)
                elif plan.kind == BRANCH:
                    found = self.opened(at, plan, value, keep)
                    if found is None:
                        return None
                    modules = plan.parts - 2
                    tasks.append((_JOIN, found))
                    tasks.extend([(_NEXT, found), _FIRST] * modules)
                    if modules == 1:
                        self.times *= found.ways
                    value, at = found.piece, found.marks[0].hint
                else:
                    after = self.graph(at, value, keep)
                    if after is None:
                        return None
                    value, at = after, self.ends()[at]
            elif frame is not None and kind == _NEXT:
                frame.outs.append(value)
                frame.marks.append(self.mark(at))
                self.times, value = frame.times, frame.piece
            elif frame is not None:
                stop = at + 1 + plans[hints[at]].terminals
                result = self.join(tuple(hints[at:stop]), frame, keep)
                if result is None:
                    return None
                value, at = result.out, stop
        return value

    def host(self, at: int, value: Value) -> Value | None:
        """A layer with adapters: the layer as drawn or another that fits, then each adapter."""
        program, stop = self.program, at + 1 + self.program.plans[self.hints[at]].terminals
        hint = tuple(self.hints[at:stop])
        result = program.leaves[hint].at(value)
        chosen = program.leaves[hint]
        if result is None or not self.pay(result):
            found = [fit for fit in program.fitting(program.heads[hint[0]], value) if self.fits(fit[1])]
            if not found:
                return None
            chosen, result = found[self.draw([leaf.weight for leaf, _ in found])]
            self.pay(result)
        self.out.extend(chosen.choices)
        if program.plans[chosen.choices[0]].kind == HOST:
            assert isinstance(chosen.op, Op)
            assert chosen.op.linears is not None
            for linear in chosen.op.linears(value.shape, *chosen.arguments):
                after = stop + 1 + program.plans[self.hints[stop]].terminals
                if not self.adapter(tuple(self.hints[stop:after]), linear, rows(value.shape)):
                    return None
                stop = after
        return result.out

    def adapter(self, hint: tuple[int, ...], linear: Linear, many: int) -> bool:
        """Writes the drawn adapter where it fits, else another of its rule; False where none does."""
        options = self.program.options[self.program.heads[hint[0]]]
        drawn = self.program.leaves[hint]
        chosen = drawn if self._affordable(drawn, linear, many) else None
        if chosen is None:
            found = [leaf for leaf in options if self._affordable(leaf, linear, many)]
            if not found:
                return False
            chosen = found[self.draw([leaf.weight for leaf in found])]
        params, flops = chosen.adapting(linear, many) or (0, 0)
        self.params, self.flops = self.params + params, self.flops + flops
        self.adapter_params += params
        self.out.extend(chosen.choices)
        return True

    def _affordable(self, leaf: Leaf, linear: Linear, many: int) -> bool:
        cost = leaf.adapting(linear, many)
        return (
            cost is not None
            and self.params + cost[0] <= self.limits.params
            and self.flops + cost[1] <= self.limits.flops
            and self.adapter_params + cost[0] <= self.limits.adapter_params
        )

    def mark(self, at: int) -> Mark:
        """Where the fill stands."""
        return Mark(at, len(self.out), self.params, self.flops)

    def back(self, mark: Mark) -> None:
        """Takes back everything since a mark."""
        del self.out[mark.written :]
        self.params, self.flops = mark.params, mark.flops

    def opened(self, at: int, plan: Plan, value: Value, keep: bool) -> Frame | None:
        """Writes a branch's beginning; None where no split fits."""
        self.out.append(self.hints[at])
        stop = at + 2 + self.program.plans[self.hints[at + 1]].terminals
        ways = plan.arguments[0]
        assert isinstance(ways, int)
        piece = self.split(tuple(self.hints[at + 1 : stop]), value, ways, keep)
        if piece is None:
            return None
        frame = Frame(value, piece, ways, self.times)
        frame.marks.append(self.mark(stop))
        return frame

    def graph(self, at: int, value: Value, keep: bool) -> Value | None:
        """Runs a structure's wiring; a part that runs again has to fit as it was filled the first time."""
        plan, hints = self.program.plans[self.hints[at]], self.hints
        assert plan.wiring is not None
        self.out.append(hints[at])
        starts = [at + 1]
        for _ in range(plan.parts):
            starts.append(self.ends()[starts[-1]])
        registers: list[Value | None] = [value, *[None] * (plan.wiring.registers - 1)]
        first: dict[int, tuple[int, ...]] = {}
        for step in plan.wiring.steps:
            read = tuple(v for r in step.reads if (v := registers[r]) is not None)
            if isinstance(step.part, Op | Join):
                leaf = self.program.own(step)
                result = leaf.at(read[0]) if isinstance(step.part, Op) else leaf.join(read)
                if result is None or not self.pay(result):
                    return None
                registers[step.writes[0]] = result.out
            elif step.part not in first:
                begun = len(self.out)
                registers[step.writes[0]] = self.forward(starts[step.part], read[0], keep)
                first[step.part] = tuple(self.out[begun:])
            else:
                again = Fill(self.program, self._left(), first[step.part], self.uniform, self.counts)
                registers[step.writes[0]] = again.forward(0, read[0], keep)
                if tuple(again.out) != first[step.part]:
                    return None
                self.params, self.flops = self.params + again.params, self.flops + again.flops
            if registers[step.writes[0]] is None:
                return None
        return registers[plan.wiring.steps[-1].writes[0]]

    def _left(self) -> Limits:
        return Limits(self.limits.params - self.params, self.limits.flops - self.flops, self.limits.elements)

    def fits(self, result: Result) -> bool:
        """Whether an op keeps the budgets."""
        limits, times = self.limits, self.times
        return (
            result.written <= limits.elements
            and self.params + times * result.params <= limits.params
            and self.flops + times * result.flops <= limits.flops
        )

    def pay(self, result: Result) -> bool:
        """Takes an op's cost from the budgets, where it fits them."""
        _, params, flops, written = result
        limits, times = self.limits, self.times
        params, flops = self.params + times * params, self.flops + times * flops
        if written > limits.elements or params > limits.params or flops > limits.flops:
            return False
        self.params, self.flops = params, flops
        return True

    def slot(self, hint: tuple[int, ...], value: Value, keep: bool) -> Result | None:
        """Writes the drawn leaf where it fits, else another of its rule; None where none does."""
        program = self.program
        result = program.leaves[hint].at(value)
        if result is not None and (not keep or result.out == value) and self.pay(result):
            self.out.extend(hint)
            return result
        fitting = program.of_kind(LEAF, program.fitting(program.heads[hint[0]], value))
        return self.write([fit for fit in fitting if (not keep or fit[1].out == value) and self.fits(fit[1])])

    def write(self, found: list[Fit]) -> Result | None:
        """Draws one of these leaves by weight, writes it and pays for it."""
        if not found:
            return None
        leaf, result = found[self.draw([leaf.weight for leaf, _ in found])]
        self.pay(result)
        self.out.extend(leaf.choices)
        return result

    def draw(self, weights: list[float]) -> int:
        """An index by weight."""
        cumulative = list(accumulate(weights))
        return min(bisect_right(cumulative, self.uniform() * cumulative[-1]), len(weights) - 1)

    def split(self, hint: tuple[int, ...], value: Value, ways: int, keep: bool) -> Value | None:
        """Writes the drawn split where it fits, else another; the piece, or None where none fits."""
        leaf = self.program.leaves[hint]
        piece = leaf.split(value, ways)
        if piece is None or (keep and piece != value):
            found = [
                (other, p)
                for other in self.program.options[self.program.heads[hint[0]]]
                if (p := other.split(value, ways)) is not None and (not keep or p == value)
            ]
            if not found:
                return None
            leaf, piece = found[self.draw([other.weight for other, _ in found])]
        self.out.extend(leaf.choices)
        return piece

    def join(self, hint: tuple[int, ...], frame: Frame, keep: bool) -> Result | None:
        """Joins the branches; where nothing joins them, fills branches again. None where even that fails."""
        result = self.joined(hint, frame.values(), frame.value if keep else None)
        if result is not None or keep:
            self.counts["free"] += not keep
            return result
        from archrank.grammar.goal import closings

        for name, _ in closings(self, frame):
            result = self.joined(hint, frame.values(), None)
            if result is not None:
                self.counts[name] += 1
                return result
        return None

    def joined(self, hint: tuple[int, ...], values: tuple[Value, ...], only: Value | None) -> Result | None:
        """Writes the drawn join where it fits, else another; None where none fits."""
        result = self.program.leaves[hint].join(values)
        if result is not None and (only is None or result.out == only) and self.pay(result):
            self.out.extend(hint)
            return result
        found: list[Fit] = []
        for other in self.program.options[self.program.heads[hint[0]]]:
            result = other.join(values)
            if result is not None and (only is None or result.out == only) and self.fits(result):
                found.append((other, result))
        return self.write(found)
