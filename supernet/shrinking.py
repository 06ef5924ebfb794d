"""Which components of existing low-rank adapters to keep: by spectral energy, by a rank, by a budget over all modules.

Works on canonical factors, so that what is kept is a prefix. A budget is shared by the size of a component for its
price, σ² / (in + out): the greedy answer to max Σ σ² with Σ (in + out) bounded, in which each module stays a prefix
because its σ descend and its price is one.
"""

from __future__ import annotations

import heapq
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


def by_budget(
    spectra: Mapping[str, Spectrum], prices: Mapping[str, int], budget: float, ranks: Sequence[int] | None = None
) -> dict[str, int]:
    """{module: rank} of at most `budget` parameters, σ² / price largest first; a module whose next step does not fit
    stays where it is.

    ranks: the allowed ones (default: all), of which a module holds the least to begin with; its step from r to the next
    allowed s is worth Σ_{r < j <= s} σ_j² / ((s − r) price). A step worth nothing is not taken.
    """
    allowed = {n: [r for r in sorted(ranks or range(len(s) + 1)) if r <= len(s)] or [0] for n, s in spectra.items()}
    found = {name: of[0] for name, of in allowed.items()}
    left = budget - sum(rank * prices[name] for name, rank in found.items())
    steps: list[tuple[float, int, str, int]] = []

    def offer(order: int, name: str, place: int) -> None:
        if place < len(allowed[name]):
            low, high = allowed[name][place - 1 : place + 1]
            worth = float(np.square(spectra[name][low:high]).sum()) / ((high - low) * prices[name])
            if worth > 0:
                heapq.heappush(steps, (-worth, order, name, place))

    for order, name in enumerate(spectra):
        offer(order, name, 1)
    while steps:
        _, order, name, place = heapq.heappop(steps)
        low, high = allowed[name][place - 1 : place + 1]
        if (high - low) * prices[name] <= left:
            left -= (high - low) * prices[name]
            found[name] = high
            offer(order, name, place + 1)
    return found


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
