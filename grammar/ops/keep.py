"""A layer of a pretrained encoder (BERT- and ViT-like), cut down: some of its heads, some of its FFN channels.

Four linear layers of attention and two of the FFN, with biases, and two layer normalisations. Arguments: the base's
heads, head width and FFN width at this layer (they come from the base), then the shares of heads and of FFN channels
that are kept, in percent, rounded up. Adapters hang on q, k, v, o, up and down, in this order, unmerged.
"""

from __future__ import annotations

from archrank.grammar.signatures import Linear, Op, Shape, Value
from archrank.grammar.workload import OpCost


def kept(count: int, percent: int) -> int:
    """⌈count · percent / 100⌉."""
    return -(-count * percent // 100)


def infer(value: Value, heads: int, head: int, ffn: int, share: int, ffn_share: int) -> Value | None:
    """The input's shape; None where it is no sequence or nothing is kept."""
    return value if len(value.shape) == 2 and 0 < share <= 100 and 0 < ffn_share <= 100 else None


def linears(shape: Shape, heads: int, head: int, ffn: int, share: int, ffn_share: int) -> tuple[Linear, ...]:
    """The six linear layers as they are cut."""
    e, inner, wide = shape[1], kept(heads, share) * head, kept(ffn, ffn_share)
    qkv = (Linear(name, inner, e) for name in ("q", "k", "v"))
    return (*qkv, Linear("o", e, inner), Linear("up", wide, e), Linear("down", e, wide))


def params(shape: Shape, heads: int, head: int, ffn: int, share: int, ffn_share: int) -> int:
    """(in + 1) · out of each linear layer, and 4e of the normalisations."""
    of = linears(shape, heads, head, ffn, share, ffn_share)
    return sum((linear.inputs + 1) * linear.outputs for linear in of) + 4 * shape[1]


def flops(shape: Shape, heads: int, head: int, ffn: int, share: int, ffn_share: int) -> int:
    """2 T in · out of each linear layer, and 4 T² of each kept head's width."""
    of, length = linears(shape, heads, head, ffn, share, ffn_share), shape[0]
    return sum(2 * length * linear.inputs * linear.outputs for linear in of) + 4 * length * length * of[0].outputs


def costs(shape: Shape, batch: int, heads: int, head: int, ffn: int, share: int, ffn_share: int) -> tuple[OpCost, ...]:
    """Without adapters, in the order in which they run."""
    length, e = shape
    rows, many = batch * length, kept(heads, share)
    q, k, v, o, up, down = (
        OpCost.of("linear", {"m": rows, "n": linear.outputs, "k": linear.inputs})
        for linear in linears(shape, heads, head, ffn, share, ffn_share)
    )
    mix = OpCost.of("attention", {"b": batch, "heads": many, "q": length, "kv": length, "d": head})
    act = OpCost.of("gelu", {"m": rows, "n": kept(ffn, ffn_share)})
    around = (OpCost.of("add", {"m": rows, "n": e}, count=2), OpCost.of("layer_norm", {"m": rows, "n": e}, count=2))
    return (q, k, v, mix, o, up, act, down, *around)


OP = Op(name="keep", arguments=5, infer=infer, params=params, flops=flops, costs=costs, linears=linears)
