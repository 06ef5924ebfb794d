"""The phases of a search over ensembles: head, importances, whole, supernet, search, finalists.

The supernet trains the whole encoder for the steps of a full fine-tune, then for as many one sampled ensemble a step
(ensemble_evaluator.py), in as many parts as the space is shrunk, plus one; after each part but the last, ensembles are
scored and the worst options leave (space_shrinking.py). Candidates are scored with the shared weights; finalists are
cut out, their adapters and heads are trained, and they are tested once.
"""

from __future__ import annotations

import time
from pathlib import Path

from archrank.grammar import Derivation, EnsembleChoice, Space
from archrank.search.encoder_job import tuned_parameters
from archrank.search.encoder_run import SUPERNET_FILE, EncoderPhases, Finalist
from archrank.search.ensemble_job import EnsembleJob, values_of
from archrank.search.space_shrinking import dropped_productions, record, shrink_event
from archrank.search.study import Study
from archrank.supernet.checkpoint import Checkpoint
from archrank.supernet.ensemble_evaluator import EnsembleScore, coinciding_message
from archrank.supernet.ensembles import ensemble, fine_tune
from archrank.supernet.space_shrinking import option_scores, sampled, shrunk
from archrank.supernet.training import Tick, TrainPlan

__all__ = ["EnsemblePhases"]


class EnsemblePhases(EncoderPhases):
    """One pass over the phases."""

    job: EnsembleJob

    def __init__(self, job: EnsembleJob, path: Path) -> None:
        super().__init__(job, path)
        self.job = job

    # -- supernet ---------------------------------------------------------------------------------------------------

    def _supernet(self) -> None:
        """The whole, then parts with the space shrunk between them; the space of the study is what is left."""
        job, space, done = self.job, self.job.space, self._shared()
        rounds = job.config.shrink_rounds
        for part in range(rounds + 1):
            if part >= done:
                first, last = (job.train_steps * k // (rounds + 1) for k in (part, part + 1))
                self._part(part, last - first, space)
            if part < rounds:
                space = self._shrunk(part, space)
        job.net.eval()
        self.study = Study(
            space, job.objectives, job.config.strategy, job.config.seed, constraints=job.constraints, log=self.log
        )

    def _part(self, part: int, steps: int, space: Space) -> None:
        job, seed = self.job, self.job.config.seed + 100 * part

        def training(plan: TrainPlan, checkpoint: Checkpoint, tick: Tick) -> float:
            return job.evaluator.train(
                job.batches(seed), plan, space=space, accept=self._taken, parameters=tuned_parameters(job),
                checkpoint=checkpoint, tick=tick,
            )  # fmt: skip

        purpose = f"supernet {part + 1} of {job.config.shrink_rounds + 1}"
        self._keep(SUPERNET_FILE, f"supernet {part + 1}", self._trained(purpose, steps, seed, training), part + 1)

    def _taken(self, d: Derivation) -> bool:
        """Whether a candidate keeps the constraints."""
        return not self.job.constraints or self._refused(self._cost(d))[0] is None

    def _apart(self, d: Derivation) -> bool:
        return self._taken(d) and not self.job.members(d).coinciding

    def _shrunk(self, part: int, space: Space) -> Space:
        """The space after a round: what the log says of it, else scored now."""
        saved = shrink_event(self.log, part)
        recipe, began = self.job.recipe, time.monotonic()
        assert recipe is not None
        if saved is None:
            self.progress.phase(f"shrinking {part + 1} of {recipe.rounds}")

            def score(d: Derivation) -> tuple[float, float]:
                told = self.job.inherited(self.job.members(d))
                self._pause()
                return told.loss, told.diversity

            found = sampled(space, score, recipe.samples, (self.job.config.seed, 31, part), self._apart)
            smaller, scores = shrunk(space, option_scores(space, found, recipe), self._apart)
            gone = record(self.log, part, recipe, scores, time.monotonic() - began)
            self.progress.note(f"left the space: {', '.join(gone) or 'nothing'}")
            return smaller
        return space.without(dropped_productions(saved))

    # -- search and finalists ---------------------------------------------------------------------------------------

    def _evaluate(self, d: Derivation) -> None:
        """One candidate: its price, and where that meets the constraints its inherited values."""
        began, job = time.monotonic(), self.job
        choice = job.members(d)
        cost = job.price_members(choice)
        reason, _ = self._refused(cost)
        if choice.coinciding and not reason:
            reason = f"{coinciding_message(choice.coinciding, choice.split)}: the same answer for less is one of them"
        if reason:
            self.study.tell(d, cost, seconds=time.monotonic() - began, infeasible=reason)
            return
        told = job.inherited(choice)
        extra = _extra(choice, told)
        self.study.tell(d, values_of(told) | cost, seconds=time.monotonic() - began, extra=extra)

    def _cost(self, d: Derivation) -> dict[str, float]:
        """What a candidate costs."""
        return self.job.price_members(self.job.members(d))

    def _finalist(self, d: Derivation) -> Finalist:
        """A candidate cut out, with the weights that it inherits."""
        job, choice = self.job, self.job.members(d)
        module = ensemble(job.net, choice, merged=False)
        chosen = list(module.parameters()) if job.config.tune == "all" else [*module.adapters(), *module.heads()]

        def training(plan: TrainPlan, checkpoint: Checkpoint, tick: Tick) -> float:
            batches = job.batches(plan.seed)
            return fine_tune(module, batches, plan, parameters=chosen, checkpoint=checkpoint, tick=tick)

        def told(split: str) -> tuple[dict[str, float], dict[str, object]]:
            score = job.tuned(module, split)
            return values_of(score), _extra(choice, score)

        return Finalist(module, chosen, training, told)


def _extra(choice: EnsembleChoice, score: EnsembleScore) -> dict[str, object]:
    """What a trial's record says of an ensemble beside its values."""
    return {"members": len(choice.members), "split": choice.split, "member_losses": list(score.member_losses)}
