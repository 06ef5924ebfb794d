"""A decoder layer of HW-GPT-Bench's supernet (Sukthanker et al. 2024, arXiv 2405.10299): gpt_block0, gpt_block1 (with
biases).

x + proj(attention(norm(x))), then x + down(silu(gate(norm(x))) ∘ up(norm(x))): heads of 64 with rotary positions and
a causal mask, a gated MLP of ratio · width. Arguments bias (0 or 1), heads H, ratio M; width e, length T.
"""

from __future__ import annotations

from archrank.grammar.signatures import Op, Shape, Value
from archrank.grammar.workload import OpCost

HEAD = 64


def infer(value: Value, bias: int, heads: int, ratio: int) -> Value | None:
    """The input's shape; None where it is no sequence."""
    return value if len(value.shape) == 2 and bias in (0, 1) else None


def params(shape: Shape, bias: int, heads: int, ratio: int) -> int:
    """4e + 256 H e + 3 M e² + b (192 H + 2 M e + 2 e)."""
    e = shape[1]
    return 4 * e + 4 * HEAD * heads * e + 3 * ratio * e * e + bias * (3 * HEAD * heads + 2 * ratio * e + 2 * e)


def flops(shape: Shape, bias: int, heads: int, ratio: int) -> int:
    """2 T (256 H e + 3 M e²) + 256 H T²: a causal mask counts in full, as torch counts it."""
    length, e = shape
    return 2 * length * (4 * HEAD * heads * e + 3 * ratio * e * e) + 4 * HEAD * heads * length * length


def costs(shape: Shape, batch: int, bias: int, heads: int, ratio: int) -> tuple[OpCost, ...]:
    """In the order in which they run."""
    length, e = shape
    rows, inner, wide = batch * length, HEAD * heads, ratio * e
    attention = {"b": batch, "heads": heads, "q": length, "kv": length, "d": HEAD}
    return (
        OpCost.of("layer_norm", {"m": rows, "n": e}, count=2),
        OpCost.of("linear", {"m": rows, "n": 3 * inner, "k": e}),
        OpCost.of("rope", {"m": rows, "n": inner}, count=2),
        OpCost.of("attention", attention),
        OpCost.of("linear", {"m": rows, "n": e, "k": inner}),
        OpCost.of("add", {"m": rows, "n": e}, count=2),
        OpCost.of("linear", {"m": rows, "n": wide, "k": e}, count=2),
        OpCost.of("silu_mul", {"m": rows, "n": wide}),
        OpCost.of("linear", {"m": rows, "n": e, "k": wide}),
    )


OP = Op(name="gpt_block", arguments=3, infer=infer, params=params, flops=flops, costs=costs)
