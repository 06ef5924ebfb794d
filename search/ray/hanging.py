"""Trainings that hang. One that makes its steps gives up by itself (`TrialTimeout`); one that makes none cannot, so its
process is ended from outside, or by a thread of its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["GRACE_SECONDS", "lost_because", "patience", "watched"]

GRACE_SECONDS = 60.0
"""What a worker may need beside its training: to build the network, to read the rows, to score."""


def patience(limit: float | None) -> float:
    """Seconds of silence after which a training counts as hanging; limit: --trial-timeout, without which none does."""
    return float("inf") if limit is None else limit + GRACE_SECONDS


def lost_because(limit: float | None, times: int) -> str:
    """Why a trial that was begun so often has no values."""
    silent = "" if limit is None else f", or made no step for {patience(limit):g} s (--trial-timeout)"
    return f"its training was lost {times} times: each time its process died{silent}"


@contextmanager
def watched(seconds: float) -> Iterator[Callable[[], None]]:
    """Ends the process where the function that is given was not called for so long."""
    if seconds == float("inf"):
        yield lambda: None
        return
    bell, over = threading.Event(), threading.Event()

    def watch() -> None:
        while not over.is_set():
            if not bell.wait(seconds):
                os._exit(1)
            bell.clear()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield bell.set
    finally:
        over.set()
        bell.set()
