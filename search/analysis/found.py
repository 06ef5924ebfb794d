"""All findings of one run, as its report shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from archrank.grammar import Derivation, SpaceError
from archrank.predictors.metrics import spearman
from archrank.search.analysis.device_fronts import device_fronts
from archrank.search.analysis.features import Columns, decisions, productions
from archrank.search.analysis.importance import importance
from archrank.search.analysis.lineage import Lineages
from archrank.search.analysis.trained_front import trained_front
from archrank.search.report.findings import Feature, Findings, Importance
from archrank.search.results import Run
from archrank.search.trial import Trial

__all__ = ["features_of", "findings_of", "importances_of", "read_candidates"]

FEATURES = 5
"""Axes of the parallel coordinates beside the objectives."""
MOST = 4000
"""Candidates whose sentences are read, drawn evenly over the search where there are more: about a millisecond each."""

Candidates = Mapping[str, Derivation]


def findings_of(run: Run, chosen: Sequence[int]) -> tuple[Findings, str]:
    """All that the log tells, and a warning where its sentences cannot be read ("": they can); lineages of `chosen`."""
    try:
        read = read_candidates(run, chosen)
    except (SpaceError, OSError) as error:
        warning = f"{run.path / 'space.lark'} cannot be read, so what rests on derivations is left out: {error}"
        return Findings(trained_front(run), device_fronts=device_fronts(run)), warning
    lines = Lineages(run, read)
    found = Findings(
        trained_front(run),
        features_of(run, read),
        importances_of(run, read),
        [lines.of(i) for i in chosen if lines.knows(i)],
        device_fronts(run),
    )
    return found, ""


def read_candidates(run: Run, chosen: Sequence[int] = ()) -> Candidates:
    """{key: candidate} of the trials that are done, of at most MOST and of the chosen ones. One that the space does not
    have, told from outside, is left out.
    """
    space = run.space
    done = {t.key: t for t in run.trials if t.state == "done"}
    keys = list(done)
    if len(keys) > MOST:
        kept = {keys[i] for i in np.linspace(0, len(keys) - 1, MOST).round().astype(int)}
        kept |= {t.key for t in run.trials if t.id in set(chosen)}
        keys = [k for k in keys if k in kept]
    found: dict[str, Derivation] = {}
    for key in keys:
        try:
            found[key] = space.parse(done[key].text)
        except SpaceError:
            continue
    return found


def _first(run: Run, read: Candidates) -> tuple[list[Trial], list[Derivation]]:
    """The trials with full values at the first stage, and their candidates."""
    trials = [t for t in run.trials if t.stage == "inherited" and t.state == "done" and not t.raced and t.key in read]
    trials = [t for t in trials if all(o.name in t.values for o in run.objectives)]
    return trials, [read[t.key] for t in trials]


def importances_of(run: Run, read: Candidates) -> list[Importance]:
    """Of each objective, by decision where the space unrolls, and by production."""
    trials, candidates = _first(run, read)
    kinds = [("decision", decisions(run.space, candidates)), ("production", productions(run.space, candidates))]
    return [
        importance(o.name, by, columns, [t.values[o.name] for t in trials])
        for o in run.objectives
        for by, columns in kinds
        if columns is not None
    ]


def features_of(run: Run, read: Candidates) -> list[Feature]:
    """Of the decisions with one number and the productions' counts those that go most with the quality, in either
    direction (Spearman's ρ), at most FEATURES.
    """
    trials, candidates = _first(run, read)
    if len(trials) < 3:
        return []
    quality = [t.values[run.objectives[0].name] for t in trials]
    known = [columns for columns in (decisions(run.space, candidates), productions(run.space, candidates)) if columns]
    found = [column for columns in known for column in _single(columns)]
    found.sort(key=lambda pair: -abs(np.nan_to_num(spearman(quality, pair[1]))))
    return [
        Feature(name, dict(zip((t.id for t in trials), map(float, values), strict=True)))
        for name, values in found[:FEATURES]
    ]


def _single(columns: Columns) -> list[tuple[str, Sequence[float]]]:
    return [(n, columns.x[:, g[0]].tolist()) for n, g in zip(columns.names, columns.groups, strict=True) if len(g) == 1]
