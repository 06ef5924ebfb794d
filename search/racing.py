"""When the search stops reading rows for a candidate: once no row that is left could change anything.

No row's loss is negative, so a candidate's loss on the rows that it has seen is a lower bound of its loss, and its
wrong answers one of its error. It is stopped when with these bounds in place of its values

- a candidate that has seen every row dominates it: it is on no front of inherited values; and
- `keep` such candidates of its stratum come before it in the first objective: it is not promoted (candidates.py).

Both are certain, whatever the rows that are left, so front and promotion are those of a search that reads all
(supernet/racing.py has the race without strata). What is told is an estimate, marked `raced` in the log.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from archrank.search.objective import Objective
from archrank.search.strata import Strata
from archrank.search.trial import Trial
from archrank.supernet.evaluation import read_in_turn, read_population
from archrank.supernet.tasks import inputs_of

if TYPE_CHECKING:
    from archrank.search.job import Job

__all__ = ["MEASURED", "Rivals", "Scored", "Scorer"]

MEASURED = ("loss", "accuracy")
LOOKS = 10
LARGEST_BLOCK = 256
"""Rows of one forward."""
PILOTS = 5

Hopeless = Callable[[Mapping[str, float]], int | None]
"""(best values that the candidate can still have) -> the trial that settles it, None to go on."""


@dataclass(frozen=True)
class Scored:
    """Loss and accuracy of one candidate; `by`: the trial that settled it after `rows` of `of` rows."""

    values: Mapping[str, float]
    rows: int
    of: int
    by: int | None = None

    @property
    def extra(self) -> dict[str, object]:
        """What the log says of an early stop."""
        return {} if self.by is None else {"raced": {"rows": self.rows, "of": self.of, "by": self.by}}


class Rivals:
    """The candidates of a search that have seen every row. Inherited trials that were told; `keep`: how many of
    each stratum may be promoted.
    """

    def __init__(self, strata: Strata, objectives: tuple[Objective, ...], keep: Sequence[int]) -> None:
        self._strata, self._objectives, self._keep = strata, objectives, keep
        self._whole: list[tuple[int, tuple[float, ...]]] = []
        self._first: list[list[float]] = [[] for _ in range(len(strata))]

    def add(self, trial: Trial) -> None:
        """Takes in a trial; one that is no rival is passed over."""
        if trial.stage != "inherited" or trial.state != "done" or trial.raced:
            return
        values = self._minimised(trial.values)
        self._whole.append((trial.id, values))
        insort(self._first[self._strata.place(trial)], values[0])

    def against(self, cost: Mapping[str, float]) -> Hopeless:
        """The verdict on a candidate of these costs."""
        place = self._strata.stratum_of(cost["adapter_params"])
        peers, keep = self._first[place], self._keep[place]
        bar = peers[keep - 1] if len(peers) >= keep else None

        def hopeless(best: Mapping[str, float]) -> int | None:
            values = self._minimised({**best, **cost})
            if bar is None or not values[0] > bar:
                return None
            return next((i for i, rival in self._whole if _dominates(rival, values)), None)

        return hopeless

    def _minimised(self, values: Mapping[str, float]) -> tuple[float, ...]:
        return tuple(o.sign * values[o.name] for o in self._objectives)


def _dominates(rival: tuple[float, ...], values: tuple[float, ...]) -> bool:
    return rival != values and all(r <= v for r, v in zip(rival, values, strict=True))


class Scorer:
    """Prices candidates with inherited weights on the same rows, hardest first.

    Hard is what pilots, sub-networks of one rank in all modules, lose on a row on average; how their loss is spread
    over the rows also gives the estimate for a candidate that was stopped, on the high side. Both are functions of the
    weights and the data, so a resumed search has the same.
    """

    def __init__(self, job: Job) -> None:
        assert job.config.evaluate_dtype is not None
        self._job, self._dtype = job, job.config.evaluate_dtype
        index = np.arange(job.data.size("validation"))
        if len(index) > job.config.eval_rows:
            index = np.sort(np.random.default_rng(0).permutation(len(index))[: job.config.eval_rows])
        pilots = self._pilots(index)
        order = torch.argsort(pilots.mean(0)[:, 0], descending=True, stable=True)
        size = max(1, min(-(-len(index) // LOOKS), LARGEST_BLOCK))
        self.rows = len(index)
        self._labelled = [self._batch(index[part.numpy()]) for part in torch.split(order, size)]
        self._inputs = [inputs_of(batch) for batch in self._labelled]
        sums = pilots[:, order].cumsum(1)
        ends = np.minimum(np.arange(1, len(self._labelled) + 1) * size, len(index)) - 1
        self._ends = ends + 1
        self._count = float(sums[0, -1, 2])
        wrong = sums[..., 2] - sums[..., 1]
        self._share = [_share(column, ends) for column in (sums[..., 0], wrong)]

    def score(self, ranks: Mapping[str, int], hopeless: Hopeless | None = None) -> Scored:
        """Mean loss and accuracy of a sub-network, from the first layer in which it differs from one that was scored
        before; stopped where `hopeless` says so.
        """
        loss = correct = count = 0.0
        with closing(read_in_turn(self._job.net, ranks, self._inputs, self._read, "auto", self._dtype)) as told:
            for k, (more_loss, more_correct, more_count) in enumerate(told):
                loss, correct, count = loss + more_loss, correct + more_correct, count + more_count
                rows, wrong = int(self._ends[k]), count - correct
                if hopeless is None or rows == self.rows:
                    continue
                by = hopeless({"loss": loss / self._count, "accuracy": 1 - wrong / self._count})
                if by is not None:
                    wrong = min(wrong / self._share[1][k], wrong + self._count - count)
                    values = {"loss": loss / self._share[0][k] / self._count, "accuracy": 1 - wrong / self._count}
                    return Scored(values, rows, self.rows, by)
        return Scored({"loss": loss / count, "accuracy": correct / count}, self.rows, self.rows)

    def _read(self, answer: Any, place: int) -> tuple[float, float, float]:
        totals = self._job.task.totals(answer.logits, self._labelled[place])
        return totals.loss, totals.correct, totals.count

    def _pilots(self, index: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
        """`(pilots, rows, 3)` sums of each row's loss, right answers and answers asked for."""
        net, ranks = self._job.net, sorted({r for r in self._job.space.ranks if r > 0})
        picked = {ranks[i] for i in np.linspace(0, len(ranks) - 1, min(PILOTS, len(ranks))).round().astype(int)}
        configs = [{n: min(r, a.rank) for n, a in net.items()} for r in sorted(picked)]
        batches = [self._batch(index[i : i + LARGEST_BLOCK]) for i in range(0, len(index), LARGEST_BLOCK)]
        inputs = [inputs_of(batch) for batch in batches]
        told = read_population(
            net, configs, inputs, lambda a, i: self._job.task.row_totals(a.logits, batches[i]), "auto", self._dtype
        )
        return torch.stack([torch.cat(each) for each in told])

    def _batch(self, index: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, Tensor]:
        device = next(self._job.net.base.parameters()).device
        return {k: v.to(device) for k, v in self._job.data.batch("validation", index).items()}


def _share(sums: Tensor, ends: np.ndarray[Any, np.dtype[np.int64]]) -> list[float]:
    """What part of its sum the pilot with the most evenly spread one has in the blocks up to each.

    The others' would call a candidate that was stopped better than it is (by a tenth in the mean of all), and a
    strategy would take it for a parent. sums `(pilots, rows)`.
    """
    totals = sums[:, -1:]
    parts = torch.where(totals > 0, sums / totals, 1.0)[:, ends].amin(0)
    return [p if 0 < p <= 1 else 1.0 for p in parts.tolist()]
