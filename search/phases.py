"""What every kind of run has around its phases: the log, progress, interruptions, the report at the end."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from archrank.search import summary
from archrank.search.config import RunConfig
from archrank.search.expression import Constraint
from archrank.search.interrupt import Interrupted, Interrupts
from archrank.search.objective import Objective
from archrank.search.pareto import Scale
from archrank.search.progress import Progress, open_progress
from archrank.search.results import Run, open_run
from archrank.search.storage import Log, StorageError
from archrank.search.study import Study

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
        run = open_run(self.path)
        summary.write_report(run)
        return run

    def _close(self) -> None:
        """Notes this session's seconds; on a full disk that note is the one thing that may be lost."""
        with suppress(StorageError):
            self.log.event({"event": "session", "seconds": round(time.monotonic() - self.started, 3)})
        self.log.close()

    def _count(self, stage: str) -> int:
        return sum(t.stage == stage for t in self.study.trials)

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
        points = [t for t in self.study.trials if t.state == "done"]
        quality = self._asked.objectives[0]
        best = min((t.values[quality.name] for t in points), key=lambda v: v * quality.sign, default=None)
        volume = None if self.scale is None else self.scale.hypervolume(points)
        self.progress.update(done, best=best, hypervolume=volume, front=None)
