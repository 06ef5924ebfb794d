"""Finished trials copied to an Optuna storage, for optuna-dashboard and Optuna's own tools.

A thread copies them, off the search's path. A storage that cannot be reached is tried again, less and less often; the
search goes on, and what is missing is copied when the storage answers, at the latest by the next session.
"""

from __future__ import annotations

import queue
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from archrank.search.config import ConfigError
from archrank.search.trial import Trial

if TYPE_CHECKING:
    from archrank.search.study import Study

__all__ = ["Mirror", "NoMirror"]

MOST_SLOTS = 300  # decisions shown as parameters; a longer encoding is left out, the sentence stays
LAST_WAIT = 20.0  # seconds that the end of a search waits for the storage
_ID = "archrank_id"


class NoMirror:
    """Where no storage is asked for."""

    def add(self, trial: Trial) -> None:
        """Nothing."""


class Mirror(NoMirror):
    """`with Mirror(url, study, name, note) as mirror: mirror.add(trial)`; `note` tells the user."""

    def __init__(
        self, url: str, study: Study, name: str, note: Callable[[str], None], last_wait: float = LAST_WAIT
    ) -> None:
        if "://" not in url:
            raise ConfigError(
                f"--storage {url}: is no URL; write sqlite:///study.db, postgresql://…, mysql://… or journal:///FILE"
            )
        self._url, self._study, self._name, self._note = url, study, name, note
        self._queue: queue.Queue[Trial | None] = queue.Queue()
        self._last_wait, self._ending = last_wait, threading.Event()
        self._deadline = 0.0
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._slots: list[Any] | None = None
        self.missing = 0
        with suppress(ValueError):  # a recursive space has no flat encoding: the sentence alone is shown
            slots = study.space.encoding()
            self._slots = list(slots) if len(slots) <= MOST_SLOTS else None

    def __enter__(self) -> Mirror:
        """Starts the thread."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits a while for what is not copied yet."""
        self._deadline = time.monotonic() + self._last_wait
        self._ending.set()
        self._queue.put(None)
        while self._thread.is_alive() and time.monotonic() < self._deadline + 5:
            self._thread.join(0.1)
        left = self.missing + sum(t is not None for t in list(self._queue.queue))
        if left:
            self._note(
                f"--storage: {left} trials are not copied; the storage did not answer. The next session catches up"
            )

    def add(self, trial: Trial) -> None:
        """To be copied soon; returns at once."""
        self._queue.put(trial)

    def _work(self) -> None:
        waiting: list[Trial] = []
        target: _Target | None = None
        pause, told = 1.0, False
        ended = False
        while True:
            if not ended and (not waiting or not self._queue.empty()):
                item = self._queue.get()
                ended = item is None
                if item is not None:
                    waiting.append(item)
                if not self._queue.empty():
                    continue
            self.missing = len(waiting)
            if not waiting and ended:
                return
            try:
                target = target or _Target(self._url, self._name, self._study, self._slots)
                while waiting:
                    target.copy(waiting[0])
                    waiting.pop(0)
                    self.missing = len(waiting)
                    # as long as it answers, however slowly, it is waited for
                    self._deadline = max(self._deadline, time.monotonic() + self._last_wait)
                pause = 1.0
            except Exception as error:  # any driver's own errors: the search must go on without the storage
                target = None
                if not told:
                    self._note(f"--storage: {self._shown()} cannot be reached ({_first(error)}); the search goes on")
                    told = True
                if ended and time.monotonic() + pause > self._deadline:
                    return
                self._ending.wait(pause) if not ended else time.sleep(pause)
                pause = min(2 * pause, 60.0) if not ended else 1.0

    def _shown(self) -> str:
        """The URL without a password."""
        head, _, rest = self._url.partition("://")
        return f"{head}://{rest.rpartition('@')[2]}"


def _first(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]


class _Target:
    """A study in the storage, and which trials it holds."""

    def __init__(self, url: str, name: str, study: Study, slots: list[Any] | None) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._objectives, self._space, self._slots = study.objectives, study.space, slots
        directions = ["minimize" if o.direction == "min" else "maximize" for o in study.objectives]
        self._study = optuna.create_study(
            storage=_storage(url), study_name=name, directions=directions, load_if_exists=True
        )
        if [d.name.lower() for d in self._study.directions] != directions:
            raise ConfigError(f"the study {name!r} there has other directions")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.set_metric_names([o.name for o in study.objectives])
        self._constrained = bool(study.constraints)
        self._held = {t.user_attrs.get(_ID) for t in self._study.get_trials(deepcopy=False)}

    def copy(self, trial: Trial) -> None:
        """Adds a trial that is not there."""
        if trial.id in self._held:
            return
        import optuna

        values = [trial.values.get(o.name) for o in self._objectives]
        whole = trial.state in ("done", "infeasible") and None not in values
        told: dict[str, Any] = {
            "state": optuna.trial.TrialState.COMPLETE if whole else optuna.trial.TrialState.FAIL,
            "values": values if whole else None,
            "user_attrs": {
                _ID: trial.id,
                "text": trial.text[:2000],
                "stage": trial.stage,
                **{k: v for k, v in trial.values.items() if k not in {o.name for o in self._objectives}},
                **({"reason": trial.reason[:500]} if trial.reason else {}),
            },
            **self._parameters(trial),
        }
        if trial.state == "infeasible":
            violation = trial.extra.get("violation", 1.0)
            told["system_attrs"] = {"constraints": [max(float(str(violation)), 1e-12)]}
        elif whole and self._constrained:
            told["system_attrs"] = {"constraints": [0.0]}
        self._study.add_trial(optuna.trial.create_trial(**told))
        self._held.add(trial.id)

    def _parameters(self, trial: Trial) -> dict[str, Any]:
        if not self._slots:
            return {}
        import optuna

        try:
            codes = self._space.encode(self._space.parse(trial.text))
        except ValueError:  # told from outside, not of this space
            return {}
        spaces = {s.name: optuna.distributions.CategoricalDistribution(_unlike(s.choices)) for s in self._slots}
        chosen = {s.name: _unlike(s.choices)[c] for s, c in zip(self._slots, codes, strict=True)}
        return {"params": chosen, "distributions": spaces}


def _unlike(labels: tuple[str, ...]) -> tuple[str, ...]:
    """Labels told apart where two are the same."""
    if len(set(labels)) == len(labels):
        return labels
    return tuple(f"{label} ({i})" for i, label in enumerate(labels))


def _storage(url: str) -> Any:
    import optuna

    scheme, _, rest = url.partition("://")
    if scheme == "journal":
        backend = optuna.storages.journal.JournalFileBackend(rest)
        return optuna.storages.JournalStorage(backend)
    return optuna.storages.RDBStorage(url, skip_table_creation=False)
