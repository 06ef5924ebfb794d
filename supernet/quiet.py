"""Silences for the length of a call what Hugging Face's libraries draw and log, and puts their settings back."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_datasets", "quiet_transformers"]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Transformers' bars and warnings."""
    from transformers.utils import logging as theirs

    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity(logging.ERROR)
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Datasets' bars and log lines."""
    import datasets
    from datasets.utils.logging import get_verbosity, set_verbosity

    level, bars = get_verbosity(), datasets.utils.are_progress_bars_disabled()
    set_verbosity(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()
