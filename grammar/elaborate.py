"""From a derivation to its graph of ops: shapes threaded through, every copy built, nothing recursive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archrank.grammar.architecture import Architecture, OpNode
from archrank.grammar.ops.seq import wiring as chain
from archrank.grammar.program import HOST, LEAF, Leaf, Program, ends
from archrank.grammar.signatures import Join, Op, Shape, Split, Step, Value, rows, shown

MOST_OPS = 200_000


class Misfit(ValueError):
    """An op that does not fit what arrives at it: `node` is its place in the preorder."""

    def __init__(self, node: int, message: str) -> None:
        super().__init__(message)
        self.node = node


@dataclass(slots=True)
class _Frame:
    """A structure that is being run: where its parts begin, its registers as (value, op that wrote it), the next step,
    and the register that waits for what is running below.
    """

    node: int
    steps: tuple[Step, ...]
    parts: list[int]
    registers: list[tuple[Value, int]]
    step: int = 0
    waiting: int = 0


class Elaboration:
    """Runs one derivation."""

    def __init__(self, program: Program, choices: Sequence[int]) -> None:
        self.program, self.choices = program, choices
        self.ends = ends(program.plans, choices)
        self.nodes: list[OpNode] = []
        self.signatures: list[Op | Split | Join] = []

    def run(self, shape: Shape) -> Architecture:
        """The architecture for an input shape; Misfit at the first op that does not fit."""
        value, source, at = Value(shape), -1, 0
        frames: list[_Frame] = []
        while True:
            done = self.program.plans[self.choices[at]].kind in (LEAF, HOST)
            if done:
                value, source = self._leaf(at, value, source)
            else:
                frames.append(self._frame(at, value, source))
            while frames:
                frame = frames[-1]
                if done:
                    frame.registers[frame.waiting] = (value, source)
                below = self._advance(frame)
                if below is not None:
                    at, (value, source) = below
                    break
                done, (value, source) = True, frame.registers[frame.steps[-1].writes[0] if frame.steps else 0]
                frames.pop()
            else:
                return Architecture(shape, tuple(self.nodes), source, tuple(self.signatures))

    def _frame(self, at: int, value: Value, source: int) -> _Frame:
        plan = self.program.plans[self.choices[at]]
        parts, following = [], at + 1
        for _ in range(plan.parts):
            parts.append(following)
            following = self.ends[following]
        wiring = plan.wiring or chain(plan.parts)
        return _Frame(at, wiring.steps, parts, [(value, source)] * wiring.registers)

    def _advance(self, frame: _Frame) -> tuple[int, tuple[Value, int]] | None:
        """Runs steps until one goes down into a structure: where, and with what. None at the end."""
        plans, registers = self.program.plans, frame.registers
        while frame.step < len(frame.steps):
            step = frame.steps[frame.step]
            frame.step += 1
            read = registers[step.reads[0]]
            if not isinstance(step.part, int):
                registers[step.writes[0]] = self._own(frame, step)
                continue
            at = frame.parts[step.part]
            plan = plans[self.choices[at]]
            if plan.kind not in (LEAF, HOST):
                frame.waiting = step.writes[0]
                return at, read
            leaf = self.program.leaves[tuple(self.choices[at : at + 1 + plan.terminals])]
            if isinstance(leaf.op, Split):
                for register, piece in zip(step.writes, self._pieces(at, leaf, read, len(step.writes)), strict=True):
                    registers[register] = piece
            elif isinstance(leaf.op, Join):
                registers[step.writes[0]] = self._join(at, leaf, [registers[r] for r in step.reads])
            else:
                registers[step.writes[0]] = self._leaf(at, *read)
        return None

    def _own(self, frame: _Frame, step: Step) -> tuple[Value, int]:
        """An op of the structure's own."""
        leaf = self.program.own(step)
        if isinstance(step.part, Join):
            return self._join(frame.node, leaf, [frame.registers[r] for r in step.reads])
        return self._apply(frame.node, leaf, *frame.registers[step.reads[0]])

    def _leaf(self, at: int, value: Value, source: int) -> tuple[Value, int]:
        plan = self.program.plans[self.choices[at]]
        stop = at + 1 + plan.terminals
        found = self._apply(at, self.program.leaves[tuple(self.choices[at:stop])], value, source)
        if plan.kind == HOST:
            self._adapt(value, stop)
        return found

    def _adapt(self, value: Value, at: int) -> None:
        """Adds the adapters that begin at `at` to the op that was emitted last."""
        node, op = self.nodes[-1], self.signatures[-1]
        assert isinstance(op, Op)
        assert op.linears is not None
        words, params, flops = [], 0, 0
        for linear in op.linears(value.shape, *node.arguments):
            stop = at + 1 + self.program.plans[self.choices[at]].terminals
            leaf = self.program.leaves[tuple(self.choices[at:stop])]
            cost = leaf.adapting(linear, rows(value.shape))
            if cost is None:
                shape = f"({linear.outputs}, {linear.inputs})"
                raise Misfit(at, f"{leaf.word} is above the limit of {linear.name}, a linear layer of shape {shape}")
            params, flops, at = params + cost[0], flops + cost[1], stop
            words.append(f"{linear.name}={leaf.word}")
        self.nodes[-1] = node._replace(
            arguments=(*node.arguments, *words),
            params=node.params + params,
            flops=node.flops + flops,
            adapter_params=params,
        )

    def _apply(self, at: int, leaf: Leaf, value: Value, source: int) -> tuple[Value, int]:
        op = leaf.op
        assert isinstance(op, Op)
        result = leaf.at(value)
        if result is None:
            raise Misfit(at, f"{leaf.word} does not fit its input of shape {shown(value.shape)}")
        if op.identity:
            return result.out, source
        out, params, flops, written = result
        self._emit(OpNode(op.name, leaf.arguments, (source,), out.shape, params, flops, written, at), op)
        return out, len(self.nodes) - 1

    def _pieces(self, at: int, leaf: Leaf, read: tuple[Value, int], ways: int) -> list[tuple[Value, int]]:
        op, (value, source) = leaf.op, read
        assert isinstance(op, Split)
        piece = leaf.split(value, ways)
        if piece is None:
            raise Misfit(at, f"{leaf.word} cannot cut shape {shown(value.shape)} into {ways} equal pieces")
        if op.same:
            return [read] * ways
        for i in range(ways):
            self._emit(OpNode(op.name, (*leaf.arguments, i, ways), (source,), piece.shape, 0, 0, 0, at), op)
        return [(piece, len(self.nodes) - ways + i) for i in range(ways)]

    def _join(self, at: int, leaf: Leaf, reads: list[tuple[Value, int]]) -> tuple[Value, int]:
        op, values, sources = leaf.op, tuple(value for value, _ in reads), tuple(source for _, source in reads)
        assert isinstance(op, Join)
        result = leaf.join(values)
        if result is None:
            shapes = ", ".join(dict.fromkeys(shown(value.shape) for value in values))
            raise Misfit(at, f"{leaf.word} cannot join {len(values)} values of shapes {shapes}")
        out, params, flops, written = result
        self._emit(OpNode(op.name, leaf.arguments, sources, out.shape, params, flops, written, at), op)
        return out, len(self.nodes) - 1

    def _emit(self, node: OpNode, signature: Op | Split | Join) -> None:
        if len(self.nodes) >= MOST_OPS:
            raise Misfit(node.node, f"the architecture has more than {MOST_OPS:,} ops with every copy built")
        self.nodes.append(node)
        self.signatures.append(signature)
