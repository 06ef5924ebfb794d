"""A network as one plain Python file: a torch.nn.Module whose forward is the list of ATen calls it makes.

torch.export traces the module on fake tensors; each call is written as `aten.NAME.OVERLOAD(…)`, so that the file needs
torch alone, and no class of archrank, transformers or TorchScript. A value is deleted after its last use, as eager
modules let theirs go. Weights are not in the file: floats are drawn anew when it is built (a time does not depend on
them), whole numbers and masks stand in it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from archrank.search.errors import ExportError

__all__ = ["exported", "source"]

DROPPED = (torch.ops.aten._assert_tensor_metadata.default,)
LONGEST = 65_536
"""Whole numbers of one constant that are written out."""

HEAD = '''"""{title}"""

import torch

aten = torch.ops.aten


def drawn(*shape, dtype):
    """Random weights of about unit gain; ones for scales, shifts and running statistics."""
    if len(shape) < 2:
        return torch.ones(shape, dtype=dtype)
    scale = max(1, torch.Size(shape[1:]).numel()) ** -0.5
    return torch.randn(shape).mul_(scale).to(dtype)


class Network(torch.nn.Module):
    """{doc}"""

    def __init__(self):
        super().__init__()
{state}

    def forward(self, {inputs}):
        device = {first}.device
{body}


def build(device="cpu"):
    """The network in eval mode, weights from seed 0."""
    torch.manual_seed(0)
    return Network().eval().requires_grad_(False).to(device)
'''


def exported(module: nn.Module, inputs: Sequence[Tensor], names: Sequence[str] | None = None) -> ExportedProgram:
    """The module traced at the inputs' shapes; `names`: its forward's keywords, where it takes them. ExportError says
    what torch.export could not trace.
    """
    args, kwargs = (tuple(inputs), {}) if names is None else ((), dict(zip(names, inputs, strict=True)))
    try:
        with torch.no_grad():
            return torch.export.export(module.eval(), args, kwargs)
    except (RuntimeError, ValueError, TypeError, torch._dynamo.exc.TorchDynamoException) as error:
        lines = str(error).strip().splitlines()
        raise ExportError(f"torch.export: {lines[0] if lines else type(error).__name__}") from None


def source(program: ExportedProgram, title: str) -> str:
    """The file of a traced network; ExportError names an op that is none of ATen's."""
    written = _Written(program)
    inputs = ", ".join(written.inputs)
    return HEAD.format(
        title=title.replace("\\", "\\\\").replace('"', "'"),
        doc=f"{inputs} → {', '.join(written.outputs)}; {written.weights:,} weights.",
        state="\n".join(f"        {line}" for line in written.state) or "        pass",
        inputs=inputs,
        first=written.inputs[0],
        body="\n".join(f"        {line}" for line in written.body),
    )


class _Written:
    """The pieces of the file."""

    def __init__(self, program: ExportedProgram) -> None:
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.state: list[str] = []
        self.body: list[str] = []
        self.weights = 0
        self._names: dict[fx.Node, str] = {}
        self._place: dict[int, str] = {}
        self._held(program)
        last = _last_uses(program.graph)
        for node in program.graph.nodes:
            if node.op == "call_function" and node.target not in DROPPED:
                self._call(node)
                gone = [self._names[n] for n in last.get(node, ()) if n.op == "call_function" and n in self._names]
                if gone:
                    self.body.append(f"del {', '.join(gone)}")
            elif node.op == "output":
                self.outputs = [self._value(value) for value in node.args[0] if isinstance(value, fx.Node)]
                self.body.append(f"return {', '.join(self.outputs)}")
            elif node.op not in ("placeholder", "call_function"):
                raise ExportError(f"{node.op} {node.target} cannot be written as plain Python")

    def _held(self, program: ExportedProgram) -> None:
        """Names of the inputs, and a line of state for each weight, buffer and constant that is read."""
        places = [node for node in program.graph.nodes if node.op == "placeholder"]
        for node, spec in zip(places, program.graph_signature.input_specs, strict=True):
            if spec.kind is InputKind.USER_INPUT:
                self.inputs.append(str(node.name))
                self._names[node] = str(node.name)
                continue
            held = program.state_dict.get(spec.target or "")
            held = program.constants.get(spec.target or "") if held is None else held
            if not isinstance(held, Tensor):
                raise ExportError(f"{spec.target}: a {type(held).__name__} cannot be written as plain Python")
            if node.users:
                self._names[node] = self._state(held, spec.kind is InputKind.PARAMETER)

    def _state(self, held: Tensor, trained: bool) -> str:
        if id(held) in self._place:  # a weight that two layers share
            return self._place[id(held)]
        shape = tuple(int(n) for n in held.shape)
        if held.is_floating_point():
            value = f"drawn({''.join(f'{n}, ' for n in shape)}dtype={held.dtype})"
        elif held.numel() <= LONGEST:
            value = f"torch.tensor({held.tolist()}, dtype={held.dtype}).reshape({shape})"
        else:
            value = f"torch.zeros({shape}, dtype={held.dtype})  # {held.numel():,} numbers, not written out"
        if trained:
            self.weights += held.numel()
            name = f"w{len(self._place)}"
            self.state.append(f"self.{name} = torch.nn.Parameter({value}, requires_grad=False)")
        else:
            name = f"b{len(self._place)}"
            self.state.append(f"self.register_buffer({name!r}, {value})")
        self._place[id(held)] = f"self.{name}"
        return f"self.{name}"

    def _call(self, node: fx.Node) -> None:
        name = self._names[node] = f"v{len(self.body)}"
        if node.target is operator.getitem:
            self.body.append(f"{name} = {self._value(node.args[0])}[{self._value(node.args[1])}]")
            return
        target = node.target
        if not (isinstance(target, torch._ops.OpOverload) and target.namespace == "aten"):
            raise ExportError(f"op {target} is none of ATen's: it cannot be written as plain Python")
        given = [self._value(value) for value in node.args]
        given += [f"{key}={self._value(value)}" for key, value in node.kwargs.items()]
        self.body.append(f"{name} = {target}({', '.join(given)})")

    def _value(self, value: Any) -> str:
        """An argument as Python writes it."""
        if isinstance(value, fx.Node):
            return self._names[value]
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(self._value(each) for each in value)}]"
        if isinstance(value, torch.device):
            return "device"
        if isinstance(value, float) and not math.isfinite(value):
            return f'float("{value}")'
        if value is None or isinstance(value, (bool, int, float, str)):
            return repr(value)
        if isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
            return str(value)
        raise ExportError(f"{value!r} cannot be written as plain Python")


def _last_uses(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """{node: the values that nothing reads after it}."""
    last: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.op == "call_function" and node.target in DROPPED:
            continue
        last[node] = node  # what nobody reads goes at once
        for read in node.all_input_nodes:
            last[read] = node
    found: dict[fx.Node, list[fx.Node]] = {}
    for read, reader in last.items():
        if reader.op != "output":
            found.setdefault(reader, []).append(read)
    return found
