"""LoRA-XS: y = W x + B C A x, a full r × r core C on frozen orthonormal bases; Bałazy et al. 2024, arXiv 2405.17604."""

from __future__ import annotations

from archrank.grammar.signatures import AdapterOp


def params(out_features: int, in_features: int, rank: int) -> int:
    """r²: the bases are frozen."""
    return rank * rank


def flops(out_features: int, in_features: int, rank: int) -> int:
    """2 r (in + out + r) per row."""
    return 2 * rank * (in_features + out_features + rank)


def limit(out_features: int, in_features: int) -> int:
    """min(in, out)."""
    return min(in_features, out_features)


OP = AdapterOp("lora_xs", 1, params, flops, limit)
