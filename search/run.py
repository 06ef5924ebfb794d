"""Starts a run in a new folder, or goes on in one.

A run is a fold: every phase is a function of the log and the files before it, so `resume` is `start` over a folder
that already holds something. The phases of each kind of run have a module of their own.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from archrank import grammar
from archrank.grammar import ops
from archrank.search.architecture_job import ArchitectureJob, prepare_architectures
from archrank.search.architecture_run import ArchitecturePhases
from archrank.search.config import ConfigError, RunConfig, read_toml, write_toml
from archrank.search.encoder_job import EncoderJob, prepare_encoders
from archrank.search.encoder_run import EncoderPhases
from archrank.search.ensemble_job import EnsembleJob, prepare_ensembles
from archrank.search.ensemble_run import EnsemblePhases
from archrank.search.job import Job, prepare
from archrank.search.phases import Shell
from archrank.search.place import address_of, check_place, cluster_of, elsewhere
from archrank.search.planning import fitted
from archrank.search.rank_run import RankPhases
from archrank.search.reporting import check_report_to
from archrank.search.results import Run, open_run
from archrank.search.storage import RunLock, write_atomic

if TYPE_CHECKING:
    from archrank.search.ray.cluster import Cluster

__all__ = ["prepared", "resume", "start"]

AnyJobKind = Job | ArchitectureJob | EncoderJob


def start(config: RunConfig) -> Run:
    """Runs `config` in a new folder; ConfigError when the folder holds a run already."""
    path = Path(config.out) if config.out else _free_folder(Path("runs"))
    if (path / "config.toml").exists() or (path / "trials.jsonl").exists():
        raise ConfigError(
            f"--out {path}: holds a run already; go on with `search resume {path}` or choose another folder"
        )
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--out {path}: is a file; choose a folder")
    space = _space(config)
    address = address_of(config)
    job = _prepared(config, space)
    if isinstance(job, Job):
        fit, told = fitted(job)
        job = job if fit == job.config else prepare(fit)
        job = replace(job, warnings=(*job.warnings, told)) if told else job
    with cluster_of(config, address) as cluster:
        return _run(job, path, cluster)


def _run(job: AnyJobKind, path: Path, cluster: Cluster | None) -> Run:
    path.mkdir(parents=True, exist_ok=True)
    with RunLock(path):
        # the copy first: a folder with a config.toml can be resumed, whatever happens next
        write_atomic(path / "space.lark", job.space.text.encode())
        write_atomic(path / "config.toml", write_toml(replace(job.config, out=None)).encode())
        return _begun(job, path, cluster).all()


def prepared(config: RunConfig) -> AnyJobKind:
    """Everything loaded and checked, for the kind of space that is asked for."""
    return _prepared(config, _space(config))


def _space(config: RunConfig) -> grammar.Space:
    """The space, and that the run may be where it is asked to be: no model is loaded before."""
    for file in config.ops:
        ops.load_file(file)
    space = grammar.load(config.space)
    check_place(config, space)
    check_report_to(config.report_to)
    return space


def _prepared(config: RunConfig, space: grammar.Space) -> AnyJobKind:
    if space.is_layer_space:
        return prepare_ensembles(config) if space.has_split else prepare_encoders(config)
    if space.is_architecture_space:
        return prepare_architectures(config)
    return prepare(config)


def _begun(job: AnyJobKind, path: Path, cluster: Cluster | None) -> Shell:
    if isinstance(job, EnsembleJob):
        return EnsemblePhases(job, path)
    if isinstance(job, EncoderJob):
        return EncoderPhases(job, path)
    return RankPhases(job, path, cluster) if isinstance(job, Job) else ArchitecturePhases(job, path, cluster)


def resume(path: str | Path, *, ray: str | None = None, workers: int | None = None) -> Run:
    """Goes on in a run's folder; a finished run is only read.

    ray, workers: another cluster than before (`none`: this process), which finds the same where the run is in step.
    """
    folder = Path(path)
    if not (folder / "config.toml").exists():
        raise ConfigError(f"{folder}: no run there (no config.toml); start one with `search run SPACE --out {folder}`")
    with RunLock(folder):
        values = read_toml(folder / "config.toml")
        places: dict[str, object] = {"space": str(folder / "space.lark"), "out": str(folder)}
        config = RunConfig(**elsewhere({**values, **places}, ray, workers))  # type: ignore[arg-type]
        if (folder / "trials.jsonl").exists():
            done = open_run(folder)
            if done.kind == "function":
                raise ConfigError(
                    f"{folder}: was made by archrank.optimize, whose function is not kept; to go on call it again with "
                    f"out={str(folder)!r}"
                )
            if done.finished:
                return done
        space = _space(config)
        address = address_of(config)
        job = _prepared(config, space)
        with cluster_of(config, address) as cluster:
            return _begun(job, folder, cluster).all()


def _free_folder(root: Path) -> Path:
    taken = {int(p.name) for p in root.glob("*") if p.name.isdigit()} if root.is_dir() else set()
    return root / str(max(taken, default=0) + 1)
