"""`archrank.optimize`: any space, any Python function, with the log, front, report and resumption of a run.

Candidates are asked in batches of `workers` and told as they finish. What a batch holds depends only on the trials
before it, so a search that was killed in the middle of one asks for the same batch again and evaluates what is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from archrank import grammar
from archrank.grammar import Derivation, Space
from archrank.search.config import ConfigError, RunConfig, read_toml, write_toml
from archrank.search.errors import NothingFeasible
from archrank.search.expression import parse_where
from archrank.search.interrupt import Interrupted, Interrupts
from archrank.search.mirror import Mirror, NoMirror
from archrank.search.objective import Objective, parse_objectives
from archrank.search.progress import Progress, open_progress
from archrank.search.reporting import Reporter, check_report_to
from archrank.search.results import Run, open_run
from archrank.search.storage import Contents, Log, RunLock, write_atomic
from archrank.search.study import Study
from archrank.search.trial import Trial
from archrank.search.workers import Answer, Evaluate, Here, Workers, pool

__all__ = ["optimize"]

SHOW_EVERY = 0.5  # seconds between two updates of the progress line


def optimize(
    space: Space | str | Path,
    evaluate: Evaluate,
    objectives: Sequence[str | Objective] | str,
    strategy: str = "surrogate",
    trials: int = 500,
    seed: int = 0,
    out: str | Path | None = None,
    where: str | Sequence[str] | None = None,
    trial_timeout: float | None = None,
    storage: str | None = None,
    workers: int = 1,
    start: Sequence[str] | str | Path | None = None,
    report_to: str = "none",
) -> Run:
    """Searches `space` for what `evaluate(derivation) -> {objective: number}` says is good; returns the run.

    objectives: `"error:min"`, …, the first the quality. where: constraints, as in `"latency_ms <= 3"`, on any value
    that `evaluate` gives. out: a folder that keeps log, config and report; one that exists is resumed, with `trials` as
    the new total. trial_timeout: seconds, after which an evaluation is ended and the trial failed. storage: an Optuna
    storage URL that finished trials are copied to. workers: processes that evaluate at once. start: sentences to be
    evaluated first, or the folder of another run, whose front's sentences are. report_to: tensorboard, mlflow or wandb.

    An exception, a nan or an infinity fails the trial, not the search. Raises ConfigError on arguments that do not fit
    or do not agree with `out`, NothingFeasible (with the nearest misses) where no trial meets `where`.
    """
    space = space if isinstance(space, Space) else grammar.load(space)
    wanted = parse_objectives([objectives] if isinstance(objectives, str) else objectives)
    rules = (where,) if isinstance(where, str) else tuple(where or ())
    for rule in rules:
        parse_where(rule)
    config = RunConfig(
        space=space.name, objective=tuple(map(str, wanted)), where=rules, strategy=strategy, trials=trials, seed=seed,
        trial_timeout=trial_timeout, storage=storage, report_to=report_to,
    )  # fmt: skip
    check_report_to(report_to)
    with ExitStack() as stack:
        log = None
        if out is not None:
            log = stack.enter_context(_opened(Path(out), config, space, wanted, stack))
        run = _Search(config, space, wanted, log)
        run.first = _starters(space, start)
        run.go(pool(evaluate, workers, trial_timeout), workers)
    found = _memory(config, space, run) if out is None else open_run(out)
    if out is not None:
        from archrank.search.summary import write_report

        write_report(found)
    if rules and not len(found.front()) and any(t.state == "infeasible" for t in found.trials):
        raise NothingFeasible(nearest_misses(found))
    return found


def _starters(space: Space, start: Sequence[str] | str | Path | None) -> list[Derivation]:
    if start is None:
        return []
    texts = [t.text for t in open_run(start).front()] if isinstance(start, str | Path) else list(start)
    found = []
    for text in texts:
        try:
            found.append(space.parse(text))
        except ValueError as error:
            raise ConfigError(f"start: {text[:60]!r} is no sentence of {space.name}: {error}") from None
    return found


def nearest_misses(run: Run, most: int = 3) -> str:
    """What to say where nothing meets the constraints: the trials that came nearest."""
    broken = [t for t in run.trials if t.state == "infeasible"]
    broken.sort(key=lambda t: (float(str(t.extra.get("violation", np.inf))), t.id))
    told = [
        f"trial {t.id} ({', '.join(f'{n} {v:.4g}' for n, v in t.values.items())}): {t.text[:80]}" for t in broken[:most]
    ]
    asked = " and ".join(run.config.where)
    return f"none of {len(run.trials)} trials meets {asked}; the nearest: " + "; ".join(told)


def _opened(folder: Path, config: RunConfig, space: Space, objectives: tuple[Objective, ...], stack: ExitStack) -> Log:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"out={str(folder)!r}: is a file; give a folder")
    folder.mkdir(parents=True, exist_ok=True)
    stack.enter_context(RunLock(folder))
    if (folder / "config.toml").exists():
        _check_same(folder, config, space)
    write_atomic(folder / "space.lark", space.text.encode())
    write_atomic(folder / "config.toml", write_toml(config).encode())
    return Log.open(folder / "trials.jsonl", header(config, space, objectives))


def _check_same(folder: Path, config: RunConfig, space: Space) -> None:
    held = RunConfig(**read_toml(folder / "config.toml"))  # type: ignore[arg-type]
    text = (folder / "space.lark").read_text(encoding="utf-8") if (folder / "space.lark").exists() else space.text
    if (folder / "trials.jsonl").exists() and open_run(folder).kind != "function":
        raise ConfigError(f"{folder}: holds a run of `search run`; choose another folder")
    for name in ("objective", "where", "strategy", "seed"):
        old, new = getattr(held, name), getattr(config, name)
        if old != new:
            raise ConfigError(
                f"{folder}: was begun with {name} {_shown(old)}, not {_shown(new)}; choose another folder, or give "
                "the same to go on there"
            )
    if text != space.text:
        raise ConfigError(f"{folder}: was begun with another space file; choose another folder")


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else repr(value)


def header(config: RunConfig, space: Space, objectives: Sequence[Objective]) -> dict[str, object]:
    """The first line of the log."""
    from archrank.search.summary import versions

    return {
        "kind": "function",
        "seed": config.seed,
        "versions": versions(),
        "space": space.name,
        "size": str(space.size()) if space.is_finite else "infinite",
        "objectives": [str(o) for o in objectives],
        "labels": [],
        "input": list(space.input or ()),
        "sites": {s.name: [s.out_features, s.in_features] for s in space.sites},
        "base": {"name": "none", "sha256": ""},
        "data": {"name": "a Python function", "sha256": "", "rows": {}},
        "constants": {},
        "deploy": {"how": "none", "dtype": "none", "batch": 1, "devices": []},
        "machine": {},
        "warnings": [],
    }


class _Search:
    """One session: from what the log holds to the wanted number of trials."""

    def __init__(self, config: RunConfig, space: Space, objectives: tuple[Objective, ...], log: Log | None) -> None:
        self.config, self.log = config, log
        self.study = Study(space, objectives, config.strategy, config.seed, constraints=config.where, log=log)
        self.events: list[dict[str, Any]] = [] if log is None else log.events
        self.first: list[Derivation] = []
        self._shown_at = 0.0

    def go(self, workers: Here | Workers, width: int) -> None:
        began = time.monotonic()
        with ExitStack() as stack:
            stop = stack.enter_context(Interrupts())
            progress: Progress = stack.enter_context(open_progress())
            for damage in self.log.damage if self.log else ():
                progress.note(str(damage))
            asker = workers
            stack.enter_context(asker)
            mirror: NoMirror = NoMirror()
            if self.config.storage:
                mirror = stack.enter_context(Mirror(self.config.storage, self.study, self._name(), progress.note))
            if (kind := self.config.report_to) != "none":
                folder = None if self.log is None else self.log.path.parent
                asked = {key: value for key, value in asdict(self.config).items() if value is not None}
                reporter = Reporter(kind, self._name(), folder, asked, progress.note)
                self.study.listeners.append(stack.enter_context(reporter).add)
            progress.phase("search", total=self.config.trials, unit="trials", done=len(self.study.trials))
            try:
                self._loop(asker, width, stop.check, mirror.add, progress)
                if not any(e.get("event") == "end" for e in self.events):
                    self._note({"event": "end"})
            except Interrupted as halt:
                again = f"with out={str(self.log.path.parent)!r}" if self.log else "(with `out`, it would go on)"
                halt.args = (f"{halt}; go on by calling optimize again {again}",)
                raise
            finally:
                self._reference()
                self._note({"event": "session", "seconds": round(time.monotonic() - began, 3)})

    def _loop(
        self,
        asker: Here | Workers,
        width: int,
        check: Callable[[], None],
        mirror: Callable[[Trial], None],
        progress: Progress,
    ) -> None:
        for trial in self.study.trials:
            mirror(trial)
        queued = self.study.enqueue(self.first[: self.config.trials])
        for d, answer in asker.answers(queued, check):
            self._told(d, answer, mirror)
        while (begin := _whole(self.study.trials, width)) < self.config.trials:
            asked = self.study.ask_again(begin, min(width, self.config.trials - begin))
            if not asked:
                told = len(self.study.trials)
                if told >= self.config.trials or _whole(self.study.trials, width) > begin:
                    continue
                progress.note(f"every candidate of the space is evaluated after {told} trials")
                break
            for d, answer in asker.answers(asked, check):
                self._told(d, answer, mirror)
                self._show(progress)
        self._show(progress, now=True)

    def _told(self, d: Derivation, answer: Answer, mirror: Callable[[Trial], None]) -> None:
        if answer.values is None:
            mirror(self.study.fail(d, answer.reason, seconds=answer.seconds))
        else:
            mirror(self.study.tell(d, answer.values, seconds=answer.seconds))

    def _name(self) -> str:
        folder = "" if self.log is None else f" {self.log.path.parent.resolve().name}"
        return f"archrank {self.study.space.name}{folder} seed {self.config.seed}"

    def _note(self, record: Mapping[str, Any]) -> None:
        if self.log is not None:
            self.log.event(record)
        else:
            self.events.append(dict(record))

    def _reference(self) -> None:
        """The worst of each objective among the first 64 measured trials: the corner that hypervolume is shown from."""
        done = [t for t in self.study.trials if t.state == "done"][:64]
        if done and not any(e.get("event") == "reference" for e in self.events):
            worst = {
                o.name: (max if o.direction == "min" else min)(t.values[o.name] for t in done)
                for o in self.study.objectives
            }
            self._note({"event": "reference", "values": worst})

    def _show(self, progress: Progress, now: bool = False) -> None:
        if not now and time.monotonic() - self._shown_at < SHOW_EVERY:
            return
        self._shown_at = time.monotonic()
        o = self.study.objectives[0]
        done = [t for t in self.study.trials if t.state == "done"]
        best = min((t.values[o.name] for t in done), key=lambda v: v * o.sign, default=None)
        progress.update(len(self.study.trials), best=best)


def _whole(trials: Sequence[Trial], width: int) -> int:
    """How many ids, in whole batches, are told: all below."""
    ids = {t.id for t in trials}
    n = len(trials)
    if n and max(ids) == n - 1:
        return n
    gap = next(i for i in range(n + 1) if i not in ids)
    return gap // width * width


def _memory(config: RunConfig, space: Space, run: _Search) -> Run:
    contents = Contents(header(config, space, run.study.objectives), run.study.trials, tuple(run.events), ())
    return Run(Path(), config, contents, space)
