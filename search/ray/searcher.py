"""The ask/tell loop as a searcher of Ray Tune: `tune.TuneConfig(search_alg=Searcher(space, objectives=…))`.

Tune's own metric and mode hold one objective, so both stay unset; the searcher reads its objectives from what
`tune.report` gave last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from archrank.search.expression import Constraint
from archrank.search.objective import Objective
from archrank.search.storage import Log, write_atomic
from archrank.search.strategies.base import Strategy
from archrank.search.study import Study
from archrank.search.trial import Trial

if TYPE_CHECKING:
    from archrank.grammar import Derivation, Space

__all__ = ["Searcher", "SearcherError"]

SCHEMA = 1


class SearcherError(ValueError):
    """A trainable or a saved state that does not fit the searcher."""


class Searcher(tune.search.Searcher):  # type: ignore[misc]  # Ray has no types
    """Proposes sentences of a space to a Tune script: `config["text"]` is the candidate.

    space, objectives, strategy, seed, constraints, log: as for `Study`. Objectives are keys of `tune.report`'s
    dictionary. No sentence is proposed twice; one whose trial ends with an error is a failed trial of the study, and
    where the space is exhausted Tune is told so. `batch`: propose that many at a time, and the next ones when all of
    these have ended: then what is proposed depends on values alone and not on which trial was first.

    Give `max_concurrent_trials` to TuneConfig rather than wrapping this in a ConcurrencyLimiter. `Tuner.restore` brings
    the study back through `save` and `restore`: a JSON file, with what was asked and not yet told.
    """

    def __init__(
        self,
        space: Space,
        objectives: Sequence[str | Objective],
        strategy: str | Strategy = "nsga2",
        seed: int = 0,
        constraints: str | Sequence[str | Constraint] = (),
        log: Log | None = None,
        batch: int | None = None,
    ) -> None:
        if batch is not None and batch < 1:
            raise SearcherError(f"batch {batch}: must be at least 1")
        super().__init__(metric=None, mode=None)
        self.study = Study(space, objectives, strategy, seed, constraints, log)
        self._batch = batch
        self._asked: dict[str, Derivation] = {}  # by Tune's id, not yet told
        self._waiting: list[Derivation] = []  # of a batch, not yet handed out

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: Mapping[str, Any], **spec: Any
    ) -> bool:
        """Tune hands over what stands in TuneConfig and param_space; the objectives are the searcher's own."""
        if metric is not None or mode is not None:
            raise SearcherError(
                f"TuneConfig(metric={metric!r}, mode={mode!r}): leave both out, the searcher has its own objectives: "
                f"{', '.join(str(o.name) for o in self.study.objectives)}"
            )
        if config:
            raise SearcherError(
                f"param_space has {', '.join(map(repr, config))}: leave it out, the space is the searcher's; give "
                "constants to the trainable with tune.with_parameters"
            )
        return True

    def suggest(self, trial_id: str) -> dict[str, str] | str | None:
        """`{"text": sentence}`; None: not now; FINISHED where nothing new is left."""
        if self._batch is None:
            asked = self.study.ask(1)
        else:
            if not self._waiting and not self._asked:
                self._waiting = self.study.ask(self._batch)
            asked, self._waiting = self._waiting[:1], self._waiting[1:]
        if asked:
            self._asked[trial_id] = asked[0]
            return {"text": asked[0].text}
        return None if self._asked else str(self.FINISHED)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Tells the study; what was told already is left as it was."""
        d = self._asked.pop(trial_id, None)
        if d is None or self.study.knows(d):
            return
        if error or result is None:
            self.study.fail(d, "its Tune trial ended with an error; Tune keeps error.txt in the trial's folder")
            return
        names = [o.name for o in self.study.objectives] + [c.name for c in self.study.constraints]
        missing = [name for name in names if name not in result]
        if missing:
            given = ", ".join(k for k, v in result.items() if isinstance(v, int | float) and "/" not in k)
            raise SearcherError(f"tune.report gave no {missing[0]!r}, which the searcher needs; it gave: {given:.300}")
        values = {name: result[name] for name in names}
        self.study.tell(d, values, seconds=float(result.get("time_total_s", 0.0)))

    def save(self, checkpoint_path: str) -> None:
        """The study's trials and the proposals on the way, as JSON."""
        state = {
            "schema": SCHEMA,
            "trials": [t.to_json() for t in self.study.trials],
            "asked": {trial_id: [self.study.id_of(d), d.text] for trial_id, d in self._asked.items()},
            "waiting": [[self.study.id_of(d), d.text] for d in self._waiting],
        }
        write_atomic(Path(checkpoint_path), json.dumps(state).encode())

    def restore(self, checkpoint_path: str) -> None:
        """Takes in what `save` wrote; trials that the study knows already (from its log) stay as they are."""
        state = json.loads(Path(checkpoint_path).read_text())
        if state.get("schema") != SCHEMA:
            raise SearcherError(f"{checkpoint_path}: schema {state.get('schema')!r}; this program reads {SCHEMA}")
        space = self.study.space
        self.study.adopt([Trial.from_json(record) for record in state["trials"]])
        self._asked = {trial_id: space.parse(text) for trial_id, (_, text) in state["asked"].items()}
        self._waiting = [space.parse(text) for _, text in state["waiting"]]
        for number, text in [*state["asked"].values(), *state["waiting"]]:
            self.study.expect(space.parse(text), number)
