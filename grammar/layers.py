"""Spaces over the layers of a pretrained encoder: a file with `target_modules = "all-layers"` meets a base.

A sentence cuts and adapts each layer, or is an ensemble of such sub-networks that share the layers below a split. How
a file is written out for a base: layer_writing.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from archrank.grammar import ops
from archrank.grammar.architecture import Architecture, OpNode
from archrank.grammar.errors import shortened
from archrank.grammar.model import Grammar, Production
from archrank.grammar.ops import keep, lora
from archrank.grammar.ops.keep import kept
from archrank.grammar.signatures import AdapterOp, Linear
from archrank.grammar.workload import OpCost, Workload

ALL_LAYERS = "all-layers"
DEFAULT_LENGTH = 128
_ADAPTER = re.compile(r"(\w+)=lora\((\d+)\)")


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """One layer of a base: width of its input, heads, width of a head, width of its FFN."""

    hidden: int
    heads: int
    head: int
    ffn: int

    def adapter_params(self, choice: LayerChoice) -> int:
        """Σ r (in + out) over the adapters of a choice, as its linear layers are cut."""
        shapes = {linear.name: linear for linear in _cut_linears(self, choice)} if choice.kept else {}
        return sum(lora.params(shapes[role].outputs, shapes[role].inputs, rank) for role, rank in choice.ranks)


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """What a sentence does to a layer: `kept` False drops it; else heads and FFN channels that stay, and the adapter
    rank of each of q, k, v, o, up, down that has one.
    """

    kept: bool
    heads: int = 0
    ffn: int = 0
    ranks: tuple[tuple[str, int], ...] = ()


def _cut_linears(layer: EncoderLayer, choice: LayerChoice) -> tuple[Linear, ...]:
    return keep.linears((1, layer.hidden), choice.heads, layer.head, choice.ffn, 100, 100)


def layer_workload(
    layer: EncoderLayer, choice: LayerChoice, length: int, batch: int, *, adapters: bool = True
) -> Workload:
    """What a kept layer costs at `length` tokens, with its adapters beside the weights or (merged) without."""
    shape, sizes = (length, layer.hidden), (choice.heads, layer.head, choice.ffn, 100, 100)
    ops_run, weights = list(keep.costs(shape, batch, *sizes)), keep.params(shape, *sizes)
    linears = {linear.name: linear for linear in _cut_linears(layer, choice)}
    for role, rank in choice.ranks if adapters else ():
        n, k = linears[role].outputs, linears[role].inputs
        ops_run.append(OpCost.of("lora", {"m": batch * length, "n": n, "k": k, "r": rank}))
        weights += lora.params(n, k, rank)
    return Workload(tuple(ops_run), weights, max(op.activation_elements for op in ops_run))


@dataclass(frozen=True)
class EnsembleChoice:
    """What a sentence over layers makes of a base: its members as {layer: LayerChoice}, which agree in the first
    `split` layers. A sentence that is no ensemble has one member and shares all.
    """

    split: int
    members: tuple[dict[str, LayerChoice], ...]

    @property
    def coinciding(self) -> tuple[tuple[int, int], ...]:
        """Pairs of members that are the same sub-network."""
        return tuple((i, j) for i, j in combinations(range(len(self.members)), 2) if self.members[i] == self.members[j])


def ensemble_of(architecture: Architecture, layers: Mapping[str, EncoderLayer]) -> EnsembleChoice:
    """The members of an architecture over layers: its trunk's ops stand first, then a fork, then each member's own."""
    ops, many = architecture.ops, len(layers)
    split = next((i for i, op in enumerate(ops) if op.op == "fork"), many)
    if split == many:
        return EnsembleChoice(many, (choices_of(ops, layers),))
    count, own = int(ops[split].arguments[0]), many - split
    members = []
    for k in range(count):
        first = split + 1 + k * own
        members.append(choices_of((*ops[:split], *ops[first : first + own]), layers))
    return EnsembleChoice(split, tuple(members))


def choices_of(ops: Sequence[OpNode], layers: Mapping[str, EncoderLayer]) -> dict[str, LayerChoice]:
    """What ops over layers do to each: one op a layer, in order."""
    found = {}
    for (name, layer), op in zip(layers.items(), ops, strict=True):
        if op.op != "keep":
            found[name] = LayerChoice(False)
            continue
        share, ffn_share = (int(n) for n in op.arguments[3:5])
        pairs = (_ADAPTER.fullmatch(str(word)) for word in op.arguments[5:])
        ranks = tuple((pair[1], int(pair[2])) for pair in pairs if pair is not None)
        found[name] = LayerChoice(True, kept(layer.heads, share), kept(layer.ffn, ffn_share), ranks)
    return found


def is_layered(grammar: Grammar) -> bool:
    """Whether the file's sites are the layers of a base."""
    return grammar.site is not None and grammar.settings.target_modules == ALL_LAYERS


def check_layers(grammar: Grammar, layers: Mapping[str, EncoderLayer], length: int) -> None:
    """ValueError on a name that the file's terminal does not take, or sizes that are none."""
    if not layers:
        raise ValueError("bind_layers needs at least one layer: {name: EncoderLayer(hidden, heads, head, ffn)}")
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise ValueError(f"bind_layers(length={length!r}): the number of tokens is a whole number above 0")
    assert grammar.bound_regex is not None
    for name, layer in layers.items():
        if grammar.bound_regex.fullmatch(name) is None:
            raise ValueError(f"layer name {shortened(name)!r} does not match /{grammar.bound_regex.pattern}/")
        sizes = (layer.hidden, layer.heads, layer.head, layer.ffn)
        if not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n < 2**31 for n in sizes):
            raise ValueError(
                f"layer {shortened(name)!r}: hidden, heads, head, ffn are whole numbers above 0, not {sizes}"
            )
    if len({layer.hidden for layer in layers.values()}) > 1:
        raise ValueError("the layers of an encoder have one hidden width; these have several")


def rank_values(grammar: Grammar) -> tuple[int, ...]:
    """The ranks that the file's adapters may have, ascending: values of the terminals in alternatives with an adapter's
    alias.
    """
    return tuple(sorted({int(str(grammar.productions[i].items[0])) for i in _rank_productions(grammar)}))


def up_to_rank(grammar: Grammar, max_rank: int) -> Grammar:
    """The grammar without the ranks above `max_rank`; the others keep their proportions. ValueError where none is
    left.
    """
    ranks = set(_rank_productions(grammar))
    above = {i for i in ranks if int(str(grammar.productions[i].items[0])) > max_rank}
    if above and above == ranks:
        raise ValueError(f"max_rank={max_rank}: the smallest rank of {grammar.file} is {min(rank_values(grammar))}")
    scale: dict[int, float] = {}
    for head in {grammar.productions[i].head for i in above}:
        scale[head] = sum(grammar.productions[i].p for i in grammar.by_head[head] if i not in above)
    made: list[Production] = []
    by_head: list[list[int]] = [[] for _ in grammar.names]
    for index, production in enumerate(grammar.productions):
        if index not in above:
            p = production.p / scale.get(production.head, 1.0)
            by_head[production.head].append(len(made))
            made.append(replace(production, p=p, log_p=math.log(p)) if production.head in scale else production)
    return replace(grammar, productions=tuple(made), by_head=tuple(map(tuple, by_head)))


def _rank_productions(grammar: Grammar) -> list[int]:
    found = []
    for production in grammar.productions:
        op = ops.resolve(production.alias) if production.alias else None
        if op is None or not isinstance(op.op, AdapterOp):
            continue
        for child in production.children:
            values = grammar.by_head[child] if grammar.terminal[child] else ()
            found += [i for i in values if str(grammar.productions[i].items[0]).isdigit()]
    return found
