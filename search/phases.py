"""What every kind of run has around its phases: the log, progress, interruptions, the report at the end."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from archrank.grammar import Derivation
from archrank.search import summary
from archrank.search.config import RunConfig
from archrank.search.expression import Constraint
from archrank.search.interrupt import Interrupted, Interrupts
from archrank.search.mirror import Mirror
from archrank.search.objective import Objective
from archrank.search.pareto import Scale
from archrank.search.progress import Progress, open_progress
from archrank.search.reporting import Reporter
from archrank.search.results import Run, open_run
from archrank.search.storage import Log, StorageError, write_atomic
from archrank.search.strategies.cross_entropy import learned
from archrank.search.study import Study
from archrank.search.trial import Trial

if TYPE_CHECKING:
    from archrank.search.ray.cluster import Cluster

SHOWN_EVERY = 0.2  # seconds: a front's volume takes longer than many an evaluation

__all__ = ["AnyJob", "Shell"]


class AnyJob(Protocol):
    """What a checked run of any kind says of itself."""

    @property
    def config(self) -> RunConfig:
        """What was asked, with what the run chose."""

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """Quality first."""

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """What every candidate of the front meets."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know before it starts."""


class Shell(ABC):
    """One pass over the phases of a run. A kind of run gives `study` and `phases`."""

    study: Study
    scale: Scale | None = None

    def __init__(self, job: AnyJob, path: Path, header: dict[str, object], cluster: Cluster | None = None) -> None:
        self.cluster = cluster
        self.path = path
        self._asked = job
        self.log = Log.open(path / "trials.jsonl", header)
        self._shown = 0.0
        self.started = time.monotonic()
        self.before = sum(float(str(e.get("seconds", 0))) for e in self.log.events if e.get("event") == "session")

    @abstractmethod
    def phases(self) -> None:
        """Everything that the run does, each phase doing what the folder does not hold yet."""

    def all(self) -> Run:
        """Every phase, then the report; an interruption saves and says how to go on."""
        with ExitStack() as stack:
            self.interrupts = stack.enter_context(Interrupts())
            self.progress: Progress = stack.enter_context(open_progress())
            for warning in [*self._asked.warnings, *(str(d) for d in self.log.damage)]:
                self.progress.note(warning)
            if self._asked.config.storage:
                mirror = Mirror(self._asked.config.storage, self.study, self._study_name(), self.progress.note)
                stack.enter_context(mirror)
                for trial in self.study.trials:
                    mirror.add(trial)
                self.study.listeners.append(mirror.add)
            if (kind := self._asked.config.report_to) != "none":
                asked = {key: value for key, value in asdict(self._asked.config).items() if value is not None}
                reporter = Reporter(kind, self._study_name(), self.path, asked, self.progress.note)
                self.study.listeners.append(stack.enter_context(reporter).add)
            try:
                self.phases()
                self.log.event({"event": "end"})
            except Interrupted as stop:
                stop.args = (f"{stop}; go on with: search resume {self.path}",)
                raise
            except OSError as error:
                raise StorageError(
                    f"cannot write to {self.path}: {error.strerror or error}; every finished evaluation is kept. "
                    f"Free some space, then go on with: search resume {self.path}"
                ) from error
            finally:
                self._close()
        if self._asked.config.write_space:
            searched = [t for t in self.study.trials if t.stage == "inherited"]
            text = learned(self.study.space, self.study.objectives, searched).to_text()
            write_atomic(Path(self._asked.config.write_space), text.encode())
        run = open_run(self.path)
        summary.write_report(run)
        return run

    def _study_name(self) -> str:
        return f"archrank {self.study.space.name} {self.path.resolve().name} seed {self._asked.config.seed}"

    def _close(self) -> None:
        """Notes this session's seconds; on a full disk that note is the one thing that may be lost."""
        with suppress(StorageError):
            self.log.event({"event": "session", "seconds": round(time.monotonic() - self.started, 3)})
        self.log.close()

    # -- what kinds of run do alike ---------------------------------------------------------------------------------

    def _inherited(self) -> list[Trial]:
        return [t for t in self.study.trials if t.stage == "inherited"]

    def _search_all(
        self,
        evaluate: Callable[[Derivation], None],
        after: Callable[[], None] | None = None,
        first: Callable[[], Sequence[Derivation]] = tuple,
    ) -> None:
        """Asks for `--trials` candidates in turn, `first` as in `_begin`; evaluate tells the study what it found of
        one.
        """
        wanted = self._asked.config.trials
        self._begin(evaluate, first)
        while (n := len(self._inherited())) < wanted:
            asked = self.study.ask(1)
            if not asked:
                self.progress.note(f"every candidate of the space is priced after {n} trials")
                break
            evaluate(asked[0])
            self._show(n + 1, wanted)
            if after:
                after()
            self._pause()

    def _begin(self, evaluate: Callable[[Derivation], None], first: Callable[[], Sequence[Derivation]]) -> None:
        """Opens the search with candidates that need none: at most half of `--trials`, evenly taken. They are not made
        where a resumed search is past them.
        """
        wanted, done = self._asked.config.trials, len(self._inherited())
        self.progress.phase("search", total=wanted, unit="trials", done=done)
        most = max(1, wanted // 2)
        made = first() if done < most else ()
        places = np.linspace(0, len(made) - 1, min(len(made), most)).round().astype(int)
        for d in self.study.enqueue([made[i] for i in places]):
            evaluate(d)
            self._show(len(self._inherited()), wanted)
            self._pause()

    def _refused(self, cost: Mapping[str, float]) -> tuple[str | None, list[Constraint]]:
        """Why a candidate of this cost is not evaluated, and the constraints that it breaks."""
        broken = [c for c in self._asked.constraints if c.name in cost and not c.holds(cost)]
        return (f"does not meet {broken[0]}" if broken else None), broken

    def _worst(self) -> None:
        """The worst of each objective among the candidates: the corner that hypervolume is measured from, saved with
        the run.
        """
        saved = next((e for e in self.log.events if e.get("event") == "reference"), None)
        objectives = self._asked.objectives
        if saved is None:
            done = [t for t in self._inherited() if t.state == "done"]
            if not done:
                return
            worst = {o.name: (max if o.direction == "min" else min)(t.values[o.name] for t in done) for o in objectives}
            saved = {"event": "reference", "values": worst}
            self.log.event(saved)
        self.scale = Scale.from_json(objectives, saved)

    def _finish_all(self, chosen: Sequence[Trial], finish: Callable[[Trial], None]) -> None:
        """Each finalist that is not in the log yet."""
        done = {t.parent for t in self.study.trials if t.stage == "final"}
        self.progress.phase("finalists", total=len(chosen), unit="candidates")
        for place, parent in enumerate(chosen, 1):
            if parent.id not in done:
                finish(parent)
            self._show(place)

    # -- small parts ------------------------------------------------------------------------------------------------

    def _tick(self, quiet: bool) -> Callable[[int, float], None]:
        def tick(done: int, loss: float) -> None:
            if not quiet:
                self.progress.update(done, best=loss)
            self._pause()

        return tick

    def _pause(self) -> None:
        """The safe point: SIGTERM, Ctrl-C and --max-hours end the run here."""
        self.interrupts.check()
        limit = self._asked.config.max_hours
        if limit is not None and self.before + time.monotonic() - self.started > 3600 * limit:
            raise Interrupted(75, f"stopped after --max-hours {limit}")

    def remark(self, text: str) -> None:
        """A line for the user."""
        self.progress.note(text)

    def pause(self) -> None:
        """The safe point, for what runs inside a phase."""
        self._pause()

    def _show(self, done: int, total: int | None = None) -> None:
        """Progress; `total`: of a phase so fast that not every step is worth showing."""
        now = time.monotonic()
        if total is not None and done < total and now - self._shown < SHOWN_EVERY:
            return
        self._shown = now
        points = [t for t in self.study.trials if t.state == "done" and not t.raced]
        quality = self._asked.objectives[0]
        best = min((t.values[quality.name] for t in points), key=lambda v: v * quality.sign, default=None)
        volume = None if self.scale is None else self.scale.hypervolume(points)
        self.progress.update(done, best=best, hypervolume=volume, front=None)
