"""`search agreement`: does the supernet rank configurations as training each of them alone does?

A sample of configurations, a third spread over all budgets (wide), the rest inside strata of equal adapter parameters
(±5 %), where differences are small and the question is hard, is scored with inherited weights and trained from scratch,
population-batched, on several seeds. Printed are Kendall's τ_b of inherited against converged validation loss, wide and
within strata, beside: the ceiling, τ between the truth of one seed and another; the parameter count; and the best
single kind of module by its total rank, chosen on the truth. Intervals are the percentile bootstrap over
configurations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archrank.grammar import Derivation, EmptySpaceError
from archrank.search.base_phases import load_head
from archrank.search.config import ConfigError
from archrank.search.job import Job, prepare
from archrank.search.racing import Scorer
from archrank.search.results import open_run
from archrank.search.traced import densest
from archrank.supernet.adapters.lora import LoRA
from archrank.supernet.agreement import bootstrap, kendall, per_kind, within_strata
from archrank.supernet.checkpoint import Checkpoint, load_adapters, load_tensors
from archrank.supernet.net import Elastic
from archrank.supernet.population_training import Members
from archrank.supernet.training import TrainPlan

__all__ = ["Agreement", "agreement"]

STRATA = 2  # budgets at which configurations of equal size are compared
NEAR = 0.05
AT_ONCE = 16
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """One kind of sample: τ of each predictor with its interval, and the ceiling."""

    configs: int
    tau: float
    ceiling: float
    params: float
    per_kind: float
    kind: str
    intervals: Mapping[str, tuple[float, float]]

    def to_json(self) -> dict[str, object]:
        """Numbers, intervals beside them."""
        return {
            "tau": self.tau, "ceiling": self.ceiling, "params": self.params, "per_kind": self.per_kind,
            "kind": self.kind, "configs": self.configs, "ci": {k: list(v) for k, v in self.intervals.items()},
        }  # fmt: skip


@dataclass(frozen=True)
class Agreement:
    """`wide` over all budgets, `iso` within strata of equal parameters."""

    wide: Part
    iso: Part
    seeds: int
    train_steps: int

    def to_json(self) -> dict[str, object]:
        """The document of `search agreement --json`."""
        told: dict[str, object] = {"wide": self.wide.to_json(), "iso": self.iso.to_json()}
        return {**told, "seeds": self.seeds, "train_steps": self.train_steps}

    def describe(self) -> str:
        """A table."""
        lines = [f"Kendall τ against {self.seeds} seeds of {self.train_steps} steps each (95 % over configurations)"]
        lines.append(f"{'':24}{'wide':>24}{'equal parameters':>24}")
        rows = (
            ("inherited loss", "tau"),
            ("one seed and another", "ceiling"),
            ("parameter count", "params"),
            ("best kind of module", "per_kind"),
        )
        for label, name in rows:
            cells = []
            for part in (self.wide, self.iso):
                low, high = part.intervals[name]
                cells.append(f"{getattr(part, name):+.2f} [{low:+.2f}, {high:+.2f}]")
            lines.append(f"{label:24}" + "".join(f"{c:>24}" for c in cells))
        lines.append(f"{'':24}{self.wide.kind:>24}{self.iso.kind:>24}")
        lines.append(f"{self.wide.configs} and {self.iso.configs} configurations")
        return "\n".join(lines)


def agreement(
    path: str | Path,
    configs: int = 48,
    seeds: int = 2,
    train_steps: int | None = None,
    tick: Callable[[int, int], None] | None = None,
) -> Agreement:
    """Of a finished rank search. What is trained lies in RUN/agreement/ and is not trained again."""
    run = open_run(path)
    if run.kind != "adapters":
        raise ConfigError(f"{run.path}: is a search of {run.kind}; search agreement reads rank searches")
    if run.config.policy and not (run.path / "supernet.safetensors").exists():
        raise ConfigError(f"{run.path}: its supernet is not trained yet; `search resume {run.path}` first")
    if train_steps is not None and train_steps < 1:
        raise ConfigError(f"--train-steps {train_steps}: must be at least 1")
    if configs < 6 or seeds < 2:
        raise ConfigError(f"--configs {configs} --seeds {seeds}: at least 6 configurations and 2 seeds (for a ceiling)")
    job = prepare(replace(run.config, space=str(run.path / "space.lark"), out=None))
    if job.family != "lora":
        raise ConfigError(
            f"{run.path}: searched {job.family}; search agreement trains many LoRAs in one pass, and no other family"
        )
    if job.base.new_head:
        load_head(run.path, job.base)
    job = replace(job, net=inherited(job, run.path))
    steps = train_steps or job.train_steps
    wide, iso, strata = _sample(job, configs)
    ranks = [job.ranks(d) for d in (*wide, *iso)]
    scorer = Scorer(job)
    scores = np.array([scorer.score(r).values["loss"] for r in ranks])
    truth = _truth(job, ranks, seeds, steps, run.path / "agreement", tick)
    cut = len(wide)
    return Agreement(
        _part(job, ranks[:cut], scores[:cut], truth[:, :cut], np.zeros(cut, np.int64)),
        _part(job, ranks[cut:], scores[cut:], truth[:, cut:], strata),
        seeds,
        steps,
    )


def inherited(job: Job, path: Path) -> Elastic:
    """What configurations of a finished run inherit from: its supernet. The end of a traced chain is spoilt for all but
    its own point; there it is the chain's dense part, which references start from too.
    """
    if job.policy.traces:
        return densest(job, path / "traced", job.net.largest).eval()
    load_adapters(job.net.items(), load_tensors(path / "supernet.safetensors")[0])
    return job.net.eval()


def _sample(job: Job, n: int) -> tuple[list[Derivation], list[Derivation], NDArray[np.int64]]:
    """A third over all budgets, evenly in the logarithm; the rest at two budgets, within ±5 %: 12 and 35 % of the whole
    adapter, or in that ratio below the bound that the run sets.
    """
    rng = np.random.default_rng([job.config.seed, 41])
    whole = float(sum(min(max(job.space.ranks), *s) * sum(s) for s in job.net.shapes.values()))
    top = min([whole, *(c.value for c in job.constraints if c.name == "adapter_params" and c.op in ("<", "<="))])
    high = min(0.35 * whole, 0.9 * top)
    edges = np.geomspace(top / 32, top, n // 3 + 1)
    wide = [d for low, high in pairwise(edges) if (d := _draw(job, rng, low, high))]
    iso: list[Derivation] = []
    strata: list[int] = []
    for s, size in enumerate(np.geomspace(0.12 / 0.35 * high, high, STRATA)):
        seen: set[str] = set()
        for _ in range(4 * n):
            if len(seen) >= (n - n // 3 + s) // STRATA:
                break
            d = _draw(job, rng, (1 - NEAR) * size, (1 + NEAR) * size)
            if d is None or d.key in seen:
                continue
            seen.add(d.key)
            iso.append(d)
            strata.append(s)
    if len(wide) < 2 or len(iso) < 2:
        raise ConfigError(
            f"the space {job.space.name!r} has too few candidates to compare: {len(wide)} over all budgets and "
            f"{len(iso)} of near {size:,.0f} adapter parameters, within {top:,.0f}; loosen --where, or add ranks"
        )
    return wide, iso, np.array(strata)


def _draw(job: Job, rng: np.random.Generator, low: float, high: float) -> Derivation | None:
    try:
        return job.space.within(adapter_params=(low, high)).sample(rng, 1)[0]
    except (EmptySpaceError, ValueError):
        return None


def _truth(
    job: Job,
    ranks: Sequence[Mapping[str, int]],
    seeds: int,
    steps: int,
    folder: Path,
    tick: Callable[[int, int], None] | None,
) -> Array:
    """`(seeds, configs)` validation losses of stand-alone LoRAs, `AT_ONCE` of them in a pass."""
    assert job.config.lr is not None
    found = np.zeros((seeds, len(ranks)))
    for k in range(seeds):
        seed = job.config.seed + 5000 + k
        for low in range(0, len(ranks), AT_ONCE):
            part = ranks[low : low + AT_ONCE]
            members = Members(job.base.model, part, [seed * 1000 + low + p for p in range(len(part))])
            batches = job.batches(seed)
            purpose = f"agreement {k} {low} {steps} {len(ranks)}"
            checkpoint = Checkpoint(folder / f"{k}-{low}-{steps}-{len(ranks)}.safetensors", purpose, 300)
            members.train(
                lambda step, batches=batches: batches(step)[0],  # type: ignore[misc]
                TrainPlan(steps, job.config.lr, seed=seed),
                loss_function=job.loss,
                checkpoint=checkpoint,
            )
            for p, factors in enumerate(members.factors()):
                net = Elastic(job.base.model, {n: LoRA.of(A, B) for n, (A, B) in factors.items()})
                loss = job.score(net, "validation")["loss"]
                found[k, low + p] = loss if np.isfinite(loss) else 1e9
            if tick:
                tick(k * len(ranks) + low + len(part), seeds * len(ranks))
    return found


def _part(
    job: Job, ranks: Sequence[Mapping[str, int]], inherited: Array, truth: Array, strata: NDArray[np.int64]
) -> Part:
    mean = truth.mean(0)
    params = -np.array([sum(r * sum(job.net.shapes[n]) for n, r in c.items()) for c in ranks], float)
    kind, totals = per_kind(ranks, mean, job.net.names)
    totals = totals * np.sign(kendall(totals, mean) or 1.0)
    pairs = [(i, j) for i in range(len(truth)) for j in range(i)]

    def told(index: NDArray[np.int64]) -> dict[str, float]:
        s = strata[index]
        over: dict[str, float] = {
            name: within_strata(x[index], mean[index], s)
            for name, x in (("tau", inherited), ("params", params), ("per_kind", totals))
        }
        over["ceiling"] = float(np.mean([within_strata(truth[i][index], truth[j][index], s) for i, j in pairs]))
        return over

    whole = told(np.arange(len(ranks)))
    intervals = {name: bootstrap(len(ranks), lambda index, name=name: told(index)[name], 200) for name in whole}  # type: ignore[misc]
    return Part(len(ranks), **whole, kind=kind, intervals=intervals)
