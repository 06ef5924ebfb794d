"""Which decisions and productions matter: grouped permutation importance of a cross-fitted random forest.

The trials are split into FOLDS parts; a forest (Breiman 2001) grown on the others predicts each part, once as it is and
once for each feature with that feature's values shuffled among the part's trials, SHUFFLES times:

    importance = mean_i [ (y_i − f(x_i with the feature shuffled))² − (y_i − f(x_i))² ] / variance of y

0: as good as not knowing the feature; 1: shuffling costs as much as the objective varies. The interval is Student's t
over the trials (95 %) of the terms, the forests taken as they are: it says what other held-out trials could have shown,
not what another search would have tried. Features that always go together share their importance.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from archrank.search.analysis.features import Columns
from archrank.search.report.findings import Importance

__all__ = ["FEWEST", "importance"]

FEWEST = 40
FOLDS = 5
SHUFFLES = 4
TREES = 64
MOST = 600
"""Trials that are looked at, drawn evenly over the search where there are more: what bounds the time of a report."""
CELLS = 4_000_000
"""Numbers that are predicted from at a time."""
Array = NDArray[np.float64]


def importance(objective: str, by: str, columns: Columns, values: Sequence[float], seed: int = 0) -> Importance:
    """Of each feature of `columns` for the candidates' values (n,) of an objective; refused where none can be told."""
    y = np.asarray(values, dtype=np.float64)
    if refused := _refused(columns, y):
        return Importance(objective, by, trials=len(y), refused=refused)
    if len(y) > MOST:
        kept = np.linspace(0, len(y) - 1, MOST).round().astype(int)
        columns, y = Columns(columns.names, columns.x[kept], columns.groups), y[kept]
    plain, shuffled = _errors(columns, y, np.random.default_rng(seed))
    r2 = float(1 - plain.mean() / y.var())
    if r2 <= 0:
        said = (
            f"A forest grown on the {len(y)} trials predicts held-out ones no better than their mean does: nothing can "
            "be said about what matters."
        )
        return Importance(objective, by, r2=r2, trials=len(y), refused=said)
    from scipy.stats import t

    gain = (shuffled - plain[:, None]) / y.var()
    mean = gain.mean(axis=0)
    half = gain.std(axis=0, ddof=1) / np.sqrt(len(y)) * float(t.ppf(0.975, len(y) - 1))
    order = np.argsort(-mean, kind="stable")
    names = [columns.names[i] for i in order]
    share, low, high = (column[order].tolist() for column in (mean, mean - half, mean + half))
    return Importance(objective, by, names, share, low, high, r2, len(y))


def _refused(columns: Columns, y: Array) -> str:
    if len(y) < FEWEST:
        return (
            f"{len(y)} trial{'s have' if len(y) != 1 else ' has'} a full value at the first stage: too few to tell "
            f"what matters; at least {FEWEST} are needed."
        )
    if not columns.names:
        return "The trials do not differ in any of these."
    return "All trials have the same value." if np.ptp(y) == 0 else ""


def _errors(columns: Columns, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """(n,) squared errors of held-out predictions, and (n, features) those with a feature shuffled, the mean over the
    shuffles.
    """
    from sklearn.ensemble import RandomForestRegressor

    plain, shuffled = np.zeros(len(y)), np.zeros((len(y), len(columns.groups)))
    folds = rng.permutation(len(y)) % FOLDS
    for fold in range(FOLDS):
        out = folds == fold
        x = columns.x[out]
        forest = RandomForestRegressor(
            TREES, min_samples_leaf=2, max_features=0.5, random_state=int(rng.integers(2**31))
        )
        forest.fit(columns.x[~out], y[~out])
        plain[out] = (y[out] - forest.predict(x)) ** 2
        at_once = max(1, CELLS // (SHUFFLES * x.size))
        for first in range(0, len(columns.groups), at_once):
            some = columns.groups[first : first + at_once]
            stack = np.tile(x, (len(some), SHUFFLES, 1, 1))
            for group, copies in zip(some, stack, strict=True):
                for copy in copies:
                    copy[:, group] = x[rng.permutation(len(x))][:, group]
            told = forest.predict(stack.reshape(-1, x.shape[1])).reshape(len(some), SHUFFLES, len(x))
            shuffled[out, first : first + len(some)] = ((y[out] - told) ** 2).mean(axis=1).T
    return plain, shuffled
