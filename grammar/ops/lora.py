"""LoRA: y = W x + B (A x) with A (r, in) and B (out, r); Hu et al. 2021, arXiv 2106.09685."""

from __future__ import annotations

from archrank.grammar.signatures import AdapterOp


def params(out_features: int, in_features: int, rank: int) -> int:
    """R (in + out)."""
    return rank * (in_features + out_features)


def flops(out_features: int, in_features: int, rank: int) -> int:
    """2 r (in + out) per row: one multiply-add per weight of A and B."""
    return 2 * rank * (in_features + out_features)


def limit(out_features: int, in_features: int) -> int:
    """min(in, out): a product of higher rank would not be one of low rank."""
    return min(in_features, out_features)


OP = AdapterOp("lora", 1, params, flops, limit)
