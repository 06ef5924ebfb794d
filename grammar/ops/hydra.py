"""Hydra: y = W x + B_p A_p x + B_s A_s W x, r components in turn parallel and sequential; Kim et al. 2023, arXiv
2309.06922.
"""

from __future__ import annotations

from archrank.grammar.signatures import AdapterOp


def params(out_features: int, in_features: int, rank: int) -> int:
    """⌈r/2⌉ in + ⌊r/2⌋ out + r out."""
    return (rank - rank // 2) * in_features + (rank // 2 + rank) * out_features


def flops(out_features: int, in_features: int, rank: int) -> int:
    """Two per weight and row: one multiply-add each, on W's own output where sequential."""
    return 2 * params(out_features, in_features, rank)


def limit(out_features: int, in_features: int) -> int:
    """min(in, out)."""
    return min(in_features, out_features)


OP = AdapterOp("hydra", 1, params, flops, limit)
