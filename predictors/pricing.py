"""What one op costs: the learned form where its kind was measured, else the roofline; each with its interval's factor.

Stacks. fp16 and lower are priced as a serving stack runs them (fused kernels: vLLM's are what was measured), bf16, fp32
and tf32 as eager PyTorch under autocast does. They differ in attention: eager PyTorch writes the scores and goes over
them in four row-wise kernels (scale, mask, softmax, cast), so that

    attention_ms = 2 products + 4 row-wise kernels over b · heads · q × kv        (eager, on a GPU)
    attention_ms = roofline of the fused op                                       (serving, or a CPU)

No attention row was measured for either: the interval spans both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from archrank.predictors import roofline
from archrank.predictors.learned import Learned
from archrank.predictors.profile import Profile
from archrank.predictors.tiles import Array

EAGER = ("fp32", "tf32", "bf16")
SCORE_PASSES = ("copy", "copy", "softmax", "copy")
"""Row-wise kernels over attention scores, by their traffic: scale, mask (itself small), softmax, cast."""
UNMEASURED = 2.0
"""The least interval factor of an op of which no row was measured on any device."""


def op_ms(profile: Profile, learned: Learned | None, op: str, dims: Mapping[str, Any], dtype: str) -> Array:
    """Predicted ms, of the broadcast shape of `dims`; never below the bound. `dims`: from `roofline.sizes`."""
    if op == "attention" and dtype in EAGER and profile.kind == "gpu":
        ms = _eager_attention(profile, learned, dims, dtype)
    elif learned is not None and learned.prices(profile, op, dtype):
        ms = learned.op_ms(profile, op, dims, dtype)
    else:
        return roofline.op_ms(profile, op, dims, dtype)
    return np.maximum(ms, roofline.bound_ms(profile, op, dims, dtype))


def factor(profile: Profile, learned: Learned | None, op: str, dtype: str) -> float:
    """The interval's factor of an op: 9 of 10 measured times are within ms / f and ms · f."""
    if learned is not None and learned.prices(profile, op, dtype):
        return learned.interval(profile, op, dtype)
    stated = profile.interval["fp32" if dtype == "fp32" else "low"]
    return stated if op in ("linear", "bmm") else max(stated, UNMEASURED)


def measured(profile: Profile, learned: Learned | None, op: str, dtype: str) -> bool:
    """Whether rows of this kind of op stand behind its price."""
    return learned is not None and learned.prices(profile, op, dtype)


def _eager_attention(profile: Profile, learned: Learned | None, dims: Mapping[str, Any], dtype: str) -> Array:
    batch = dims["b"] * dims["heads"]
    products = (
        {"b": batch, "m": dims["q"], "n": dims["kv"], "k": dims["d"]},
        {"b": batch, "m": dims["q"], "n": dims["d"], "k": dims["kv"]},
    )
    scores = {"m": batch * dims["q"], "n": dims["kv"]}
    total = sum(op_ms(profile, learned, "bmm", each, dtype) for each in products)
    for op in SCORE_PASSES:
        total = total + op_ms(profile, learned, op, scores, dtype)
    return np.asarray(total, dtype=np.float64)
