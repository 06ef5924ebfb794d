"""Candidates that a rank search begins with: what people use today, and what the trained adapter itself suggests.

- uniform ranks;
- where the store is in canonical form (policies whose prefixes are not trained): for the budget of each uniform rank,
  the allowed ranks by spectral energy for their price. From nothing upwards, the step of one module from rank r to the
  next allowed one s with the largest Σ_{r < j <= s} σ_j² / ((s − r) (in + out)) that still fits is taken until none
  does: what resizing by singular values gives, kept to the space.

A search so never ends below either, on the rows that it looks at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from archrank.grammar import Derivation
from archrank.search import candidates
from archrank.search.job import Job
from archrank.search.pricing import uniform_params

__all__ = ["by_energy", "starting_points"]

Spectrum = NDArray[np.float64]


def starting_points(job: Job) -> list[Derivation]:
    """Those that the space holds, each once, small ones first."""
    found: list[Derivation] = []
    spectra = {} if job.policy.nested else _spectra(job)
    prices = {name: sum(shape) for name, shape in job.net.shapes.items()}
    for rank in sorted(job.space.ranks):
        uniform = candidates.uniform(job.space, job.net.shapes, rank)
        if uniform is not None:
            found.append(uniform)
        if spectra:
            budget = uniform_params(job.family, job.net.shapes, rank)
            allocated = by_energy(spectra, prices, job.allowed_ranks, budget)
            try:
                found.append(job.space.from_ranks(allocated))
            except ValueError:
                continue  # a space that leaves no module alone, or a tightened one
    kept = {d.key: d for d in found if job.space.meets(d)}
    return list(kept.values())


def by_energy(
    spectra: Mapping[str, Spectrum], prices: Mapping[str, int], ranks: Sequence[int], budget: float
) -> dict[str, int]:
    """{module: rank} of at most `budget` parameters, where the least ranks fit.

    spectra: singular values of each module's product, falling; prices: parameters of a component; ranks: the allowed
    ones.
    """
    allowed = {n: [r for r in sorted(ranks) if r <= len(s)] or [0] for n, s in spectra.items()}
    place = dict.fromkeys(spectra, 0)
    left = budget - sum(allowed[n][0] * prices[n] for n in spectra)
    energy = {n: np.concatenate([[0.0], np.cumsum(np.square(s))]) for n, s in spectra.items()}
    while True:
        best, gain, cost = "", 0.0, 0.0
        for name, at in place.items():
            if at + 1 >= len(allowed[name]):
                continue
            low, high = allowed[name][at], allowed[name][at + 1]
            price = float((high - low) * prices[name])
            worth = float(energy[name][high] - energy[name][low]) / price
            if price <= left and worth > gain:
                best, gain, cost = name, worth, price
        if not best:
            return {name: allowed[name][at] for name, at in place.items()}
        place[best] += 1
        left -= cost


def _spectra(job: Job) -> dict[str, Spectrum]:
    """Singular values of each product: the norms of a canonical form's components."""
    found: dict[str, Spectrum] = {}
    for name, adapter in job.net.items():
        A, B = adapter.lora_factors()
        found[name] = (A.norm(dim=1) * B.norm(dim=0)).double().cpu().numpy()
    return found
