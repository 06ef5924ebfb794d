"""An architecture as an ordinary torch module: its own weights, one module an op."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from archrank.grammar import Architecture, OpNode, Space
from archrank.grammar.heads import member_outputs
from archrank.grammar.signatures import Shape
from archrank.grammar.user_ops import module_class
from archrank.supernet import builders

__all__ = ["BuildError", "Network", "build", "buildable", "op_module"]


Step = tuple[int, int, tuple[int, ...], tuple[int, ...]]


class BuildError(ValueError):
    """An op that has no torch module, or one that does not do what its signature says."""


class Network(nn.Module):
    """Runs the ops of an architecture in order on x (batch, *architecture.input); a value is let go after its last use.

    `ops[i]` is the module of `architecture.ops[i]`. Where im2col, linear and col2im follow each other and nothing else
    reads between them, one convolution with the linear layer's weights does their work (`convolution` says so): the
    windows are then never written to memory.
    """

    def __init__(self, architecture: Architecture, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.architecture = architecture
        self.ops = nn.ModuleList(modules)
        self._steps = _steps(architecture)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, *input) → (batch, *shape)."""
        expected = self.architecture.input
        if tuple(x.shape[1:]) != expected:
            raise ValueError(f"the network is built for inputs of shape (batch, {_listed(expected)}), not {_given(x)}")
        return self._values(x, self._steps)[self.architecture.output]

    def member_logits(self, x: Tensor) -> list[Tensor]:
        """`(batch, classes)` of each member of an ensemble with heads, the trunk run once; of any other network its one
        output.
        """
        members = member_outputs(self.architecture)
        if not members:
            return [self(x)]
        values = self._values(x, self._steps[:-1])
        return [values[member] for member in members]

    def _values(self, x: Tensor, steps: Sequence[Step]) -> dict[int, Tensor]:
        """What is still held after some steps."""
        values: dict[int, Tensor] = {-1: x}
        for index, module, reads, done in steps:
            values[index] = self.ops[module](*(values[read] for read in reads))
            for read in done:
                del values[read]
        return values


def _listed(shape: Shape) -> str:
    return ", ".join(map(str, shape))


def _given(x: Tensor) -> tuple[int, ...]:
    return tuple(int(n) for n in x.shape)


def _steps(architecture: Architecture) -> list[Step]:
    """(value written, module, values read, values let go) for each op that runs."""
    fused = {last: (first, middle) for first, middle, last in architecture.convolutions}
    skipped = {op for pair in fused.values() for op in pair}
    running: list[tuple[int, int, tuple[int, ...]]] = []
    for index, op in enumerate(architecture.ops):
        if index in fused:
            first, middle = fused[index]
            running.append((index, middle, architecture.ops[first].inputs))
        elif index not in skipped:
            running.append((index, index, op.inputs))
    last = {read: index for index, _, reads in running for read in reads}
    last.pop(architecture.output, None)
    return [
        (index, module, reads, tuple(read for read in dict.fromkeys(reads) if last.get(read) == index))
        for index, module, reads in running
    ]


def op_module(node: OpNode, inputs: tuple[Shape, ...]) -> nn.Module:
    """The module of one op for inputs of these shapes; BuildError names an op that has none."""
    own = module_class(node.op)
    if own is not None:
        made = own(inputs[0], *node.arguments)
        if not isinstance(made, nn.Module):
            raise BuildError(f"op {node.op}: {own.__name__}{(inputs[0], *node.arguments)} is no torch.nn.Module")
        return made
    if node.op not in builders.available():
        raise BuildError(
            f"op {node.op} has a signature and no torch module: decorate a torch.nn.Module class with ar.op, or add "
            f"supernet/builders/{node.op}.py"
        )
    return builders.load(node.op)(inputs, node)


def buildable(space: Space) -> list[str]:
    """The ops of an architecture space that have no torch module; [] where every candidate can be built."""
    return [name for name in space.op_names() if module_class(name) is None and name not in builders.available()]


def build(architecture: Architecture, seed: int | None = None) -> Network:
    """The architecture as a torch module with weights of its own, initialised as torch's layers are.

    seed: of the weights; None takes torch's global generator. The number of parameters is `architecture.params`, and
    `FlopCounterMode` counts `architecture.flops` at batch 1. Raises BuildError where an op has no module, or where a
    user's module has other parameters than its signature says.
    """
    if seed is not None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build(architecture)
    modules, windows = list[nn.Module](), {middle: first for first, middle, _ in architecture.convolutions}
    for i, op in enumerate(architecture.ops):
        shapes = tuple(architecture.input if read < 0 else architecture.ops[read].shape for read in op.inputs)
        module = op_module(op, shapes)
        count = sum(p.numel() for p in module.parameters())
        if count != op.params:
            raise BuildError(f"op {op.op}{op.arguments} on {shapes}: {count:,} parameters built, {op.params:,} stated")
        if i in windows:
            module = builders.convolution(module, architecture.ops[windows[i]])
        modules.append(module)
    return Network(architecture, modules)
