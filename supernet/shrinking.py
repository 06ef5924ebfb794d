"""Which components of existing low-rank adapters to keep: by spectral energy, by a rank, by a budget over all modules.

Works on canonical factors, so that what is kept is a prefix. A budget is shared by the size of a component for its
price, σ² / (in + out): the greedy answer to max Σ σ² with Σ (in + out) bounded, in which each module stays a prefix
because its σ descend and its price is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["by_budget", "by_energy", "kept_parameters"]

Spectrum = NDArray[np.float64]


def by_energy(spectrum: Spectrum, share: float) -> int:
    """The least r with Σ_{j≤r} σ_j² >= share · Σ σ_j²; 0 for a product that is zero."""
    energy = np.cumsum(spectrum**2)
    if not len(energy) or energy[-1] <= 0:
        return 0
    return int(np.searchsorted(energy, share * energy[-1] * (1 - 1e-12)) + 1)


def by_budget(spectra: Mapping[str, Spectrum], prices: Mapping[str, int], budget: float) -> dict[str, int]:
    """{module: rank} of at most `budget` parameters, largest σ² / price first; what does not fit is passed over."""
    entries = [(-(s**2) / prices[name], name) for name, spectrum in spectra.items() for s in spectrum if s > 0]
    ranks, left, closed = dict.fromkeys(spectra, 0), budget, set[str]()
    for _, name in sorted(entries, key=lambda e: e[0]):
        if name in closed:
            continue
        if prices[name] <= left:
            ranks[name] += 1
            left -= prices[name]
        else:
            closed.add(name)
    return ranks


def kept_parameters(ranks: Mapping[str, int], prices: Mapping[str, int]) -> int:
    """Σ r (in + out)."""
    return sum(rank * prices[name] for name, rank in ranks.items())


def ladder(spectra: Mapping[str, Spectrum], prices: Mapping[str, int], steps: int) -> Sequence[dict[str, int]]:
    """Configurations from the whole adapter down, budgets falling evenly in their logarithm; equal ones once."""
    top = sum(len(s[s > 0]) * prices[name] for name, s in spectra.items())
    low = min((prices[name] for name, s in spectra.items() if (s > 0).any()), default=1)
    found: list[dict[str, int]] = []
    for budget in np.geomspace(max(top, 1), low, steps):
        ranks = by_budget(spectra, prices, float(budget) + 0.5)
        if ranks not in found:
            found.append(ranks)
    return found
