"""What a run says about itself: the log's header, the verdict in one sentence, the report's data."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from archrank.search.counts import totals
from archrank.search.objective import KNOWN
from archrank.search.pareto import ParetoFront
from archrank.search.results import Run, default_form
from archrank.search.storage import write_atomic
from archrank.search.trial import Trial

if TYPE_CHECKING:
    from archrank.search.base_job import BaseJob
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


def base_header(job: BaseJob) -> dict[str, object]:
    """What the first line of trials.jsonl says of every run over a base."""
    return {
        "seed": job.config.seed,
        "versions": versions(),
        "space": job.space.name,
        "size": str(job.space.size()),
        "objectives": [f"{o.name}:{o.direction}" for o in job.objectives],
        "labels": list(job.data.label_names),
        "base": {"name": job.base.name_or_path, "sha256": job.base.fingerprint},
        "data": {
            "name": job.data.name,
            "sha256": job.data.fingerprint,
            "rows": {s: job.data.size(s) for s in ("train", "validation", "test")},
        },
        "deploy": {
            "how": job.config.deploy,
            "dtype": job.config.serve_dtype,
            "batch": job.config.serve_batch,
            "devices": list(job.config.hw),
        },
        "machine": machine(job.config.device),
        "warnings": list(job.warnings),
    }


def header(job: Job) -> dict[str, object]:
    """The first line of trials.jsonl beside its schema: all that is needed to read the run without loading a model."""
    sites = {name: list(shape) for name, shape in job.net.shapes.items()}
    return base_header(job) | {"sites": sites, "constants": job.pricer.constants()}


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
    if run.kind == "function":
        shown = ", ".join(f"{n} {v:.4g}" for n, v in knee.values.items())
        points = f"{len(front)} point{'s' if len(front) > 1 else ''}"
        return f"{points} of {len(run.trials)} trials: best {quality} {best.values[quality]:.4g}; the knee has {shown}."
    if run.kind != "adapters":
        return _networks_verdict(run, front, "trained from scratch" if run.is_architecture_run else "fine-tuned")
    stages = sorted({t.stage for t in front}, key=["inherited", "reranked", "final"].index)
    largest = float(run.event("reference").get("r_max", {}).get("adapter_params", 0))
    share = f" ({knee.values['adapter_params'] / largest:.0%} of a uniform r_max)" if largest else ""
    return _uncompared(run) + (
        f"{len(front)} point{'s' if len(front) > 1 else ''} ({', '.join(stages)} values; "
        f"configurations seen: {totals(run.seen)}): best {quality} {best.values[quality]:.3g} with "
        f"{best.values['adapter_params']:,.0f} adapter parameters; the knee "
        f"has {quality} {knee.values[quality]:.3g} with "
        f"{knee.values['adapter_params']:,.0f}{share}."
    )


def _uncompared(run: Run) -> str:
    """Why a finished rank search has no verdict against r_max."""
    if not run.finished:
        return ""
    if not run.config.finalists:
        return "Not compared with r_max, as no finalist was trained (--finalists 0): "
    asked = " and ".join(run.config.where)
    return f"Not compared with a uniform rank, as none meets {asked}: " if asked else ""


def _networks_verdict(run: Run, front: ParetoFront, how: str) -> str:
    """Trained and inherited values apart: they are not comparable."""
    quality = run.objectives[0]
    final = [t for t in front if t.stage == "final"]
    told = f"{len(front)} points, {len(final)} of them {how} (configurations seen: {totals(run.seen)})"
    if not final:
        return f"{told}."
    best = min(final, key=lambda t: quality.sign * t.values[quality.name])
    tested = best.extra.get("test")
    test = f", test {quality.name} {tested[quality.name]:.3g}" if isinstance(tested, dict) else ""
    costs = ", ".join(f"{o.name} {best.values[o.name]:.4g}" for o in run.objectives[1:])
    many = len(_seeds(best))
    seeds = f"mean of {many} seeds" if many > 1 else "one seed"
    return (
        f"{told}: the best of these, trial {best.id}, has {quality.name} {best.values[quality.name]:.3g} ({seeds}"
        f"{test}) with {costs or 'no other objective'}."
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
    counts = np.unique(np.linspace(1, len(priced), min(len(priced), 300)).astype(int)).tolist()
    return [(n, run.scale.hypervolume([t for t in priced[:n] if not t.raced])) for n in counts]


def _pictures(run: Run, trials: list[int]) -> dict[int, str]:
    """Drawings of networks; one that is too large to draw is left out."""
    from archrank.search.drawing import DrawingError, svg

    found: dict[int, str] = {}
    for number in trials if run.is_architecture_run else ():
        with suppress(DrawingError):
            found[number] = svg(run.space.elaborate(run.space.parse(run.trial(number).text)))
    return found


def _base_name(run: Run) -> str:
    if run.kind == "function":
        return ""
    return str(run.header["base"]["name"]) if run.config.base else "digits_vit, which ships with archrank"


def _command(run: Run) -> str:
    if run.kind != "function":
        return f"search run --config {run.path / 'config.toml'}"
    return f"archrank.optimize(space, evaluate, …, out={str(run.path)!r})"


def report_data(run: Run) -> ReportData:
    """The run as the plain values that the page shows."""
    from archrank.search.analysis.found import findings_of
    from archrank.search.ensemble_summary import ensemble_tables
    from archrank.search.report import Constant, ReportData

    head, front = run.header, run.front()
    chosen: dict[str, int] = {}
    if len(front):
        chosen = {"knee": front.knee().id} | {f"best {o.name}": front.best(o.name).id for o in run.objectives[:1]}
    findings, unread = findings_of(run, list(dict.fromkeys(chosen.values())))
    units = {o.name: o.unit for o in KNOWN.values()}
    deploy = f"{head['deploy']['how']}, {head['deploy']['dtype']}, batch {head['deploy']['batch']}"
    phases = {str(e["name"]): float(str(e["seconds"])) for e in run.contents.events if e.get("event") == "phase"}
    for stage in ("inherited", "reranked", "final"):
        if spent := sum(t.seconds for t in run.trials if t.stage == stage):
            phases[{"inherited": "search", "reranked": "re-rank", "final": "finalists"}[stage]] = spent
    return ReportData(
        title=f"{head['space']} on {Path(head['base' if run.on_base else 'data']['name']).name}",
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
        findings=findings,
        ranks={t.id: run.ranks(t) for t in front} if run.kind in ("adapters", "encoders") else {},
        modules=run.modules,
        pictures=_pictures(run, list(dict.fromkeys(chosen.values()))),
        seen=run.seen,
        constants=[
            Constant(n, v, units.get(n.split("@")[0], ""), f"{deploy}: the same for every rank, not an objective")
            for n, v in head["constants"].items()
        ],
        warnings=[*head["warnings"], *run.warnings, *([unread] if unread else [])],
        tables=ensemble_tables(run),
        phases=list(phases.items()),
        form=default_form(run) if run.kind == "ensembles" else "",
        command=_command(run),
        config=(run.path / "config.toml").read_text(),
        seed=head["seed"],
        versions=head["versions"],
        machine=", ".join(f"{k} {v}" for k, v in head["machine"].items()),
    )
