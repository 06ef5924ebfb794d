"""A run without a folder, from trials that a test makes up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from archrank import grammar
from archrank.grammar import Space
from archrank.search.config import RunConfig
from archrank.search.results import Run
from archrank.search.storage import Contents
from archrank.search.trial import Trial

TEXT = (
    'start: "d" DEPTH op op op\nDEPTH: "1" | "2" | "4" | "8"\nop: "conv" -> conv | "pool" -> pool | "skip" -> skip\n'
    "%ignore /\\s+/\n"
)


@pytest.fixture(scope="session")
def space() -> Space:
    """A depth and three ops: 108 candidates."""
    return grammar.loads(TEXT)


@pytest.fixture
def run_of() -> Callable[..., Run]:
    """`run_of(space, trials, objectives, worst)`: keys are those of the sentences, `worst` the reference point."""

    def made(
        space: Space,
        trials: Sequence[Trial],
        objectives: Sequence[str] = ("loss:min", "flops:min"),
        worst: Mapping[str, float] | None = None,
        where: tuple[str, ...] = (),
    ) -> Run:
        keyed = [replace(t, key=space.parse(t.text).key) for t in trials]
        header = {"objectives": list(objectives), "sites": {}, "constants": {}, "space": space.name, "kind": "function"}
        events = [{"event": "reference", "values": dict(worst)}] if worst else []
        return Run(Path(), RunConfig(where=where), Contents(header, keyed, events, ()), space)

    return made
