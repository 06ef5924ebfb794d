"""Finished trials as they come to TensorBoard, MLflow or Weights & Biases (`--report-to`); none unless asked for.

A thread reports them, off the search's path. The first error of such a tool is told once and ends the reporting, never
the search. The log stays the truth: a resumed run reports what is finished from then on.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from archrank.search.config import ConfigError
from archrank.search.trial import Trial

__all__ = ["TRACKERS", "Reporter", "Tracker", "check_report_to"]

PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
LAST_WAIT = 20.0  # seconds that the end of a search waits for the tool


class Tracker(Protocol):
    """What reports to one tool. It is opened, used and closed in one thread."""

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """`stage/name`: value, of trial `step`."""

    def close(self) -> None:
        """Everything is sent."""


class TensorBoard:
    """Scalars under RUN/tensorboard, or ./tensorboard of a search without a folder."""

    def __init__(self, name: str, folder: Path | None, config: Mapping[str, object]) -> None:
        writer = import_module("tensorboardX").SummaryWriter
        self._writer: Any = writer(logdir=str((folder or Path()) / "tensorboard"))
        self._writer.add_text("config", "\n".join(f"    {k} = {v}" for k, v in config.items()))

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """A scalar each."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes."""
        self._writer.close()


class MLflow:
    """A run of the experiment `archrank`, wherever MLFLOW_TRACKING_URI points."""

    def __init__(self, name: str, folder: Path | None, config: Mapping[str, object]) -> None:
        self._mlflow: Any = import_module("mlflow")
        self._mlflow.set_experiment("archrank")
        self._mlflow.start_run(run_name=name)
        self._mlflow.log_params({key: str(value)[:500] for key, value in config.items()})

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """A metric each."""
        self._mlflow.log_metrics(dict(values), step=step)

    def close(self) -> None:
        """Ends the run."""
        self._mlflow.end_run()


class WeightsAndBiases:
    """A run of the project `archrank`; the trial's id is a value, since steps of wandb only rise."""

    def __init__(self, name: str, folder: Path | None, config: Mapping[str, object]) -> None:
        started = import_module("wandb").init
        self._run: Any = started(project="archrank", name=name, dir=folder and str(folder), config=dict(config))

    def report(self, step: int, values: Mapping[str, float]) -> None:
        """One row."""
        self._run.log({"trial": step, **values})

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()


TRACKERS: dict[str, Callable[[str, Path | None, Mapping[str, object]], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}


def check_report_to(kind: str) -> None:
    """ConfigError that names the package to install, where the tool's is missing; imports nothing."""
    if kind != "none" and find_spec(PACKAGES[kind]) is None:
        raise ConfigError(f"--report-to {kind} needs {PACKAGES[kind]}: pip install {PACKAGES[kind]}")


class Reporter:
    """`with Reporter(kind, name, folder, config, note) as reporter: reporter.add(trial)`; `note` tells the user."""

    def __init__(
        self, kind: str, name: str, folder: Path | None, config: Mapping[str, object], note: Callable[[str], None]
    ) -> None:
        check_report_to(kind)
        self._kind, self._note = kind, note
        self._open: Callable[[], Tracker] = partial(TRACKERS[kind], name, folder, config)
        self._queue: queue.SimpleQueue[Trial | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="report-to", daemon=True)

    def __enter__(self) -> Reporter:
        """Starts the thread."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits a while for what is not reported yet."""
        self._queue.put(None)
        end = time.monotonic() + LAST_WAIT
        while self._thread.is_alive() and time.monotonic() < end:
            self._thread.join(0.1)
        if self._thread.is_alive():
            self._note(f"--report-to {self._kind}: did not take every trial within {LAST_WAIT:.0f} s of the end")

    def add(self, trial: Trial) -> None:
        """To be reported soon; returns at once. What failed has no values to report."""
        if trial.state == "done":
            self._queue.put(trial)

    def _work(self) -> None:
        try:
            tracker = self._open()
            while (trial := self._queue.get()) is not None:
                tracker.report(trial.id, {f"{trial.stage}/{name}": float(v) for name, v in trial.values.items()})
            tracker.close()
        except Exception as error:  # any tool's own errors: the search must go on without it
            told = (str(error).splitlines() or [""])[0]
            self._note(
                f"--report-to {self._kind}: nothing more is reported ({type(error).__name__}: {told:.160}); the "
                "search goes on"
            )
