"""A Gaussian process with a weight for each group of features: mean and standard deviation of one objective.

Kernel: k(x, x') = m(r) + a ⟨x, x'⟩ + σ² [x = x'], r² = Σ_g w_g ‖x_g − x'_g‖², ⟨x, x'⟩ = Σ_g w_g x_gᵀx'_g of centred
features, m the Matérn function of order 5/2 (Rasmussen and Williams 2006, §4.2). The weights w (automatic relevance,
§5.1), a and σ² maximise the marginal likelihood under a log-normal prior; the kernel's scale is in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular
from scipy.linalg.blas import dsyrk
from scipy.optimize import minimize

__all__ = ["Process", "Setting", "tuned"]

Array = NDArray[np.float64]
AnyFloat = TypeVar("AnyFloat", NDArray[np.float64], NDArray[np.float32])
CHUNK = 64
LINEAR, NOISE = 1.0, 1e-3  # where the search for them begins
LEAST_NOISE, MOST_NOISE = 1e-5, 1.0
SPREAD = 1.5  # of log w under its prior
STEPS = 40


@dataclass(frozen=True)
class Setting:
    """Hyperparameters: w (groups,), a, σ², and the features' centre (f,)."""

    weights: Array
    linear: float
    noise: float
    middle: Array


class Process:
    """Fitted to features x (n, f) and values y (n,); `groups` (f,) numbers each feature's weight.

    The Cholesky factor is computed in chunks of 64 rows; those that `before`, an earlier process of the same setting,
    shares are taken from it, bit for bit what they would be anew.
    """

    def __init__(
        self, x: Array, y: Array, groups: NDArray[np.int64], setting: Setting, before: Process | None = None
    ) -> None:
        self.setting, n = setting, len(x)
        self._root = np.sqrt(setting.weights)[groups]
        self._x = (x - setting.middle) * self._root
        self._norms = (self._x**2).sum(1)
        self._factor = np.zeros((n, n))
        begin = 0 if before is None else _shared(before, self)
        if before is not None:
            self._factor[:begin, :begin] = before._factor[:begin, :begin]
        for low in range(begin, n, CHUNK):
            self._extend(low, min(low + CHUNK, n))
        self._shift, spread = float(y.mean()), float(y.std()) or 1.0
        z = (y - self._shift) / spread
        half = solve_triangular(self._factor, z, lower=True, check_finite=False)
        alpha = solve_triangular(self._factor, half, lower=True, trans=1, check_finite=False)
        self._weights = alpha * spread
        self._scale = spread * np.sqrt(max(float(half @ half) / n, 1e-12))
        self._single = (self._x.astype(np.float32), self._norms.astype(np.float32), self._weights.astype(np.float32))

    def _extend(self, low: int, high: int) -> None:
        here, factor = self._x[low:high], self._factor
        k = self._kernel(here, self._norms[low:high], high)
        if low:
            factor[low:high, :low] = solve_triangular(
                factor[:low, :low], k[:, :low].T, lower=True, check_finite=False
            ).T
        corner = k[:, low:] - factor[low:high, :low] @ factor[low:high, :low].T
        corner[np.diag_indices_from(corner)] += self.setting.noise
        factor[low:high, low:high] = cholesky(corner, lower=True, check_finite=False)

    def _kernel(self, x: Array, norms: Array, count: int | None = None) -> Array:
        gram = x @ self._x[:count].T
        r2 = norms[:, None] + self._norms[None, :count] - 2 * gram
        found: Array = _matern(np.maximum(r2, 0.0, out=r2)) + self.setting.linear * gram
        return found

    def cross(self, x: Array) -> Array:
        """(k, f) -> (k, n): kernel values with what it was fitted to."""
        z = (x - self.setting.middle) * self._root
        return self._kernel(z, (z**2).sum(1))

    def mean(self, cross: Array) -> Array:
        """(k, n) -> (k,)."""
        found: Array = cross @ self._weights + self._shift
        return found

    def rough_mean(self, x: Array) -> Array:
        """(k, f) -> (k,): the mean in single precision, a third of the time."""
        own, norms, weights = self._single
        z = ((x - self.setting.middle) * self._root).astype(np.float32)
        gram = z @ own.T
        r2 = (z**2).sum(1)[:, None] + norms[None]
        r2 -= 2 * gram
        k = _matern(np.maximum(r2, 0.0, out=r2))
        gram *= np.float32(self.setting.linear)
        k += gram
        found: Array = (k @ weights).astype(np.float64) + self._shift
        return found

    def half(self, cross: Array) -> Array:
        """(k, n) -> (n, k): L⁻¹ of the kernel values, K = L Lᵀ."""
        found: Array = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        return found

    def prior(self, x: Array) -> Array:
        """(k, f) -> (k,): the kernel of each with itself."""
        z = (x - self.setting.middle) * self._root
        found: Array = 1.0 + self.setting.linear * (z**2).sum(1)
        return found

    def between(self, x: Array, other: Array) -> Array:
        """(k, f), (f,) -> (k,): kernel values with one point."""
        z, o = (x - self.setting.middle) * self._root, (other - self.setting.middle) * self._root
        gram = z @ o
        r2 = np.maximum((z**2).sum(1) + float(o @ o) - 2 * gram, 0.0)
        found: Array = _matern(r2) + self.setting.linear * gram
        return found

    def leave_one_out(self, y: Array) -> Array:
        """(n,): the mean at each row of the data, predicted from the others (Rasmussen and Williams 2006, eq. 5.12)."""
        inverse = cho_solve((self._factor, True), np.eye(len(y)), check_finite=False)
        found: Array = y - self._weights / np.diag(inverse)
        return found

    @property
    def scale(self) -> float:
        """Standard deviation, in the values' unit, of a kernel value of 1."""
        return float(self._scale)


def _shared(before: Process, after: Process) -> int:
    """Rows, in whole chunks, that both have."""
    if before.setting is not after.setting:
        return 0
    n = min(len(before._x), len(after._x)) // CHUNK * CHUNK
    differ = np.flatnonzero((before._x[:n] != after._x[:n]).any(axis=1))
    return int(differ[0]) // CHUNK * CHUNK if len(differ) else n


def _matern(r2: AnyFloat) -> AnyFloat:
    """(1 + s + s²/3) exp(−s), s = √(5 r²); overwrites r2."""
    r2 *= 5
    root = np.sqrt(r2)
    r2 /= 3
    r2 += root
    r2 += 1
    np.negative(root, out=root)
    r2 *= np.exp(root, out=root)
    return r2


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
    return Setting(np.exp(best[:count]), float(np.exp(best[-2])), float(np.exp(best[-1])), x.mean(0))


def _gram(x: Array) -> Array:
    lower = dsyrk(1.0, x, lower=1)
    found: Array = lower + np.tril(lower, -1).T
    return found
