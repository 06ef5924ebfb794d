"""Expected gain of candidates whose objectives are independent normal variables. All arrays are minimised."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["expected_gain", "expected_improvement"]

Array = NDArray[np.float64]


def expected_improvement(mean: Array, sd: Array, level: Array) -> Array:
    """E[max(level − Y, 0)] of normal Y (Jones, Schonlau, Welch 1998)."""
    from scipy.special import ndtr

    u = (level - mean) / sd
    found: Array = sd * (u * ndtr(u) + np.exp(-0.5 * u * u) / np.sqrt(2 * np.pi))
    return found


def expected_gain(mean: Array, sd: Array, front: Array, worst: Array, rng: np.random.Generator) -> Array:
    """(k, m) means and deviations, front (f, m), reference `worst` (m,) -> (k,).

    One objective: expected improvement. Two: expected hypervolume improvement in closed form (Emmerich, Deutz,
    Klinkenberg 2011). More: expected improvement of a random augmented Chebyshev scalarisation (Knowles, ParEGO, 2006).
    """
    m = mean.shape[1]
    if m == 1:
        best = front[:, 0].min() if len(front) else worst[0]
        return expected_improvement(mean[:, 0], sd[:, 0], np.asarray(best))
    if m > 2:
        return _scalarised(mean, sd, front, worst, rng)
    inside = front[(front < worst).all(1)]
    inside = inside[np.argsort(inside[:, 0], kind="stable")]
    # the strip left of a point's first objective is open up to the second objective of the point before it
    right = np.r_[inside[:, 0], worst[0]]
    ceiling = np.r_[worst[1], inside[:, 1]]
    first = expected_improvement(mean[:, :1], sd[:, :1], right[None])
    width = np.diff(first, axis=1, prepend=0.0)
    found: Array = (width * expected_improvement(mean[:, 1:], sd[:, 1:], ceiling[None])).sum(1)
    return found


def _scalarised(mean: Array, sd: Array, front: Array, worst: Array, rng: np.random.Generator) -> Array:
    weight = rng.dirichlet(np.ones(mean.shape[1]))
    low = front.min(0) if len(front) else mean.min(0)
    unit = weight / np.maximum(worst - low, 1e-12)

    def scalar(values: Array) -> Array:
        z = (values - low) * unit
        found: Array = z.max(1) + 0.05 * z.sum(1)
        return found

    best = scalar(front).min() if len(front) else scalar(worst[None])[0]
    return expected_improvement(scalar(mean), np.sqrt(((sd * unit) ** 2).sum(1)), np.asarray(best))
