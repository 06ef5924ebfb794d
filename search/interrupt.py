"""SIGTERM and Ctrl-C end a run at a safe point, not in the middle of a write."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

__all__ = ["Interrupted", "Interrupts"]

_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}
_WORDS = {75: "stopped by SIGTERM", 130: "interrupted"}


class Interrupted(Exception):
    """The run was told to end; `code` is the exit code: 75 resumable stop, 130 Ctrl-C."""

    def __init__(self, code: int, message: str | None = None) -> None:
        self.code = code
        super().__init__(message or _WORDS.get(code, f"stopped ({code})"))


class Interrupts:
    """Within `with Interrupts() as stop:`, a signal is noted and `stop.check()` raises Interrupted at the
    next safe point.

    A second Ctrl-C raises KeyboardInterrupt at once. The old handlers come back at the end. Outside the main
    thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        self._old: dict[signal.Signals, object] = {}

    def __enter__(self) -> Interrupts:
        """Installs the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._old = {s: signal.signal(s, self._note) for s in _CODES}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restores the handlers."""
        for s, old in self._old.items():
            signal.signal(s, old if old is not None else signal.SIG_DFL)  # type: ignore[arg-type]
        self._old = {}

    def check(self) -> None:
        """The safe point; raises Interrupted where a signal has come."""
        if self.code is not None:
            raise Interrupted(self.code)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.code == _CODES[signal.SIGINT]:
            raise KeyboardInterrupt
        if self.code is None or number == signal.SIGINT:
            self.code = _CODES[signal.Signals(number)]
