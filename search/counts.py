"""How many configurations each method of a run saw, stage by stage: a best of 200 and a best of 7 are no equals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from archrank.search.report.data import STAGE_NAMES, STAGES, Seen
from archrank.search.trial import Trial

if TYPE_CHECKING:
    from archrank.search.results import Run

__all__ = ["REFERENCE", "configurations_seen", "seen_line", "totals"]

REFERENCE = "uniform ranks, full fine-tune"

LATER = {
    "adapters": {"reranked": "short fine-tune", "final": "full fine-tune"},
    "encoders": {"final": "fine-tune"},
    "ensembles": {"final": "fine-tune"},
    "architectures": {"reranked": "longer training", "final": "training from scratch"},
}


def configurations_seen(run: Run) -> list[Seen]:
    """One entry for each method and stage that the log holds, in the order of the stages; references, which no search
    promoted, apart.
    """
    found: dict[tuple[str, str], list[Trial]] = {}
    for stage in STAGES:
        for t in run.trials:
            if t.stage == stage:
                found.setdefault((stage, _method(run, t)), []).append(t)
    return [_seen(stage, method, trials) for (stage, method), trials in found.items()]


def seen_line(seen: Sequence[Seen]) -> str:
    """The same in one line of text; empty where nothing was evaluated."""
    return "configurations seen: " + "; ".join(str(s) for s in seen) if seen else ""


def _method(run: Run, trial: Trial) -> str:
    later = LATER.get(run.kind, {}).get(trial.stage)
    if later:
        is_reference = run.kind == "adapters" and trial.stage == "final" and trial.parent is None
        return REFERENCE if is_reference else later
    config = run.config
    if run.kind == "function" or trial.stage == "measured":
        return config.strategy
    if run.kind == "architectures":
        return f"{config.strategy}, {'each trained alone' if config.evaluate == 'train' else 'shared weights'}"
    if run.kind != "adapters":
        return f"{config.strategy} on the supernet"
    from archrank.supernet import policies

    assert config.policy is not None
    if policies.load(config.policy).traces:
        return f"{config.policy}'s traced chain"
    if policies.load(config.policy).teaches:
        return f"{config.strategy} on one r_max run"
    return f"{config.strategy} on the {config.policy} supernet"


def _seen(stage: str, method: str, trials: Sequence[Trial]) -> Seen:
    told = (t.extra.get("seeds") for t in trials)
    return Seen(
        stage,
        method,
        len({t.key for t in trials}),
        seeds=max((len(s) for s in told if isinstance(s, list)), default=1),
        infeasible=sum(t.state == "infeasible" for t in trials),
        failed=sum(t.state == "failed" for t in trials),
        stopped_early=sum(t.raced for t in trials),
    )


def totals(seen: Sequence[Seen], stages: Sequence[str] = STAGES) -> str:
    """`200 inherited, 12 re-ranked`: over all methods of each stage."""
    counts = {stage: sum(s.configurations for s in seen if s.stage == stage) for stage in stages}
    return ", ".join(f"{n:,} {STAGE_NAMES[stage]}" for stage, n in counts.items() if n)
