"""Candidates that a rank search begins with: what people use today, and what the trained adapter itself suggests.

- uniform ranks;
- where the store is in canonical form (policies whose prefixes are not trained): for the budget of each uniform rank,
  the allowed ranks by spectral energy for their price (`supernet.shrinking.by_budget`): what resizing by singular
  values gives, kept to the space.

A search so never ends below either, on the rows that it looks at.
"""

from __future__ import annotations

from archrank.grammar import Derivation
from archrank.search import candidates
from archrank.search.job import Job
from archrank.search.pricing import uniform_params
from archrank.supernet.policies.base import sizes_of
from archrank.supernet.shrinking import by_budget

__all__ = ["starting_points"]


def starting_points(job: Job) -> list[Derivation]:
    """Those that the space holds, each once, small ones first."""
    found: list[Derivation] = []
    spectra = {}
    if not job.policy.nested:
        sizes = sizes_of(job.net, job.net.r_max).double().numpy()
        spectra = {name: sizes[i, : adapter.rank] for i, (name, adapter) in enumerate(job.net.items())}
    prices = {name: sum(shape) for name, shape in job.net.shapes.items()}
    for rank in sorted(job.space.ranks):
        uniform = candidates.uniform(job.space, job.net.shapes, rank)
        if uniform is not None:
            found.append(uniform)
        if spectra:
            budget = uniform_params(job.family, job.net.shapes, rank)
            allocated = by_budget(spectra, prices, budget, job.allowed_ranks)
            try:
                found.append(job.space.from_ranks(allocated))
            except ValueError:
                continue  # a space that leaves no module alone, or a tightened one
    kept = {d.key: d for d in found if job.space.meets(d)}
    return list(kept.values())
