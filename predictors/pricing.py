"""What one op costs: the learned form where its kind was measured, else the roofline; each with its interval's factor.

Stacks. Rows exist in fp16, of a serving stack (vLLM's kernels): fp16, fp8 and int8 are priced as it runs them. bf16 on
a GPU with learned constants is priced as eager PyTorch under autocast runs it, which keeps activations and weights in
fp32 and has no fused attention:

    linear_ms    = product + a cast of its input + a cast of its weights       (a cast reads 4 bytes, writes 2)
    row-wise_ms  = the same op over twice the bytes
    attention_ms = 2 products + a softmax over b · heads · q × kv scores

each with `EAGER_US` a launch. No row of that stack was measured: the interval is wider, and one measured network mends
most (`Device.calibrated`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from archrank.grammar.workload import FORMS
from archrank.predictors import roofline
from archrank.predictors.learned import ROWWISE, Learned
from archrank.predictors.profile import Profile
from archrank.predictors.tiles import Array

AUTOCAST = "bf16"
CAST = 1.5
"""A cast's bytes over those of a copy in two bytes an element: (4 + 2) / (2 + 2)."""
EAGER_US = 10.0
"""What eager PyTorch adds to a launch: a guess between the serving stack's floors (2 to 6 µs on an A100) and those of
eager fp32 ops on the same chip (26 to 31 µs).
"""
LAUNCHES = {"attention": 3}
UNMEASURED = 2.0
"""The least interval factor of an op of which no row was measured on any device."""


def op_ms(profile: Profile, learned: Learned | None, op: str, dims: Mapping[str, Any], dtype: str) -> Array:
    """Predicted ms, of the broadcast shape of `dims`; never below the bound. `dims`: from `roofline.sizes`."""
    if learned is not None and dtype == AUTOCAST and learned.prices(profile, "linear", dtype):
        ms = _autocast(profile, learned, op, dims, dtype) + 1e-3 * EAGER_US * LAUNCHES.get(op, FORMS[op].launches)
    elif learned is not None and learned.prices(profile, op, dtype):
        ms = learned.op_ms(profile, op, dims, dtype)
    else:
        return roofline.op_ms(profile, op, dims, dtype)
    return np.asarray(np.maximum(ms, roofline.bound_ms(profile, op, dims, dtype)))


def factor(profile: Profile, learned: Learned | None, op: str, dtype: str) -> float:
    """The interval's factor of an op: 9 of 10 measured times are within ms / f and ms · f."""
    if learned is not None and learned.prices(profile, op, dtype):
        return learned.interval(profile, op, dtype)
    stated = profile.interval["fp32" if dtype == "fp32" else "low"]
    return stated if op in ("linear", "bmm") else max(stated, UNMEASURED)


def measured(profile: Profile, learned: Learned | None, op: str, dtype: str) -> bool:
    """Whether rows of this kind of op stand behind its price."""
    return learned is not None and learned.prices(profile, op, dtype)


def _autocast(profile: Profile, learned: Learned, op: str, dims: Mapping[str, Any], dtype: str) -> Array:
    def ms(name: str, **sizes: Any) -> Array:
        return learned.op_ms(profile, name, sizes, dtype)

    if op == "linear":
        casts = ms("copy", m=CAST * dims["m"], n=dims["k"]) + ms("copy", m=CAST * dims["n"], n=dims["k"])
        return np.asarray(learned.op_ms(profile, op, dims, dtype) + casts)
    if op == "attention":
        b, q, kv, d = dims["b"] * dims["heads"], dims["q"], dims["kv"], dims["d"]
        return np.asarray(
            ms("bmm", b=b, m=q, n=kv, k=d) + ms("bmm", b=b, m=q, n=d, k=kv) + ms("softmax", m=b * q, n=kv)
        )
    if op in ROWWISE and learned.prices(profile, op, dtype):
        return ms(op, m=2 * dims["m"], n=dims["n"])
    if learned.prices(profile, op, dtype):
        return learned.op_ms(profile, op, dims, dtype)
    return roofline.op_ms(profile, op, dims, dtype)
