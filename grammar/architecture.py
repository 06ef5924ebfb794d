"""An immutable graph of ops: what a sentence of an architecture space builds, with shapes and costs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from archrank.grammar.signatures import Argument, Join, Op, Shape, Split, elements, rows
from archrank.grammar.workload import OpCost, Workload

if TYPE_CHECKING:
    import networkx

BYTES_PER_ELEMENT = 4
_RANK = re.compile(r"=lora\((\d+)\)")


class OpNode(NamedTuple):
    """One op of the graph.

    `inputs`: the nodes it reads, -1 the architecture's input. `shape`: of its output, without the batch. `params`,
    `flops` (2 × multiply-adds) at batch 1, `written`: elements of new memory. `node`: the place in the derivation's
    preorder that it comes from (ops of a structure's own: the structure's); copies of one place share it.
    `adapter_params`: those of `params` that belong to adapters.
    """

    op: str
    arguments: tuple[Argument, ...]
    inputs: tuple[int, ...]
    shape: Shape
    params: int
    flops: int
    written: int
    node: int
    adapter_params: int = 0


@dataclass(frozen=True)
class Architecture:
    """The ops of one sentence in an order in which they can run; the last value is `output` (-1: the input itself).

    `input`: the input's shape without the batch. `signatures`: of each op, parallel to `ops`.
    """

    input: Shape
    ops: tuple[OpNode, ...]
    output: int
    signatures: tuple[Op | Split | Join, ...]

    @property
    def shape(self) -> Shape:
        """The output's shape, without the batch."""
        return self.input if self.output < 0 else self.ops[self.output].shape

    @cached_property
    def params(self) -> int:
        """Weights of all ops; each copy has its own."""
        return sum(op.params for op in self.ops)

    @cached_property
    def adapter_params(self) -> int:
        """Those of `params` that belong to adapters."""
        return sum(op.adapter_params for op in self.ops)

    @cached_property
    def flops(self) -> int:
        """2 × multiply-adds at batch 1, attention products included: torch's FlopCounterMode."""
        return sum(op.flops for op in self.ops)

    @cached_property
    def activation_bytes(self) -> int:
        """Bytes in fp32 of the largest single value that an op writes, at batch 1 (the input where none writes)."""
        largest = max((op.written for op in self.ops), default=0)
        return BYTES_PER_ELEMENT * (largest or elements(self.input))

    @cached_property
    def convolutions(self) -> tuple[tuple[int, int, int], ...]:
        """(im2col, linear, col2im) that follow each other with nothing else reading between: one convolution of the
        im2col's kernel, stride and padding does their work without writing the windows.
        """
        readers = Counter(read for op in self.ops for read in op.inputs)
        readers[self.output] += 1
        found = []
        for last, op in enumerate(self.ops):
            middle = op.inputs[0]
            if op.op != "col2im" or middle < 0 or self.ops[middle].op != "linear" or readers[middle] > 1:
                continue
            first = self.ops[middle].inputs[0]
            if first >= 0 and self.ops[first].op == "im2col" and readers[first] == 1:
                found.append((first, middle, last))
        return tuple(found)

    @cached_property
    def live_elements(self) -> int:
        """The most elements that are held at once at batch 1 when the ops run in order and each value is dropped after
        its last use; a view holds what it looks at for no longer than its own readers need it.
        """
        inner = {op for first, middle, _ in self.convolutions for op in (first, middle)}
        start = {last: self.ops[first].inputs for first, _, last in self.convolutions}
        reads = {i: start.get(i, op.inputs) for i, op in enumerate(self.ops) if i not in inner}
        last_use = {read: i for i, inputs in reads.items() for read in inputs}
        drops: dict[int, list[int]] = {}
        for value, i in last_use.items():
            if value != self.output:
                drops.setdefault(i, []).append(value)
        held = most = elements(self.input)
        for i in reads:
            held += self.ops[i].written
            most = max(most, held)
            held -= sum(elements(self.input) if v < 0 else self.ops[v].written for v in drops.get(i, ()))
        return most

    def workload(self, batch: int = 1) -> Workload:
        """The op costs at a batch, equal ones merged: what a device prices. ValueError where batch < 1."""
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise ValueError(f"workload({batch!r}): the batch is a whole number of at least 1")
        fused = {op: triple for triple in self.convolutions for op in triple}
        costs: list[OpCost] = []
        for i in range(len(self.ops)):
            if i not in fused:
                costs.extend(self.costs(i, batch))
            elif i == fused[i][-1]:
                costs.append(self._convolution(*fused[i], batch))
        return Workload(tuple(costs), self.params, batch * self.live_elements)

    def _convolution(self, first: int, middle: int, last: int, batch: int) -> OpCost:
        kernel, stride, padding = (int(n) for n in self.ops[first].arguments)
        source = self.ops[first].inputs[0]
        channels, high, wide = self.input if source < 0 else self.ops[source].shape
        dims = {"b": batch, "c_in": channels, "c_out": self.ops[last].shape[0], "h": high, "w": wide}
        return OpCost.of("conv2d", {**dims, "kernel": kernel, "stride": stride, "padding": padding})

    def costs(self, index: int, batch: int) -> Sequence[OpCost]:
        """What a device runs for one op by itself."""
        node, signature = self.ops[index], self.signatures[index]
        if isinstance(signature, Split):
            return ()
        shapes = tuple(self.input if i < 0 else self.ops[i].shape for i in node.inputs)
        if isinstance(signature, Join) and signature.costs is not None:
            return signature.costs(shapes, batch, *node.arguments)
        if isinstance(signature, Op) and signature.costs is not None:
            own = node.arguments[: signature.arguments]
            return (*signature.costs(shapes[0], batch, *own), *self._adapters(node, signature, shapes[0], batch))
        if not (node.flops or node.params or node.written):
            return ()
        totals = {"flops": batch * node.flops, "read": batch * sum(map(elements, shapes))}
        sizes = {**totals, "written": batch * node.written, "parameters": node.params}
        return (OpCost("other", tuple(sizes.items()), label=node.op),)

    def _adapters(self, node: OpNode, signature: Op, shape: Shape, batch: int) -> list[OpCost]:
        """The unmerged adapters of an op that carries them."""
        if signature.linears is None:
            return []
        found = []
        for linear, word in zip(
            signature.linears(shape, *node.arguments[: signature.arguments]),
            node.arguments[signature.arguments :],
            strict=True,
        ):
            rank = _RANK.search(str(word))
            if rank is not None:
                dims = {"m": batch * rows(shape), "n": linear.outputs, "k": linear.inputs, "r": int(rank[1])}
                found.append(OpCost.of("lora", dims))
        return found

    def graph(self) -> networkx.DiGraph[int]:
        """The graph for networkx: node -1 is the input; the others have op, arguments, shape, params, flops. An edge's
        `slots` are the places among the op's inputs, since one value may be read twice.
        """
        import networkx

        found: networkx.DiGraph[int] = networkx.DiGraph()
        found.add_node(-1, op="input", arguments=(), shape=self.input, params=0, flops=0)
        for i, op in enumerate(self.ops):
            found.add_node(i, op=op.op, arguments=op.arguments, shape=op.shape, params=op.params, flops=op.flops)
            for read in dict.fromkeys(op.inputs):
                found.add_edge(read, i, slots=tuple(k for k, other in enumerate(op.inputs) if other == read))
        return found
