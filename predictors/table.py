"""Rows of a measured op table (the columns of microsoft/vidur's compute profiles) as a `Workload`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from archrank.grammar.workload import FORMS, OpCost, Workload, WorkloadError

_GEMM = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
_NORM = ("input_layernorm", "post_attention_layernorm")
KNOWN = (*_GEMM, *_NORM, "mlp_act", "attn_rope", "emb", "add")
"""The op names of such a table."""


def workload(rows: Iterable[Mapping[str, str | int]]) -> Workload:
    """The ops of `rows`, each with keys `op`, `M`, `N` and (used for GEMMs and `mlp_act`) `K`; other keys are
    not read.

    GEMMs are `linear` (M, N, K); both layer norms `rms_norm`; `mlp_act` is `silu_mul` where K = 2 (a gated
    MLP), else `gelu`; `attn_rope` is `rope`, `emb` `embedding`, `add` `add`, each over M × N. The weights are
    those of the GEMMs and the norms; an embedding's table stays out, since a layer's rows repeat it.
    `WorkloadError` names the row and column that is wrong.
    """
    ops = tuple(_op(number, row) for number, row in enumerate(rows, start=1))
    weights = sum(op.count * _weights(op) for op in ops)
    return Workload(
        ops,
        weight_elements=weights,
        activation_elements=max((op.activation_elements for op in ops), default=0),
    )


def op_of(name: str, k: int) -> str:
    """The op that a name of `KNOWN` stands for; `k`: column K, 2 for a gated activation."""
    if name in _GEMM:
        return "linear"
    if name == "mlp_act":
        return "silu_mul" if k == 2 else "gelu"
    return {"attn_rope": "rope", "emb": "embedding", "add": "add"}.get(name, "rms_norm")


def _weights(op: OpCost) -> int:
    return 0 if op.op == "embedding" else int(FORMS[op.op].weights(dict(op.dims)))


def _op(number: int, row: Mapping[str, str | int]) -> OpCost:
    name = str(row.get("op", ""))
    if name not in KNOWN:
        raise WorkloadError(f"row {number}: op {name!r} is not one of {', '.join(KNOWN)}")
    m, n = _size(number, row, "M"), _size(number, row, "N")
    if name in _GEMM:
        return OpCost.of("linear", {"m": m, "n": n, "k": _size(number, row, "K")})
    return OpCost.of(op_of(name, _size(number, row, "K") if name == "mlp_act" else 0), {"m": m, "n": n})


def _size(number: int, row: Mapping[str, str | int], column: str) -> int:
    given = row.get(column)
    try:
        size = int(float(given)) if given is not None else 0
    except ValueError:
        size = 0
    if size < 1:
        raise WorkloadError(f"row {number} ({row['op']}): {column} = {given!r}, but it is a whole number of at least 1")
    return size
