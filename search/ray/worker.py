"""What runs on a worker: a process that holds what is dear to send and answers batches of cheap questions."""

from __future__ import annotations

import platform
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

__all__ = ["Answer", "EvaluationWorker", "versions"]

PACKAGES = ("archrank", "torch", "transformers", "numpy")


def versions() -> dict[str, str]:
    """Those that the numbers of an evaluation depend on."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


@dataclass(frozen=True, slots=True)
class Answer:
    """Of one item: its value, or why there is none; `again`: whether another try may help."""

    value: Any
    seconds: float
    reason: str | None = None
    again: bool = False


class EvaluationWorker:
    """An actor. make(*parts) gives the function that is asked; the parts come from the object store."""

    def __init__(self, make: Callable[..., Callable[[Any], Any]], *parts: Any) -> None:
        self._ask = make(*parts)

    def hello(self) -> dict[str, str]:
        """Where it runs, and with which versions."""
        return {"node": socket.gethostname(), **versions()}

    def answer(self, items: Sequence[Any]) -> list[Answer]:
        """Each item in turn. Memory that runs out is an answer; any other error is the asker's to see."""
        return [self._one(item) for item in items]

    def _one(self, item: Any) -> Answer:
        began = time.monotonic()
        try:
            value = self._ask(item)
        except MemoryError as error:
            return Answer(None, time.monotonic() - began, _short(error), again=True)
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's; a worker need not have torch
                raise
            return Answer(None, time.monotonic() - began, _short(error), again=True)
        return Answer(value, time.monotonic() - began)


def _short(error: BaseException) -> str:
    told = (str(error).strip().splitlines() or [""])[0]
    return f"out of memory on {socket.gethostname()}{': ' if told else ''}{told:.200}"
