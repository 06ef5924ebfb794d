"""Which errors are a user's to mend, and the exit code of each."""

from __future__ import annotations

__all__ = ["ExportError", "NothingFeasible", "RunError", "SentenceError", "exit_code_of"]


class RunError(RuntimeError):
    """The run failed; what was finished is kept (exit code 1)."""


class NothingFeasible(ValueError):
    """No candidate meets the constraints (exit code 3)."""


class SentenceError(ValueError):
    """A sentence that cannot be read, or is none of the space (exit code 2)."""


class ExportError(RuntimeError):
    """An exported folder does not answer as the supernet does (exit code 4)."""


def exit_code_of(error: BaseException) -> int | None:
    """The exit code for an error that a message explains; None for a defect of ours, whose traceback is wanted.

    Every error class of archrank that is a ValueError speaks of bad input.
    """
    names = {cls.__name__ for cls in type(error).__mro__}
    if names & {"NothingFeasible", "EmptySpaceError"}:
        return 3
    if isinstance(error, ExportError) or names & {"ExportDiffers"}:
        return 4
    if names & {"Interrupted"}:
        return int(getattr(error, "code", 130))
    if isinstance(error, RunError) or names & {"StorageError", "NonFiniteLoss"}:
        return 1
    if isinstance(error, ValueError) and type(error).__module__.startswith("archrank."):
        return 2
    return None
