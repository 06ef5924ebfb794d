"""The budget that a tracing policy keeps while it trains."""

from __future__ import annotations

__all__ = ["DENSE", "LEAST", "falling_budget"]

DENSE = 0.5
"""Share of the training in which nothing is cut."""
LEAST = 1 / 64
"""Where the budget ends, of the whole store's parameters."""


def falling_budget(step: int, steps: int, full: float, least: float) -> float:
    """Full up to DENSE · steps, then falling evenly in its logarithm to `least` at the last step."""
    start = DENSE * steps
    if steps <= 0 or step < start:
        return full
    share = min(1.0, (step + 1 - start) / max(1.0, steps - start))
    return float(max(least, full * (least / full) ** share))
