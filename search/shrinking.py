"""`search shrink`: an existing LoRA folder to per-module ranks, exactly to its own product or as near as a rank allows.

Every module is brought to canonical form (supernet/canonical_form.py), so dropping the last components is the best
approximation; without `--data` nothing but the two files of the adapter is read. What was written is read again and
compared with the original products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from archrank.search.config import ConfigError
from archrank.search.errors import ExportError, NothingFeasible
from archrank.search.expression import parse_where

if TYPE_CHECKING:
    from torch import Tensor

    from archrank.supernet.peft_folder import PeftFolder

__all__ = ["ShrinkPlan", "Shrunk", "shrink"]

EXACT = 1e-5
"""What writing and reading again may move a product by, as a share of its largest singular value."""


@dataclass(frozen=True, kw_only=True)
class ShrinkPlan:
    """How ranks are chosen; several rules keep the least rank of all.

    spectral_energy: Σ σ² kept in each module, in (0, 1]; 1 keeps the product. max_rank: of any module. where:
    `adapter_params <= N`, shared over all modules. ranks: `auto`, the smallest whose validation loss on `data` stays
    within `within` of the whole adapter's. base: where the base is, if not where the adapter says.
    """

    spectral_energy: float | None = None
    max_rank: int | None = None
    where: tuple[str, ...] = ()
    ranks: str | None = None
    data: str | None = None
    base: str | None = None
    task: str | None = None
    within: float = 0.005
    eval_rows: int = 512

    def __post_init__(self) -> None:
        if self.spectral_energy is not None and not 0 < self.spectral_energy <= 1:
            raise ConfigError(f"--spectral-energy {self.spectral_energy}: must be above 0 and at most 1 (1: all of it)")
        if self.max_rank is not None and self.max_rank < 1:
            raise ConfigError(f"--max-rank {self.max_rank}: must be at least 1")
        if self.ranks not in (None, "auto"):
            raise ConfigError(f"--ranks {self.ranks}: must be auto; a number for all modules is --max-rank")
        if self.ranks and not self.data:
            raise ConfigError("--ranks auto chooses by loss and needs --data: a folder, a file, a hub or built-in name")
        if self.data and not self.ranks:
            raise ConfigError("--data is read by --ranks auto alone: add it, or leave the data out")
        if not (self.spectral_energy or self.max_rank or self.where or self.ranks):
            raise ConfigError(
                'no rule to choose ranks by: give --spectral-energy 0.95, --max-rank 8, --where "adapter_params <= N" '
                "or --ranks auto --data DATA"
            )
        self.budget()

    def budget(self) -> float | None:
        """The least upper bound on adapter_params that `where` sets."""
        bounds = []
        for text in self.where:
            for c in parse_where(text, ["adapter_params"]):
                if c.op not in ("<=", "<"):
                    raise ConfigError(f"--where {c}: shrink takes upper bounds alone: adapter_params <= N")
                bounds.append(c.value if c.op == "<=" else np.nextafter(c.value, 0))
        return min(bounds, default=None)


@dataclass(frozen=True)
class Shrunk:
    """What was written.

    ranks: {module: rank}, 0 for a module that was left out; spectra: {module: σ in descending order}; max_abs_diff:
    the largest singular value of ΔW − ΔW' over all modules, which bounds the change of every entry; losses: whole and
    shrunk on validation rows, where data were given.
    """

    path: Path
    ranks: Mapping[str, int]
    spectra: Mapping[str, Sequence[float]] = field(repr=False)
    adapter_params: int
    before: int
    max_abs_diff: float
    losses: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """The document of `search shrink --json`."""
        told = {"path": str(self.path), "ranks": dict(self.ranks), "adapter_params": self.adapter_params}
        told |= {"adapter_params_before": self.before, "max_abs_diff": self.max_abs_diff}
        return {**told, "energy": self.energy} | ({"losses": dict(self.losses)} if self.losses else {})

    @property
    def energy(self) -> float:
        """Σ σ² kept over all modules."""
        kept = sum(float(np.square(s[: self.ranks[n]]).sum()) for n, s in self.spectra.items())
        whole = sum(float(np.square(s).sum()) for s in self.spectra.values())
        return kept / whole if whole else 1.0

    def describe(self) -> str:
        """The same for people."""
        live = [r for r in self.ranks.values() if r]
        gone = len(self.ranks) - len(live)
        counts = {r: live.count(r) for r in sorted(set(live))}
        told = " ".join(f"r{r}×{n}" for r, n in counts.items()) + (f", {gone} modules left out" if gone else "")
        text = (
            f"{self.path}: {self.adapter_params:,} adapter parameters, {self.before:,} before; {told}\n"
            f"{self.energy:.4%} of the spectral energy; no entry of any product moved by more than "
            f"{self.max_abs_diff:.1e}\nspectrum {self.path / 'spectrum.svg'}"
        )
        if self.losses:
            text += f"\nvalidation loss {self.losses['shrunk']:.4g}, whole {self.losses['whole']:.4g}"
        return text


def shrink(
    adapter: str | Path,
    *,
    out: str | Path,
    spectral_energy: float | None = None,
    max_rank: int | None = None,
    where: str | Sequence[str] = (),
    ranks: str | None = None,
    data: str | None = None,
    base: str | None = None,
    task: str | None = None,
    within: float = 0.005,
) -> Shrunk:
    """`search shrink` from Python: the command's flags as keywords. ValueErrors name the flag and what is allowed."""
    texts = (where,) if isinstance(where, str) else tuple(where)
    plan = ShrinkPlan(
        spectral_energy=spectral_energy,
        max_rank=max_rank,
        where=texts,
        ranks=ranks,
        data=data,
        base=base,
        task=task,
        within=within,
    )
    return run_shrink(Path(adapter), plan, Path(out))


def run_shrink(adapter: Path, plan: ShrinkPlan, out: Path) -> Shrunk:
    """Reads, chooses, writes, reads again; ExportError (and no folder) where the copy is not what was meant."""
    from archrank.search.export import arriving
    from archrank.search.spectrum_plot import spectrum_svg
    from archrank.supernet.canonical_form import canonical
    from archrank.supernet.peft_folder import read_peft, write_shrunk

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: exists and is not an empty folder; nothing was written")
    source = read_peft(adapter)
    forms = {name: canonical(A.double(), B.double()) for name, (A, B) in source.factors.items()}
    spectra = {n: (A.norm(dim=1) * B.norm(dim=0)).numpy() for n, (A, B) in forms.items()}
    losses: dict[str, float] = {}
    if plan.ranks:
        from archrank.search.shrinking_by_loss import ranks_by_loss

        forms, spectra, chosen, losses = ranks_by_loss(source, plan)
    else:
        chosen = _ranks(source, plan, spectra)
    kept = {n: (A[: chosen[n]], B[:, : chosen[n]]) for n, (A, B) in forms.items() if chosen[n]}
    with arriving(out) as fresh:
        write_shrunk(source, {n: (A.float(), B.float()) for n, (A, B) in kept.items()}, fresh)
        _check(kept, read_peft(fresh).factors)
        (fresh / "spectrum.svg").write_text(spectrum_svg(spectra, chosen), encoding="utf-8")
    return Shrunk(
        out,
        chosen,
        {n: s.tolist() for n, s in spectra.items()},
        sum(A.numel() + B.numel() for A, B in kept.values()),
        source.adapter_params,
        max(_distance(source.factors[n], kept.get(n)) for n in source.factors),
        losses,
    )


def _ranks(source: PeftFolder, plan: ShrinkPlan, spectra: Mapping[str, np.ndarray]) -> dict[str, int]:
    import torch

    from archrank.supernet.canonical_form import numerical_rank
    from archrank.supernet.shrinking import by_budget, by_energy

    most = {n: numerical_rank(torch.from_numpy(s)) for n, s in spectra.items()}
    if plan.spectral_energy is not None and plan.spectral_energy < 1:
        most = {n: min(most[n], by_energy(s, plan.spectral_energy)) for n, s in spectra.items()}
    if plan.max_rank is not None:
        most = {n: min(r, plan.max_rank) for n, r in most.items()}
    if not any(most.values()):
        raise NothingFeasible(f"{source.path}: every product is zero (B was never trained): there is nothing to keep")
    budget = plan.budget()
    if budget is None:
        return most
    prices = prices_of(source)
    least = min(prices[n] for n, r in most.items() if r)
    if budget < least:
        raise NothingFeasible(
            f"--where adapter_params <= {budget:g}: the smallest that can be kept, one component of one module, "
            f"has {least:,}; ask for at least that"
        )
    return by_budget({n: s[: most[n]] for n, s in spectra.items()}, prices, budget)


def prices_of(source: PeftFolder) -> dict[str, int]:
    """{module: in + out}: parameters of one component."""
    return {name: A.shape[1] + B.shape[0] for name, (A, B) in source.factors.items()}


def _distance(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor] | None) -> float:
    """The largest singular value of the difference of two products, never formed: that of [B −B'] [A; A']."""
    import torch

    from archrank.supernet.canonical_form import singular_values

    A, B = (t.double() for t in before)
    if after is not None:
        # what was written is fp32
        A, B = torch.cat([A, after[0].float().double()]), torch.cat([B, -after[1].float().double()], dim=1)
    return float(singular_values(A, B).max()) if len(A) else 0.0


def _check(meant: Mapping[str, tuple[Tensor, Tensor]], found: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Raises ExportError where the folder, read again as a stranger reads it, holds other products."""
    for name, (A, B) in meant.items():
        largest = float((A.norm(dim=1) * B.norm(dim=0)).max())
        moved = _distance((A, B), found.get(name))
        if name not in found or moved > EXACT * largest:
            raise ExportError(f"{name}: read again, its product differs by {moved:.1e}; nothing was kept")
