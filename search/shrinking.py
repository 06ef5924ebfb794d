"""`search shrink`: an existing LoRA folder to per-module ranks, exactly to its own product or as near as a rank allows.

Every module is brought to canonical form (supernet/canonical_form.py), so dropping the last components is the best
approximation; without `--data` nothing but the two files of the adapter is read. What was written is read again and
compared with the original products.
"""

from __future__ import annotations

import math
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
        if self.within < 0:
            raise ConfigError(f"--within {self.within}: must be at least 0 (0.005 or 0.5%)")
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
                bounds.append(c.value if c.op == "<=" else math.ceil(c.value) - 1)
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
            shrunk, whole = self.losses["shrunk"], self.losses["whole"]
            text += f"\nvalidation loss {shrunk:.4g}, whole {whole:.4g} ({shrunk / whole - 1:+.2%})"
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
    most, losses, moved = _most(source, plan, spectra), dict[str, float](), _moved
    if plan.ranks:
        from archrank.search.shrinking_by_loss import ranks_by_loss

        forms, spectra, chosen, losses = ranks_by_loss(source, plan, most)
        moved = _distance  # these components are orthogonal where the inputs are, and not by themselves
    else:
        chosen = shared(source, plan, spectra, most)
    kept = {n: (A[: chosen[n]].float(), B[:, : chosen[n]].float()) for n, (A, B) in forms.items() if chosen[n]}
    with arriving(out) as fresh:
        write_shrunk(source, kept, fresh)
        _check(kept, read_peft(fresh).factors)
        (fresh / "spectrum.svg").write_text(spectrum_svg(spectra, chosen), encoding="utf-8")
    return Shrunk(
        out,
        chosen,
        {n: s.tolist() for n, s in spectra.items()},
        sum(A.numel() + B.numel() for A, B in kept.values()),
        source.adapter_params,
        max(moved(forms[n], kept.get(n)) for n in source.factors),
        losses,
    )


def _most(source: PeftFolder, plan: ShrinkPlan, spectra: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The least rank of each module by the rules that look at one module; NothingFeasible where nothing is left."""
    import torch

    from archrank.supernet.canonical_form import numerical_rank
    from archrank.supernet.shrinking import by_energy

    most = {n: numerical_rank(torch.from_numpy(s)) for n, s in spectra.items()}
    if plan.spectral_energy is not None and plan.spectral_energy < 1:
        most = {n: min(most[n], by_energy(s, plan.spectral_energy)) for n, s in spectra.items()}
    if plan.max_rank is not None:
        most = {n: min(r, plan.max_rank) for n, r in most.items()}
    # what B adds by itself is held beside a factor alone: such a module keeps one, though its product be zero
    most = {n: r or int(source.bias(n) is not None) for n, r in most.items()}
    if not any(most.values()):
        raise NothingFeasible(f"{source.path}: every product is zero (B was never trained): there is nothing to keep")
    return most


def shared(
    source: PeftFolder, plan: ShrinkPlan, spectra: Mapping[str, np.ndarray], most: Mapping[str, int]
) -> dict[str, int]:
    """At most `most` each, and together within the plan's budget; NothingFeasible where nothing fits into it."""
    from archrank.supernet.shrinking import by_budget

    budget, prices = plan.budget(), prices_of(source)
    if budget is None:
        return dict(most)
    biased = [n for n in most if source.bias(n) is not None]
    least = sum(prices[n] for n in biased) or min(prices[n] for n, r in most.items() if r)
    if budget < least:
        what = (
            f"one component of each of {len(biased)} modules with a bias of B"
            if biased
            else "one component of one module"
        )
        raise NothingFeasible(
            f"--where adapter_params <= {budget:g}: the smallest that can be kept, {what}, has {least:,}; ask for at "
            "least that"
        )
    head = dict.fromkeys(biased, 1)
    rest = {n: s[head.get(n, 0) : most[n]] for n, s in spectra.items()}
    left = by_budget(rest, prices, budget - sum(prices[n] for n in biased))
    return {n: head.get(n, 0) + r for n, r in left.items()}


def prices_of(source: PeftFolder) -> dict[str, int]:
    """{module: in + out}: parameters of one component."""
    return {name: A.shape[1] + B.shape[0] for name, (A, B) in source.factors.items()}


Factors = tuple["Tensor", "Tensor"]


def _moved(form: Factors, kept: Factors | None) -> float:
    """Bounds the largest singular value of the difference of a product in canonical form and what was written of it.

    ΔW − ΔW' = Σ_{j>r} σ_j u_j v_jᵀ + (B − B') A + B' (A − A'), where the rows of A and the columns of B are orthogonal:
    σ_{r+1} for what was cut, and for the rounding to fp32 the Frobenius norms √Σ_j ‖b_j − b'_j‖² ‖a_j‖² and
    √Σ_j ‖b'_j‖² ‖a_j − a'_j‖².
    """
    A, B = form
    r = 0 if kept is None else len(kept[0])
    cut = float(A[r].norm() * B[:, r].norm()) if r < len(A) else 0.0
    if kept is None:
        return cut
    a, b = (t.double() for t in kept)
    of_b = ((B[:, :r] - b).norm(dim=0) * A[:r].norm(dim=1)).norm()
    return cut + float(of_b + (b.norm(dim=0) * (A[:r] - a).norm(dim=1)).norm())


def _distance(form: Factors, kept: Factors | None) -> float:
    """The same of factors that are not orthogonal, exactly: that of [B −B'] [A; A']."""
    import torch

    from archrank.supernet.canonical_form import singular_values

    A, B = form
    if kept is not None:
        A, B = torch.cat([A, kept[0].double()]), torch.cat([B, -kept[1].double()], dim=1)
    return float(singular_values(A, B).max()) if len(A) else 0.0


def _check(meant: Mapping[str, Factors], found: Mapping[str, Factors]) -> None:
    """Raises ExportError where the folder, read again as a stranger reads it, holds other factors."""
    for name, pair in meant.items():
        if name not in found or not all(a.equal(b) for a, b in zip(pair, found[name], strict=True)):
            raise ExportError(f"{name}: read again, its factors are others; nothing was kept")
