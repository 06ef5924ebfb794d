"""A Gaussian process with a weight for each group of features: mean and standard deviation of one objective.

Kernel: k(x, x') = m(r) + a ⟨x, x'⟩ + σ² [x = x'], r² = Σ_g w_g ‖x_g − x'_g‖², ⟨x, x'⟩ = Σ_g w_g x_gᵀx'_g of centred
features, m the Matérn function of order 5/2 (Rasmussen and Williams 2006, §4.2). The weights w (automatic relevance,
§5.1), a and σ² maximise the marginal likelihood under a log-normal prior; the kernel's scale is in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.linalg.blas import dsyrk
from scipy.optimize import minimize

__all__ = ["Process", "Setting", "tuned"]

Array = NDArray[np.float64]
LINEAR, NOISE = 1.0, 1e-3  # where the search for them begins
LEAST_NOISE, MOST_NOISE = 1e-5, 1.0
SPREAD = 1.5  # of log w under its prior
STEPS = 40


@dataclass(frozen=True)
class Setting:
    """Hyperparameters: w (groups,), a, σ²."""

    weights: Array
    linear: float
    noise: float


class Process:
    """Fitted to features x (n, f) and values y (n,); `groups` (f,) numbers each feature's weight."""

    def __init__(self, x: Array, y: Array, groups: NDArray[np.int64], setting: Setting) -> None:
        self.setting = setting
        self._root = np.sqrt(setting.weights)[groups]
        self._middle = x.mean(0)
        self._x = (x - self._middle) * self._root
        self._norms = (self._x**2).sum(1)
        self._shift, spread = float(y.mean()), float(y.std())
        z = (y - self._shift) / (spread or 1.0)
        k = self._kernel(self._x, self._norms)
        k[np.diag_indices_from(k)] += setting.noise
        self._factor = cho_factor(k, lower=True, overwrite_a=True, check_finite=False)
        alpha = cho_solve(self._factor, z, check_finite=False)
        self._weights = alpha * (spread or 1.0)
        self._scale = (spread or 1.0) * np.sqrt(max(float(z @ alpha) / len(z), 1e-12))

    def _kernel(self, x: Array, norms: Array) -> Array:
        gram = x @ self._x.T
        r2 = norms[:, None] + self._norms[None] - 2 * gram
        return _matern(np.maximum(r2, 0.0, out=r2)) + self.setting.linear * gram

    def cross(self, x: Array) -> Array:
        """(k, f) -> (k, n): kernel values with what it was fitted to."""
        z = (x - self._middle) * self._root
        return self._kernel(z, (z**2).sum(1))

    def mean(self, cross: Array) -> Array:
        """(k, n) -> (k,)."""
        found: Array = cross @ self._weights + self._shift
        return found

    def half(self, cross: Array) -> Array:
        """(k, n) -> (n, k): L⁻¹ of the kernel values, K = L Lᵀ."""
        found: Array = solve_triangular(self._factor[0], cross.T, lower=True, check_finite=False)
        return found

    def prior(self, x: Array) -> Array:
        """(k, f) -> (k,): the kernel of each with itself."""
        z = (x - self._middle) * self._root
        found: Array = 1.0 + self.setting.linear * (z**2).sum(1)
        return found

    def between(self, x: Array, other: Array) -> Array:
        """(k, f), (f,) -> (k,): kernel values with one point."""
        z, o = (x - self._middle) * self._root, (other - self._middle) * self._root
        gram = z @ o
        r2 = np.maximum((z**2).sum(1) + float(o @ o) - 2 * gram, 0.0)
        found: Array = _matern(r2) + self.setting.linear * gram
        return found

    def leave_one_out(self, y: Array) -> Array:
        """(n,): the mean at each row of the data, predicted from the others."""
        inverse = cho_solve(self._factor, np.eye(len(y)), check_finite=False)
        found: Array = y - self._weights / np.diag(inverse)
        return found

    @property
    def scale(self) -> float:
        """Standard deviation, in the values' unit, of a kernel value of 1."""
        return float(self._scale)


def _matern(r2: Array) -> Array:
    root = np.sqrt(5.0 * r2)
    found: Array = (1 + root + root * root / 3) * np.exp(-root)
    return found


def tuned(x: Array, y: Array, groups: NDArray[np.int64], start: Setting | None = None) -> Setting:
    """The setting of largest posterior density for x (n, f), y (n,)."""
    count, n = int(groups.max()) + 1, len(x)
    z = (y - y.mean()) / (y.std() or 1.0)
    centred = x - x.mean(0)
    grams = np.stack([_gram(centred[:, groups == g]) for g in range(count)])
    norms = np.einsum("gii->gi", grams)
    distances = norms[:, :, None] + norms[:, None, :] - 2 * grams
    total = float(distances.sum(0).mean()) or 1.0
    middle = np.log(1.5 / total)
    theta0 = np.r_[np.full(count, middle), np.log(LINEAR), np.log(NOISE)]
    flat_d, flat_g = distances.reshape(count, -1), grams.reshape(count, -1)

    def loss(theta: Array) -> tuple[float, Array]:
        w, a, noise = np.exp(theta[:count]), np.exp(theta[-2]), np.exp(theta[-1])
        root = np.sqrt(5.0 * np.maximum(w @ flat_d, 0.0))
        decay = np.exp(-root)
        gram = w @ flat_g
        k = ((1 + root + root * root / 3) * decay + a * gram).reshape(n, n)
        k[np.diag_indices(n)] += noise
        try:
            factor = cho_factor(k, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return 1e10, np.zeros_like(theta)
        inverse = cho_solve(factor, np.eye(n), check_finite=False)
        alpha = inverse @ z
        fit = max(float(z @ alpha), 1e-300)
        # profile likelihood: n/2 log zᵀK⁻¹z + ½ log|K|
        value = 0.5 * n * np.log(fit) + np.log(np.diag(factor[0])).sum()
        t = (0.5 * (inverse - (n / fit) * np.outer(alpha, alpha))).ravel()
        by_r2 = -(5.0 / 6.0) * (1 + root) * decay
        grad = np.empty_like(theta)
        grad[:count] = (flat_d @ (t * by_r2) + a * (flat_g @ t)) * w
        grad[-2] = a * float(t @ gram)
        grad[-1] = noise * float(t.reshape(n, n).trace())
        off = theta - theta0
        wide = np.r_[np.full(count, SPREAD), 2.0, 2.0]
        return float(value + 0.5 * ((off / wide) ** 2).sum()), grad + off / wide**2

    begin = theta0 if start is None else np.r_[np.log(start.weights), np.log(start.linear), np.log(start.noise)]
    bounds = [(middle - 8, middle + 6)] * count + [(-7.0, 6.0), (np.log(LEAST_NOISE), np.log(MOST_NOISE))]
    clipped = np.clip(begin, [b[0] for b in bounds], [b[1] for b in bounds])
    best = minimize(loss, clipped, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS}).x
    return Setting(np.exp(best[:count]), float(np.exp(best[-2])), float(np.exp(best[-1])))


def _gram(x: Array) -> Array:
    lower = dsyrk(1.0, x, lower=1)
    found: Array = lower + np.tril(lower, -1).T
    return found
