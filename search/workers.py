"""A Python function on many candidates at once, in processes that can be killed when they hang.

Workers are forked, so that any function will do; questions and answers are JSON on pipes. One that hangs or dies is
replaced. They end with their parent, however that ends.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from archrank.search.config import ConfigError

if TYPE_CHECKING:
    from archrank.grammar import Derivation

__all__ = ["Answer", "Evaluate", "Here", "Workers", "call", "pool"]

Evaluate = Callable[["Derivation"], Mapping[str, float]]
_PDEATHSIG = 1  # prctl's option number on Linux
_POLL = 0.2  # seconds between two looks at deadlines and signals


@dataclass(frozen=True)
class Answer:
    """What came of one candidate: values, or the reason why there are none; wall seconds."""

    values: Mapping[str, float] | None
    reason: str
    seconds: float


def call(evaluate: Evaluate, d: Derivation) -> Answer:
    """The function's answer here and now; what it raises becomes the reason."""
    began = time.monotonic()
    try:
        values = evaluate(d)
    except Exception as error:  # whatever a user's function raises is that candidate's failure, not the search's
        reason = f"{type(error).__name__}: {error}"[:500]
        return Answer(None, reason, time.monotonic() - began)
    if not isinstance(values, Mapping):
        raise ConfigError(
            f"evaluate() gave {values!r:.60}; it gives a dict of numbers by name, such as {{'error': 0.1}}"
        )
    return Answer(values, "", time.monotonic() - began)


class Here:
    """No processes: one candidate after the other."""

    def __init__(self, evaluate: Evaluate) -> None:
        self._evaluate = evaluate

    def __enter__(self) -> Here:
        """Nothing to start."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to end."""

    def answers(
        self, candidates: Sequence[Derivation], check: Callable[[], None]
    ) -> Iterator[tuple[Derivation, Answer]]:
        """Each candidate with its answer; `check` is called between them and may raise."""
        for d in candidates:
            check()
            yield d, call(self._evaluate, d)


class _Worker:
    def __init__(self, evaluate: Evaluate, others: Sequence[_Worker]) -> None:
        to_read, self.write = os.pipe()
        self.read, to_write = os.pipe()
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            # the ends of all other pipes belong to the parent: held open here, a death would go unnoticed
            for end in [self.write, self.read, *(e for w in others for e in (w.write, w.read))]:
                os.close(end)
            _serve(evaluate, to_read, to_write, parent)
        os.close(to_read)
        os.close(to_write)
        self.task: tuple[int, Derivation] | None = None
        self.began = 0.0
        self.data = b""

    def give(self, place: int, d: Derivation) -> None:
        self.task, self.began, self.data = (place, d), time.monotonic(), b""
        message = json.dumps([d.text, d.key, list(d.choices)]).encode() + b"\n"
        with suppress(BrokenPipeError):  # it died waiting; its pipe's end says so
            while message:
                message = message[os.write(self.write, message) :]

    def kill(self) -> int:
        """Ends it; the signal or exit code that it ended with."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.read)
        os.close(self.write)
        return os.waitstatus_to_exitcode(status)


def _serve(evaluate: Evaluate, read: int, write: int, parent: int) -> None:
    """The worker's life: a line in, a line out. Never returns."""
    from archrank.grammar import Derivation

    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
        with os.fdopen(read, "rb") as questions:
            for line in questions:
                text, key, choices = json.loads(line)
                try:
                    told = call(evaluate, Derivation(text, key, tuple(choices)))
                    values = None if told.values is None else {str(k): _number(v) for k, v in told.values.items()}
                    answer: list[object] = [values, told.reason]
                except ConfigError as error:
                    answer = [{}, f"\0{error}"]
                data = json.dumps([*answer]).encode() + b"\n"
                while data:
                    data = data[os.write(write, data) :]
        code = 0
    finally:
        os._exit(code)


def _number(value: object) -> object:
    """A number as JSON has it; anything else as text, which the study refuses with its name."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    try:
        return float(value) if not isinstance(value, str | bytes | bool) else repr(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return repr(value)[:80]


class Workers:
    """`count` processes; with `timeout` seconds for each candidate, None for no limit."""

    def __init__(self, evaluate: Evaluate, count: int, timeout: float | None) -> None:
        self._evaluate, self._count, self._timeout = evaluate, count, timeout
        self._all: list[_Worker] = []

    def __enter__(self) -> Workers:
        """Starts them."""
        for _ in range(self._count):
            self._all.append(_Worker(self._evaluate, self._all))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends them, whatever they are at."""
        for worker in self._all:
            worker.kill()
        self._all = []

    def answers(
        self, candidates: Sequence[Derivation], check: Callable[[], None]
    ) -> Iterator[tuple[Derivation, Answer]]:
        """Each candidate with its answer, as they come; `check` is called several times a second and may raise."""
        waiting = list(enumerate(candidates))[::-1]
        busy: list[_Worker] = []
        while waiting or busy:
            for worker in self._all:
                if waiting and worker.task is None:
                    worker.give(*waiting.pop())
                    busy.append(worker)
            check()
            for worker in self._ready(busy):
                answer = self._answer(worker)
                if answer is None:
                    continue
                assert worker.task is not None
                d = worker.task[1]
                busy.remove(worker)
                worker.task = None
                yield d, answer
                if worker.pid < 0:
                    self._all[self._all.index(worker)] = _Worker(
                        self._evaluate, [w for w in self._all if w is not worker]
                    )

    def _ready(self, busy: Sequence[_Worker]) -> list[_Worker]:
        """Those that said something or are past their deadline."""
        now = time.monotonic()
        rest = [self._timeout - (now - w.began) for w in busy if self._timeout is not None]
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                selector.register(worker.read, selectors.EVENT_READ, worker)
            found = [key.data for key, _ in selector.select(max(0.0, min([_POLL, *rest])))]
        return found + [w for w in busy if w not in found and self._late(w)]

    def _late(self, worker: _Worker) -> bool:
        return self._timeout is not None and time.monotonic() - worker.began >= self._timeout

    def _answer(self, worker: _Worker) -> Answer | None:
        """What a worker said; None where its line is not whole yet. One that is late or dead is buried: pid -1."""
        seconds = time.monotonic() - worker.began
        with selectors.DefaultSelector() as selector:
            selector.register(worker.read, selectors.EVENT_READ)
            data = os.read(worker.read, 1 << 16) if selector.select(0) else None
        if data:
            worker.data += data
            if not worker.data.endswith(b"\n"):
                return None
            values, reason = json.loads(worker.data)
            if reason.startswith("\0"):
                raise ConfigError(reason[1:])
            return Answer(values, reason, seconds)
        code = worker.kill()
        worker.pid = -1
        if data is None:
            return Answer(None, f"no answer within {self._timeout:g} s (trial_timeout)", seconds)
        ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return Answer(None, f"the process that evaluated it ended with {ended}", seconds)


def pool(evaluate: Evaluate, workers: int, timeout: float | None) -> Here | Workers:
    """Processes where they are needed: for several workers, or to end what takes too long."""
    if workers < 1:
        raise ConfigError(f"workers={workers}: must be at least 1")
    if timeout is not None and not timeout > 0:
        raise ConfigError(f"trial_timeout={timeout}: must be above 0 seconds")
    if workers == 1 and timeout is None:
        return Here(evaluate)
    if not hasattr(os, "fork"):
        raise ConfigError("workers and trial_timeout need a system that forks processes (Linux, macOS)")
    return Workers(evaluate, workers, timeout)
