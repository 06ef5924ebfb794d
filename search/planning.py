"""What a rank search will cost, before it: a few timed steps, the rest counted. In units of one r_max run.

One r_max run is `--train-steps` steps of the whole store, the unit in which people know their training. The phases
count supernet runs × train_steps times the passes of the policy's step, each finalist and the two references one
fine-tune (a quarter of a run under policy `full`, else one), re-ranking 2 finalists × 2 seeds × 1/8 of that, and the
search as the forwards of its evaluation rows (a third of a training step each).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from archrank.search import candidates
from archrank.search.config import RunConfig

if TYPE_CHECKING:
    from archrank.search.job import Job

__all__ = ["Phase", "Plan", "fitted", "plan_of", "plan_run"]

TIMED, WARM = 3, 1
REFERENCES = 2  # r_max, and the uniform rank beside the verdict's choice
FORWARD = 1 / 3  # of a training step: forward alone


@dataclass(frozen=True)
class Phase:
    """One phase: its steps of training (or their equal in forwards) and seconds."""

    name: str
    steps: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    targets: {module: (out, in)}; space_size: sentences; r_max_runs: all steps over those of one r_max run;
    memory_bytes: weights, adapters with their moments, and the activations of a step as measured where the device
    tells; disk_bytes: of the run folder; note: what --max-hours changes of what was asked, or cannot.
    """

    targets: dict[str, tuple[int, int]]
    space_size: int
    phases: tuple[Phase, ...]
    memory_bytes: int
    disk_bytes: int
    unit_seconds: float
    r_max_runs: float
    note: str | None = None

    @property
    def seconds(self) -> float:
        """Of all phases."""
        return sum(p.seconds for p in self.phases)

    def to_json(self) -> dict[str, object]:
        """The document of `search plan --json`."""
        return {
            "targets": {n: list(s) for n, s in self.targets.items()},
            "space_size": self.space_size,
            "phases": [
                {"name": p.name, "steps": round(p.steps, 1), "seconds": round(p.seconds, 2)} for p in self.phases
            ],
            "seconds": round(self.seconds, 2),
            "memory_bytes": self.memory_bytes,
            "disk_bytes": self.disk_bytes,
            "r_max_runs": round(self.r_max_runs, 2),
            "note": self.note,
        }


def plan_run(config: RunConfig) -> Plan:
    """Loads and checks what `search run` would, trains a few timed steps on copies, writes nothing."""
    from archrank.search.config import ConfigError
    from archrank.search.job import Job, prepare
    from archrank.search.run import prepared

    job = prepared(config)
    if not isinstance(job, Job):
        raise ConfigError(
            f"the space {job.space.name!r} is one of architectures: search plan counts rank searches, whose unit is "
            "one r_max run; an architecture run says its phases when it starts"
        )
    fit, told = fitted(job)
    job = job if fit == job.config else prepare(fit)
    return replace(plan_of(job, step_seconds(job)), note=told)


def step_seconds(job: Job) -> float:
    """Median seconds of a training step of the whole store, on a copy of the adapters."""
    from archrank.supernet.training import TrainPlan, train

    assert job.config.lr is not None
    net = job.net.sliced(job.net.largest)
    times = [time.monotonic()]

    def watch(done: int) -> bool:
        times.append(time.monotonic())
        return True

    plan = TrainPlan(WARM + TIMED, job.config.lr, accumulate=job.config.accumulate)
    train(net, job.batches(job.config.seed), job.loss, plan, after=watch)
    return sorted(b - a for a, b in zip(times[WARM:-1], times[WARM + 1 :], strict=True))[TIMED // 2]


def plan_of(job: Job, seconds: float) -> Plan:
    """The phases of a job whose training step takes `seconds`."""
    config, unit = job.config, job.train_steps
    assert config.batch_size is not None
    rows = min(config.eval_rows, job.data.size("validation"))
    chosen = 2 * config.finalists
    references = REFERENCES - job.policy.teaches  # the r_max run is one already
    finals = (config.finalists + references) * config.final_seeds if config.finalists else 0
    steps = {
        "head": min(300, unit) if job.base.new_head else 0,
        "supernet": job.policy.runs * unit * job.policy.passes,
        "trace" if job.policy.traces else "search": config.trials * rows / config.batch_size * FORWARD,
        "rerank": chosen * candidates.RERANK_SEEDS * candidates.rerank_steps(job.tune_steps),
        "finalists": finals * job.tune_steps,
    }
    phases = tuple(Phase(name, n, n * seconds) for name, n in steps.items() if n)
    store = sum(p.numel() * p.element_size() for p in job.net.adapters.parameters())
    base = sum(p.numel() * p.element_size() for p in job.base.model.parameters())
    return Plan(
        targets=dict(job.net.shapes),
        space_size=job.space.size(),
        phases=phases,
        memory_bytes=_peak(job) or base + 4 * store,
        disk_bytes=store * (4 + chosen + finals),
        unit_seconds=unit * seconds,
        r_max_runs=sum(steps.values()) / unit,
    )


def _peak(job: Job) -> int:
    """Peak bytes of the timed steps where the device counts them; 0 on a CPU."""
    import torch

    device = next(job.base.model.parameters()).device
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else 0


def fitted(job: Job) -> tuple[RunConfig, str | None]:
    """The configuration that fits into --max-hours, and what had to change or could not; unchanged without a limit.

    First the sampled supernet gives way to one r_max run in canonical form (policy `full`), then finalists are dropped,
    at least one stays.
    """
    config = job.config
    if config.max_hours is None:
        return config, None
    seconds = step_seconds(job)
    limit = 3600 * config.max_hours
    asked = plan_of(job, seconds).seconds
    if asked <= limit:
        return config, None
    from archrank.supernet import policies

    said = []
    if config.policy == "mixed" and job.family == "lora":
        config = replace(config, policy="full")
        ranks = [int(r) for r in job.policy.ranks]
        job = replace(job, policy=policies.load("full")(job.net.shapes, job.net.r_max, config.seed, ranks=ranks))
        said.append("one r_max run in canonical form (policy full) stands for the sampled supernet")
    while config.finalists > 1 and plan_of(replace(job, config=config), seconds).seconds > limit:
        config = replace(config, finalists=config.finalists - 1)
    if config.finalists != job.config.finalists:
        said.append(f"{config.finalists} finalists, not {job.config.finalists}")
    needs = plan_of(replace(job, config=config), seconds).seconds
    rest = "" if needs <= limit else f"; it needs {needs / 3600:.2g} h still, and stops at the limit, resumable"
    return config, (
        f"--max-hours {config.max_hours}: the whole pipeline would take about {asked / 3600:.2g} h: "
        + (", ".join(said) or "nothing of it can be left out")
        + rest
    )
