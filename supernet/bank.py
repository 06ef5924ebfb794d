"""A bank of weights that architectures of one space share: the supernet of a space without a common graph.

Each op with weights has a slot: what it is (op, and for a linear layer over windows their kernel), the shapes of its
tensors, and its place among the ops of an architecture that agree in both. An architecture starts from the slots of
its ops; where a slot is empty, from the slot of the same kind that overlaps most, of whose tensors the common corner is
copied (output and input channels are ordered, so that a narrower layer is a slice of a wider one); where there is none
either, from torch's initialisation.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from archrank.grammar import Architecture, Space
from archrank.grammar.signatures import elements
from archrank.supernet.heap import give_back
from archrank.supernet.networks import Network, build
from archrank.supernet.relatives import pairs

__all__ = ["CAPACITY_BYTES", "Bank", "Slot"]

CAPACITY_BYTES = 512 * 2**20
"""What a bank holds at most by default; the slots that were used longest ago go first."""

Shapes = tuple[tuple[int, ...], ...]
Tensors = dict[str, Tensor]
_SLICED_ANYWHERE = ("pos_enc",)


@dataclass(frozen=True, slots=True)
class Slot:
    """Where an op's weights lie: its kind, its tensors' shapes, its place among equal ops of an architecture."""

    kind: str
    shapes: Shapes
    place: int

    @property
    def name(self) -> str:
        """A name for a file."""
        shapes = ",".join("x".join(map(str, shape)) for shape in self.shapes)
        return f"{self.kind}/{shapes}/{self.place}"

    @staticmethod
    def named(name: str) -> Slot:
        """The slot of a name."""
        kind, shapes, place = name.rsplit("/", 2)
        sizes = (tuple(int(n) for n in shape.split("x") if n) for shape in shapes.split(","))
        return Slot(kind, tuple(sizes), int(place))


class Bank:
    """Weights by slot. `capacity_bytes` bounds what it holds; ValueError where the space has no architectures."""

    def __init__(self, space: Space, capacity_bytes: int = CAPACITY_BYTES) -> None:
        if not space.is_architecture_space:
            raise ValueError(f"{space.name} has no architectures to share weights among; it needs //@ input")
        if capacity_bytes < 0:
            raise ValueError(f"capacity_bytes = {capacity_bytes}: a bank holds at least nothing")
        self.space, self.capacity_bytes = space, capacity_bytes
        self._held: OrderedDict[Slot, Tensors] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        """Slots that hold weights."""
        return len(self._held)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights held."""
        return self._bytes

    def build(
        self, architecture: Architecture, *, seed: int | None = None, parent: Architecture | None = None
    ) -> Network:
        """A module of its own that starts from the shared weights; training it changes nothing here before `update`.

        parent: the architecture that this one was varied from. Ops that both have, from the input on and from the
        output back, then start from the parent's slots, and a new op between them starts as the identity where it can
        (a square linear layer, a 3×3 or 1×1 convolution that keeps its channels, an encoding): the child computes what
        the parent did. seed: of what is new.
        """
        network = build(architecture, seed)
        own = slots(network)
        inherited = _aligned(parent, architecture, own) if parent is not None else {}
        with torch.no_grad():
            for index, slot in own.items():
                source = self._held.get(inherited.get(index, slot))
                if parent is not None and index not in inherited and _made_identity(network, index):
                    continue
                if source is not None:
                    _copy(network.ops[index], source)
                elif (donor := self._donor(slot)) is not None:
                    _copy(network.ops[index], self._held[donor])
        return network

    def update(self, architecture: Architecture, module: nn.Module) -> None:
        """Writes a module's weights and buffers back; architectures that share its slots start from them.

        Raises ValueError where the module was not built for the architecture.
        """
        if not isinstance(module, Network) or module.architecture != architecture:
            raise ValueError("update(architecture, module): the module was not built for this architecture")
        for index, slot in slots(module).items():
            tensors = {name: t.detach().clone() for name, t in module.ops[index].state_dict().items()}
            self._bytes -= _size(self._held.pop(slot, {}))
            self._held[slot] = tensors
            self._bytes += _size(tensors)
        while self._bytes > self.capacity_bytes and self._held:
            self._bytes -= _size(self._held.popitem(last=False)[1])
        give_back()

    def state_dict(self) -> dict[str, Tensor]:
        """Everything held, in the order of use: {slot's name:tensor's name: tensor}."""
        return {f"{slot.name}:{name}": t for slot, tensors in self._held.items() for name, t in tensors.items()}

    def load_state_dict(self, tensors: Mapping[str, Tensor], order: list[str] | None = None) -> None:
        """Replaces everything by a `state_dict`. order: names of slots from the one used longest ago, where the mapping
        does not keep it.
        """
        held: dict[str, Tensors] = {name: {} for name in order or ()}
        for key, tensor in tensors.items():
            slot, _, name = key.rpartition(":")
            held.setdefault(slot, {})[name] = tensor.clone()
        self._held = OrderedDict((Slot.named(name), kept) for name, kept in held.items())
        self._bytes = sum(map(_size, self._held.values()))

    def order(self) -> list[str]:
        """Names of the slots, from the one used longest ago."""
        return [slot.name for slot in self._held]

    def _donor(self, wanted: Slot) -> Slot | None:
        """The slot of the kind with the largest common part; among equals the nearest place, then the last updated."""
        best, found = (0.0, 0, 0), None
        for age, slot in enumerate(self._held):
            if slot.kind == wanted.kind:
                score = (_overlap(slot, wanted), -abs(slot.place - wanted.place), age)
                if score[0] > 0 and score > best:
                    best, found = score, slot
        return found


def slots(network: Network) -> dict[int, Slot]:
    """The slot of each op with weights, by the op's number."""
    windows = {
        middle: network.architecture.ops[first].arguments[0] for first, middle, _ in network.architecture.convolutions
    }
    counts: dict[tuple[str, Shapes], int] = {}
    found = {}
    for index, (node, module) in enumerate(zip(network.architecture.ops, network.ops, strict=True)):
        if not node.params:
            continue
        shapes = tuple(tuple(p.shape) for p in module.parameters())
        kind = f"{node.op}_k{windows[index]}" if index in windows else node.op
        place = counts.get((kind, shapes), 0)
        counts[kind, shapes] = place + 1
        found[index] = Slot(kind, shapes, place)
    return found


def _size(tensors: Tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _overlap(one: Slot, other: Slot) -> float:
    """Elements in the common corners over those of both together; 0 where axes beyond channels differ."""
    if len(one.shapes) != len(other.shapes):
        return 0.0
    common = total = 0
    for a, b in zip(one.shapes, other.shapes, strict=True):
        if len(a) != len(b) or (one.kind not in _SLICED_ANYWHERE and a[2:] != b[2:]):
            return 0.0
        shared = elements(tuple(map(min, a, b)))
        common, total = common + shared, total + elements(a) + elements(b) - shared
    return common / total if total else 0.0


def _copy(module: nn.Module, source: Tensors) -> None:
    """The common corner of each tensor; counters only where all agrees."""
    for name, tensor in module.state_dict(keep_vars=True).items():
        old = source.get(name)
        if old is None or old.dim() != tensor.dim():
            continue
        corner = tuple(slice(0, min(a, b)) for a, b in zip(tensor.shape, old.shape, strict=True))
        tensor.data[corner] = old[corner].to(tensor)


def _aligned(parent: Architecture, child: Architecture, own: Mapping[int, Slot]) -> dict[int, Slot]:
    """{op of the child: the parent's slot} for the ops that both begin and end with."""
    theirs = slots(build_skeleton(parent))
    return {c: theirs[p] for p, c in pairs(parent, child) if c in own and p in theirs}


def build_skeleton(architecture: Architecture) -> Network:
    """The module without weights, for the shapes of its tensors."""
    with torch.device("meta"):
        return build(architecture)


def _made_identity(network: Network, index: int) -> bool:
    """Whether an op could be made one that changes nothing, and was."""
    module, node = network.ops[index], network.architecture.ops[index]
    if node.op == "pos_enc":
        for parameter in module.parameters():
            parameter.zero_()
        return True
    if node.op != "linear":
        return False
    weight, bias = module.get_parameter("weight"), module.get_parameter("bias")
    kernel, keeps = _window(network.architecture, index)
    if not keeps or weight.shape[1] != weight.shape[0] * kernel * kernel:
        return False
    bias.zero_()
    weight.zero_()
    centre = (kernel * kernel) // 2
    for channel in range(len(weight)):
        weight[channel, channel * kernel * kernel + centre] = 1.0
    return True


def _window(architecture: Architecture, index: int) -> tuple[int, bool]:
    """(kernel, whether the size stays) of the convolution that a linear layer is; (1, True) of any other."""
    for first, middle, _ in architecture.convolutions:
        if middle == index:
            kernel, stride, padding = (int(n) for n in architecture.ops[first].arguments)
            return kernel, stride == 1 and 2 * padding == kernel - 1
    return 1, True
