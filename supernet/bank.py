"""A bank of weights that architectures of one space share: the supernet of a space without a common graph.

Each op with weights has a slot: what it is (op, and for a linear layer over windows their kernel), the shapes of its
tensors, and its place among the ops of an architecture that agree in both. An architecture starts from the slots of
its ops; where a slot is empty, or was left by an op at another place of as long a row of its kind, from a slot of the
kind at the op's own place in such a row; else from the slot that overlaps most. Of another shape the common corner is
copied (output and input channels are ordered, so that a narrower layer is a slice of a wider one; smaller kernels are
the middle of larger ones); where there is none either, it starts from torch's initialisation.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
_KEEPS_ZERO = ("col2im", "permute", "im2col", "leaky_relu")
_CAN_BE_ZERO = ("linear", "norm")


@dataclass(frozen=True, slots=True)
class Slot:
    """Where an op's weights lie: its kind, its tensors' shapes, its place among equal ops of an architecture.

    row: (its place, how many there are) among all ops of its name in that architecture, whatever their shapes; it says
    where weights come from, and is no part of the key.
    """

    kind: str
    shapes: Shapes
    place: int
    row: tuple[int, int] = field(default=(0, 1), compare=False)

    @property
    def name(self) -> str:
        """A name for a file."""
        shapes = ",".join("x".join(map(str, shape)) for shape in self.shapes)
        return f"{self.kind}/{shapes}/{self.place}/{self.row[0]}of{self.row[1]}"

    @staticmethod
    def named(name: str) -> Slot:
        """The slot of a name."""
        kind, shapes, place, row = name.rsplit("/", 3)
        sizes = (tuple(int(n) for n in shape.split("x") if n) for shape in shapes.split(","))
        at, _, many = row.partition("of")
        return Slot(kind, tuple(sizes), int(place), (int(at), int(many)))


class Bank:
    """Weights by slot. `capacity_bytes` bounds what it holds, and an op that is larger by itself is not held; TypeError
    for what is no space, ValueError where a space has no architectures.
    """

    def __init__(self, space: Space, capacity_bytes: int = CAPACITY_BYTES) -> None:
        if not isinstance(space, Space):
            raise TypeError(f"Bank({space!r}): needs a space, as grammar.load or spaces.load gives it")
        if not space.is_architecture_space:
            raise ValueError(f"{space.name} has no architectures to share weights among; it needs //@ input")
        if not capacity_bytes >= 0:
            raise ValueError(f"capacity_bytes = {capacity_bytes}: a bank holds at least nothing")
        self.space, self.capacity_bytes = space, capacity_bytes
        self._held: OrderedDict[Slot, Tensors] = OrderedDict()
        self._rows: dict[Slot, tuple[int, int]] = {}
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
        output back, then start from the parent's slots, and the child computes what the parent did where the change
        allows it: a new op between them starts as the identity where it can (a square linear layer, a 3×3 or 1×1
        convolution that keeps its channels, an encoding), a new branch beside an old one at zero, and where ops became
        wider what they hand on in addition meets zeros (Chen et al., Net2Net, ICLR 2016). seed: of what is new.
        """
        if not isinstance(architecture, Architecture):
            raise TypeError(
                f"build({type(architecture).__name__}): needs an Architecture; space.elaborate(derivation) makes one"
            )
        network = build(architecture, seed)
        own = slots(network)
        inherited = _aligned(parent, architecture, own) if parent is not None else {}
        with torch.no_grad():
            silent = _silent(architecture, parent) if parent is not None else set[int]()
            for index, slot in own.items():
                if index in silent:
                    for parameter in network.ops[index].parameters():
                        parameter.zero_()
                    continue
                if parent is not None and index not in inherited and _made_identity(network, index):
                    continue
                wanted = inherited.get(index)
                source = wanted if wanted in self._held else self._source(slot)
                if source is not None:
                    _copy(network.ops[index], self._held[source], slot.kind in _SLICED_ANYWHERE)
                    if source == wanted:
                        _ignore_more(network.ops[index], self._held[source])
        return network

    def update(self, architecture: Architecture, module: nn.Module) -> None:
        """Writes a module's weights and buffers back; architectures that share its slots start from them.

        Raises ValueError where the module was not built for the architecture.
        """
        if not isinstance(module, Network) or module.architecture != architecture:
            raise ValueError("update(architecture, module): the module was not built for this architecture")
        for index, slot in slots(module).items():
            state = module.ops[index].state_dict()
            self._drop(slot)
            if _size(state) <= self.capacity_bytes:
                self._keep(slot, {name: t.detach().clone() for name, t in state.items()})
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
        self._held, self._rows, self._bytes = OrderedDict(), {}, 0
        for name, kept in held.items():
            self._keep(Slot.named(name), kept)

    def order(self) -> list[str]:
        """Names of the slots, from the one used longest ago."""
        return [slot.name for slot in self._held]

    def _keep(self, slot: Slot, tensors: Tensors) -> None:
        """Holds a slot's tensors, the ones used longest ago leaving for them."""
        self._held[slot], self._rows[slot] = tensors, slot.row
        self._bytes += _size(tensors)
        while self._bytes > self.capacity_bytes:
            self._drop(next(iter(self._held)))

    def _drop(self, slot: Slot) -> None:
        self._bytes -= _size(self._held.pop(slot, {}))
        self._rows.pop(slot, None)

    def _source(self, wanted: Slot) -> Slot | None:
        """Where an op starts from: its own slot, unless as long a row of its kind has it at another place and something
        else at this one; then that, then the largest common part, the nearest place, the last updated.
        """
        place, many = wanted.row
        at, of = self._rows.get(wanted, (place, many))
        own = wanted in self._held
        if own and (at == place or of != many):
            return wanted
        best, found = (False, 0.0, 0, 0), wanted if own else None
        for age, slot in enumerate(self._held):
            if slot.kind == wanted.kind and (slot.row == wanted.row or not own):
                common = _overlap(slot, wanted)
                score = (slot.row == wanted.row, common, -abs(slot.place - wanted.place), age)
                if common > 0 and score > best:
                    best, found = score, slot
        return found


def slots(network: Network) -> dict[int, Slot]:
    """The slot of each op with weights, by the op's number."""
    windows = {
        middle: network.architecture.ops[first].arguments[0] for first, middle, _ in network.architecture.convolutions
    }
    counts, row = Counter[tuple[str, Shapes]](), Counter[str]()
    many = Counter(node.op for node in network.architecture.ops if node.params)
    found = {}
    for index, (node, module) in enumerate(zip(network.architecture.ops, network.ops, strict=True)):
        if not node.params:
            continue
        shapes = tuple(tuple(p.shape) for p in module.parameters())
        kind = f"{node.op}_k{windows[index]}" if index in windows else node.op
        found[index] = Slot(kind, shapes, counts[kind, shapes], (row[node.op], many[node.op]))
        counts[kind, shapes] += 1
        row[node.op] += 1
    return found


def _size(tensors: Tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _overlap(one: Slot, other: Slot) -> float:
    """Elements in the common corners over those of both together; 0 where one has no tensor like the other's."""
    if len(one.shapes) != len(other.shapes):
        return 0.0
    common = total = 0
    for a, b in zip(one.shapes, other.shapes, strict=True):
        if len(a) != len(b) or (one.kind not in _SLICED_ANYWHERE and a[2:] != b[2:] and not _middle(a[2:], b[2:])):
            return 0.0
        shared = elements(tuple(map(min, a, b)))
        common, total = common + shared, total + elements(a) + elements(b) - shared
    return common / total if total else 0.0


def _middle(kernel: Sequence[int], other: Sequence[int]) -> bool:
    """Whether the smaller kernel lies in the middle of the larger one."""
    return all((a - b) % 2 == 0 for a, b in zip(kernel, other, strict=True))


def _copy(module: nn.Module, source: Tensors, anywhere: bool) -> None:
    """The common corner of each tensor, of kernels (unless `anywhere`) the middle. `module.stacked`, where it has one:
    {tensor's name: of how many equal parts its first axis is made}; each part has a corner of its own.
    """
    parts = getattr(module, "stacked", {})
    for name, tensor in module.state_dict(keep_vars=True).items():
        old, many = source.get(name), parts.get(name, 1)
        if old is None or old.dim() != tensor.dim():
            continue
        if not tensor.dim():
            tensor.data.copy_(old)
            continue
        for new, kept in zip(tensor.data.tensor_split(many), old.tensor_split(many), strict=True):
            sizes = [min(a, b) for a, b in zip(new.shape, kept.shape, strict=True)]
            mine, theirs = (
                tuple(
                    slice(start := 0 if anywhere or axis < 2 else (n - size) // 2, start + size)
                    for axis, (n, size) in enumerate(zip(part.shape, sizes, strict=True))
                )
                for part in (new, kept)
            )
            new[mine] = kept[theirs].to(tensor)


def _ignore_more(module: nn.Module, source: Tensors) -> None:
    """What comes in beyond the inputs that the source had changes nothing of what the source's outputs were."""
    for name, tensor in module.state_dict(keep_vars=True).items():
        old = source.get(name)
        if old is not None and tensor.dim() > 1 and tensor.dim() == old.dim():
            tensor.data[: old.shape[0], old.shape[1] :] = 0


def _aligned(parent: Architecture, child: Architecture, own: Mapping[int, Slot]) -> dict[int, Slot]:
    """{op of the child: the parent's slot} for the ops that both begin and end with, and for those between where both
    have the same ones there, of other widths.
    """
    theirs, same = slots(build_skeleton(parent)), pairs(parent, child)
    between = [
        [i for i in range(len(a.ops)) if i not in kept]
        for a, kept in zip((parent, child), map(set, zip(*same, strict=True)) if same else (set(), set()), strict=True)
    ]
    names = [[a.ops[i].op for i in part] for a, part in zip((parent, child), between, strict=True)]
    if names[0] == names[1]:
        same = [*same, *zip(*between, strict=True)]
    return {c: theirs[p] for p, c in same if c in own and p in theirs and own[c].kind == theirs[p].kind}


def _silent(child: Architecture, parent: Architecture) -> set[int]:
    """Ops that a new branch ends with, where its sum with something old is new: zeros there leave what is old."""
    new, found = set(range(len(child.ops))) - {c for _, c in pairs(parent, child)}, set[int]()
    for index in new:
        inputs = child.ops[index].inputs
        fresh = [i for i in inputs if i in new]
        if child.ops[index].op != "add" or not 0 < len(fresh) < len(inputs):
            continue
        for place in fresh:
            at = place
            while at in new and child.ops[at].op in _KEEPS_ZERO:
                at = child.ops[at].inputs[0]
            if at in new and child.ops[at].op in _CAN_BE_ZERO:
                found.add(at)
    return found


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
