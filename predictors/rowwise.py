"""Row-wise ops (norms, activations, additions, gathers): three constants an op.

    base_ms = max(bytes / (bandwidth · e), c · n) + o

c · n is the time that one row takes alone, since a row is worked on by one block. The base is what the learned residual
corrects. Letters: m rows, n width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from archrank.grammar.workload import FORMS
from archrank.predictors.tiles import Array, Chip, descend

OPS = ("rms_norm", "silu_mul", "gelu", "rope", "embedding", "add")
"""The ops of the serving stack's table."""
STANDS_FOR = {
    "layer_norm": "rms_norm",
    "softmax": "gelu",
    "silu": "gelu",
    "relu": "gelu",
    "tanh": "gelu",
    "copy": "add",
    "elementwise": "add",
    "mul": "add",
}
"""An op without rows is priced as the one of like traffic, at its own bytes; a softmax in fp32 reaches 0.7 of the
bandwidth on an A100, as gelu does here.
"""
UNSEEN = ("add", "rope", "silu_mul", "rms_norm", "embedding", "gelu")
"""Whose constants an op takes that no table has: the first of these that has rows."""
LETTERS = ("m", "n")


def moved(op: str, sizes: Array, size: float) -> Array:
    """Bytes of an op over `sizes` (rows, 2): m, n."""
    form, dims = FORMS[op], {"m": sizes[:, 0], "n": sizes[:, 1]}
    return np.asarray(size * (form.weights(dims) + form.reads(dims) + form.writes(dims)), dtype=np.float64)


def base(constants: Sequence[float], op: str, sizes: Array, chip: Chip) -> tuple[Array, Array]:
    """(ms, the share of it that is no overhead); rises with both sizes."""
    share, overhead, per_element = constants
    body = 1e3 * moved(op, sizes, float(chip["size"])) / (chip["bandwidth"] * share)
    body = np.maximum(body, 1e-6 * per_element * sizes[:, 1])
    ms = np.asarray(body + 1e-3 * overhead)
    return ms, np.asarray(body / ms)


def features(constants: Sequence[float], op: str, sizes: Array, chip: Chip) -> Array:
    """(rows, 10): log m, n, bytes, bytes over the L2 cache's, base; and which op, as constants of the row."""
    traffic, (ms, _) = moved(op, sizes, float(chip["size"])), base(constants, op, sizes, chip)
    ones = np.ones(len(sizes))
    which = [ones * (STANDS_FOR.get(op, op) == name) for name in OPS[:-1]]
    logs = [np.log(sizes[:, 0]), np.log(sizes[:, 1]), np.log(traffic), np.log(traffic / chip["l2"]), np.log(ms)]
    return np.stack([*logs, *which], axis=1)


def fit(op: str, sizes: Array, ms: Array, chip: Chip) -> tuple[float, ...]:
    """(e, o in µs, c in ns) of one op on one device, for the least mean |log(predicted / measured)|."""
    start = np.log([0.6, max(0.5, 1e3 * float(np.percentile(ms, 2))), 0.1])

    def loss(x: Array) -> float:
        return float(np.abs(np.log(base(np.exp(x).tolist(), op, sizes, chip)[0] / ms)).mean())

    return tuple(float(f"{x:.6g}") for x in np.exp(descend(loss, start)))
