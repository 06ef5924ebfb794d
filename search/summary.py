"""What a run says about itself: the log's header, the verdict in one sentence, the report's data."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from archrank.search.objective import KNOWN
from archrank.search.pareto import ParetoFront
from archrank.search.results import Run
from archrank.search.storage import write_atomic
from archrank.search.trial import Trial

if TYPE_CHECKING:
    from archrank.search.job import Job
    from archrank.search.report import ReportData

__all__ = ["header", "machine", "verdict", "versions", "write_report"]


def versions() -> dict[str, str]:
    """Of Python and of the packages whose arithmetic a run depends on."""
    names = ("archrank", "torch", "transformers", "peft", "datasets", "optuna", "numpy")
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in names}}


def machine(device: str) -> dict[str, object]:
    """What computes."""
    import torch

    return {
        "processor": platform.machine(),
        "system": platform.system(),
        "threads": torch.get_num_threads(),
        "device": device,
    }


def header(job: Job) -> dict[str, object]:
    """The first line of trials.jsonl beside its schema: all that is needed to read the run without loading a model."""
    return {
        "seed": job.config.seed,
        "versions": versions(),
        "space": job.space.name,
        "size": str(job.space.size()),
        "objectives": [f"{o.name}:{o.direction}" for o in job.objectives],
        "labels": list(job.data.label_names),
        "sites": {name: list(shape) for name, shape in job.net.shapes.items()},
        "base": {"name": job.base.name_or_path, "sha256": job.base.fingerprint},
        "data": {
            "name": job.data.name,
            "sha256": job.data.fingerprint,
            "rows": {s: job.data.size(s) for s in ("train", "validation", "test")},
        },
        "constants": job.pricer.constants(),
        "deploy": {
            "how": job.config.deploy,
            "dtype": job.config.serve_dtype,
            "batch": job.config.serve_batch,
            "devices": list(job.config.hw),
        },
        "machine": machine(job.config.device),
        "warnings": list(job.warnings),
    }


def verdict(run: Run) -> str:
    """What the front offers, in figures: the best point, the knee, and what the same base offers without and with the
    largest adapter.
    """
    front = run.front()
    if not len(front):
        return f"No candidate meets the constraints: {len(run.trials)} evaluations, none feasible."
    if not run.is_architecture_run:
        from archrank.search.verdict import rank_verdict

        if told := rank_verdict(run):
            return told
    quality, knee = run.objectives[0].name, front.knee()
    best = front.best(quality)
    if run.is_architecture_run:
        return _networks_verdict(run, front)
    stages = sorted({t.stage for t in front}, key=["inherited", "reranked", "final"].index)
    largest = float(run.event("reference").get("r_max", {}).get("adapter_params", 0))
    share = f" ({knee.values['adapter_params'] / largest:.0%} of a uniform r_max)" if largest else ""
    return (
        f"{len(front)} point{'s' if len(front) > 1 else ''} ({', '.join(stages)} values): "
        f"best {quality} {best.values[quality]:.3g} with "
        f"{best.values['adapter_params']:,.0f} adapter parameters; the knee "
        f"has {quality} {knee.values[quality]:.3g} with "
        f"{knee.values['adapter_params']:,.0f}{share}."
    )


def _networks_verdict(run: Run, front: ParetoFront) -> str:
    """Trained and inherited values apart: they are not comparable."""
    quality = run.objectives[0]
    final = [t for t in front if t.stage == "final"]
    told = f"{len(front)} points, {len(final)} of them trained from scratch"
    if not final:
        return f"{told}."
    best = min(final, key=lambda t: quality.sign * t.values[quality.name])
    tested = best.extra.get("test")
    test = f", test {quality.name} {tested[quality.name]:.3g}" if isinstance(tested, dict) else ""
    costs = ", ".join(f"{o.name} {best.values[o.name]:.4g}" for o in run.objectives[1:])
    return (
        f"{told}: the best of these, trial {best.id}, has {quality.name} {best.values[quality.name]:.3g} (mean of "
        f"{len(_seeds(best))} seeds{test}) with {costs or 'no other objective'}."
    )


def _seeds(trial: Trial) -> list[object]:
    seeds = trial.extra.get("seeds")
    return seeds if isinstance(seeds, list) else [trial.values]


def write_report(run: Run, path: Path | None = None) -> Path:
    """Renders report.html (default: into the run's folder) from the log alone; no model is loaded."""
    from archrank.search.report import render

    target = path or run.path / "report.html"
    write_atomic(target, render(report_data(run)).encode())
    return target


def hypervolume_curve(run: Run) -> list[tuple[int, float]]:
    """(evaluations, hypervolume) over the inherited trials: later stages have other values and would make a step of
    their own.
    """
    if run.scale is None:
        return []
    priced = [t for t in run.trials if t.stage == "inherited"]
    return [(n, run.scale.hypervolume(priced[:n])) for n in range(1, len(priced) + 1)]


def _pictures(run: Run, trials: list[int]) -> dict[int, str]:
    """Drawings of networks; one that is too large to draw is left out."""
    from archrank.search.drawing import DrawingError, svg

    found: dict[int, str] = {}
    for number in trials if run.is_architecture_run else ():
        with suppress(DrawingError):
            found[number] = svg(run.space.elaborate(run.space.parse(run.trial(number).text)))
    return found


def _base_name(run: Run) -> str:
    if run.is_architecture_run:
        return ""
    return str(run.header["base"]["name"]) if run.config.base else "digits_vit, which ships with archrank"


def report_data(run: Run) -> ReportData:
    """The run as the plain values that the page shows."""
    from archrank.search.report import Constant, ReportData

    head, front = run.header, run.front()
    chosen: dict[str, int] = {}
    if len(front):
        chosen = {"knee": front.knee().id} | {f"best {o.name}": front.best(o.name).id for o in run.objectives[:1]}
    units = {o.name: o.unit for o in KNOWN.values()}
    deploy = f"{head['deploy']['how']}, {head['deploy']['dtype']}, batch {head['deploy']['batch']}"
    phases = {str(e["name"]): float(str(e["seconds"])) for e in run.contents.events if e.get("event") == "phase"}
    for stage in ("inherited", "reranked", "final"):
        if spent := sum(t.seconds for t in run.trials if t.stage == stage):
            phases[{"inherited": "search", "reranked": "re-rank", "final": "finalists"}[stage]] = spent
    return ReportData(
        title=f"{head['space']} on {Path(head['data' if run.is_architecture_run else 'base']['name']).name}",
        objectives=[(o.name, o.direction, o.unit) for o in run.objectives],
        trials=run.records(run.trials),
        front=[t.id for t in front],
        verdict=run.verdict,
        task=run.config.task or "",
        base=_base_name(run),
        data=head["data"]["name"],
        device=", ".join(head["deploy"]["devices"]),
        chosen=chosen,
        hypervolume=hypervolume_curve(run),
        reference={
            n: v for n, v in run.event("reference").get("values", {}).items() if n in {o.name for o in run.objectives}
        },
        ranks={} if run.is_architecture_run else {t.id: run.ranks(t) for t in front},
        modules=list(head["sites"]),
        pictures=_pictures(run, list(dict.fromkeys(chosen.values()))),
        constants=[
            Constant(n, v, units.get(n.split("@")[0], ""), f"{deploy}: the same for every rank, not an objective")
            for n, v in head["constants"].items()
        ],
        warnings=[*head["warnings"], *run.warnings],
        phases=list(phases.items()),
        command=f"search run --config {run.path / 'config.toml'}",
        config=(run.path / "config.toml").read_text(),
        seed=head["seed"],
        versions=head["versions"],
        machine=", ".join(f"{k} {v}" for k, v in head["machine"].items()),
    )
