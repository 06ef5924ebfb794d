"""The roofline of one op: the bound it cannot beat, and that bound with efficiencies and a launch overhead.

    bound_ms     = max(flops / peak, (weight bytes + max(0, activation bytes − L2)) / bandwidth)
    predicted_ms = max(bound_ms, max(flops / (e_c · peak), bytes / (e_b · bandwidth)) + launches · overhead)

Activations may wait in the L2 cache between two ops, so that the bound charges only what cannot fit there;
weights come from memory. A 3 × 3 convolution (or larger) of stride 1 may need a quarter of the
multiplications (Winograd F(4×4, 3×3), Lavin and Gray 2016, arXiv 1509.09308), so its bound has flops / 4.
Both terms grow with every size: more work never takes less time. Tiles and waves are left to the learned
residual of a later version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from archrank.grammar.workload import FORMS, WorkloadError, completed, dtype_bytes, least
from archrank.predictors.profile import Profile

Array = NDArray[np.float64]
WINOGRAD = 4.0
"""Fewest multiplications of a direct convolution's that F(4×4, 3×3) does: 1 / 4."""


def sizes(op: str, given: Mapping[str, ArrayLike | None]) -> dict[str, Array]:
    """The sizes that were given, checked and with the op's defaults, as float arrays that broadcast.

    `WorkloadError` (a ValueError) for an unknown op, a missing or foreign size, one that is no number of at
    least 1, or shapes that do not broadcast.
    """
    named = {name: size for name, size in given.items() if size is not None}
    full = {name: _size(op, name, size) for name, size in completed(op, named).items()}
    try:
        np.broadcast_shapes(*(size.shape for size in full.values()))
    except ValueError as error:
        shapes = ", ".join(f"{name} {size.shape}" for name, size in full.items())
        raise WorkloadError(f"{op}: sizes do not broadcast: {shapes}") from error
    return full


def _size(op: str, name: str, size: ArrayLike) -> Array:
    try:
        array = np.asarray(size, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise WorkloadError(f"{op}: {name} = {size!r}, but it is a number or an array of numbers") from error
    wrong = array[~(np.isfinite(array) & (array >= least(name)))]
    if wrong.size:
        raise WorkloadError(f"{op}: {name} = {wrong.flat[0]:g}, but it is a finite number of at least {least(name)}")
    return array


def bound_ms(profile: Profile, op: str, dims: Mapping[str, Any], dtype: str) -> Array:
    """The time in ms that no kernel can beat (formula above). `dims`: from `sizes`."""
    form, size = FORMS[op], dtype_bytes(dtype)
    flops = np.asarray(form.flops(dims), dtype=np.float64)
    if op == "conv2d":
        flops = np.where(_winograd(dims), flops / WINOGRAD, flops)
    activations = size * (form.reads(dims) + form.writes(dims))
    moved = size * form.weights(dims) + np.maximum(0.0, activations - profile.spec["l2_bytes"])
    slowest = np.maximum(
        flops / profile.peak(dtype),
        moved / profile.spec["memory_bandwidth_bytes_per_s"],
    )
    return np.asarray(1e3 * slowest, dtype=np.float64)


def op_ms(profile: Profile, op: str, dims: Mapping[str, Any], dtype: str) -> Array:
    """The predicted time in ms (formula above); never below `bound_ms`. `dims`: from `sizes`."""
    form = FORMS[op]
    flops = np.asarray(form.flops(dims), dtype=np.float64)
    moved = dtype_bytes(dtype) * (form.weights(dims) + form.reads(dims) + form.writes(dims))
    bandwidth = profile.spec["memory_bandwidth_bytes_per_s"] * profile.bandwidth_efficiency[form.kind]
    reached = profile.peak(dtype) * _compute_efficiency(profile, op, dims, dtype)
    overhead = profile.launch["matmul_us" if flops.any() else "other_us"]
    ms = 1e3 * np.maximum(flops / reached, moved / bandwidth) + 1e-3 * form.launches * overhead
    return np.asarray(np.maximum(ms, bound_ms(profile, op, dims, dtype)), dtype=np.float64)


def _winograd(dims: Mapping[str, Any]) -> Any:
    return (dims["kernel"] >= 3) & (dims["stride"] == 1)


def _compute_efficiency(profile: Profile, op: str, dims: Mapping[str, Any], dtype: str) -> Any:
    """The share of the peak that the op's kernels reach."""
    width = "fp32" if dtype == "fp32" else "low"
    plain = profile.compute_efficiency[f"matmul_{width}"]
    if op == "attention":
        return profile.compute_efficiency["attention"]
    if op == "conv2d":
        three = (dims["kernel"] == 3) & (dims["stride"] == 1) & (dims["groups"] == 1)
        return np.where(three, profile.compute_efficiency[f"conv3x3_{width}"], plain)
    return plain
