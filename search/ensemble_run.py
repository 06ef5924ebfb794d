"""The phases of a search over ensembles: head, importances, supernet, search, finalists.

The supernet trains one sampled ensemble a step (ensemble_evaluator.py), in as many parts as the space is shrunk, plus
one; after each part but the last, ensembles are scored and the worst options leave (space_shrinking.py). Candidates are
scored with the shared weights; finalists are cut out, their adapters and heads are trained, and they are tested once.
"""

from __future__ import annotations

import time
from pathlib import Path

from archrank.grammar import Derivation, Space
from archrank.search.candidates import weights_of
from archrank.search.encoder_job import tuned_parameters
from archrank.search.encoder_run import SUPERNET_FILE, EncoderPhases, load_named
from archrank.search.ensemble_job import EnsembleJob, values_of
from archrank.search.selection import by_cost
from archrank.search.space_shrinking import dropped_productions, record, shrink_event
from archrank.search.study import Study
from archrank.search.trial import Trial
from archrank.supernet.checkpoint import Checkpoint, load_tensors, save_tensors
from archrank.supernet.ensemble_evaluator import coinciding_message
from archrank.supernet.ensembles import ensemble, fine_tune
from archrank.supernet.space_shrinking import option_scores, sampled, shrunk
from archrank.supernet.training import NonFiniteLoss, Tick, TrainPlan

__all__ = ["EnsemblePhases"]

SUPERNET_RUNS = 2
"""Steps of the supernet in units of one full fine-tune."""


class EnsemblePhases(EncoderPhases):
    """One pass over the phases."""

    job: EnsembleJob

    def __init__(self, job: EnsembleJob, path: Path) -> None:
        super().__init__(job, path)
        self.job = job

    def phases(self) -> None:
        """Each does what the folder does not hold yet."""
        self._head()
        self._order()
        self._supernet()
        self._search_all(self._evaluate)
        self._worst()
        self._finish_all(by_cost(self._inherited(), self.job.objectives, self.job.config.finalists), self._finish)

    # -- supernet ---------------------------------------------------------------------------------------------------

    def _supernet(self) -> None:
        """Trains in parts and shrinks between them; the space of the study is what is left."""
        job, file = self.job, self.path / SUPERNET_FILE
        chosen, space, done = tuned_parameters(job), job.space, 0
        if file.exists():
            load_named(job.net, file)
            done = int(str(load_tensors(file)[1]["parts"]))
        rounds = job.config.shrink_rounds
        steps = SUPERNET_RUNS * job.train_steps
        for part in range(rounds + 1):
            if part >= done:
                first, last = steps * part // (rounds + 1), steps * (part + 1) // (rounds + 1)
                self._part(part, last - first, space)
                kept = {id(p) for p in (job.net.adapters.parameters() if chosen is None else chosen)}
                tensors = {name: p for name, p in job.net.named_parameters() if id(p) in kept}
                save_tensors(file, tensors, {"r_max": job.net.r_max, "parts": part + 1})
                self._checkpoint("").clear()
            if part < rounds:
                space = self._shrunk(part, space)
        job.net.eval()
        self.study = Study(
            space, job.objectives, job.config.strategy, job.config.seed, constraints=job.constraints, log=self.log
        )

    def _part(self, part: int, steps: int, space: Space) -> None:
        job, seed = self.job, self.job.config.seed + 100 * part
        chosen = tuned_parameters(job)

        def training(plan: TrainPlan, checkpoint: Checkpoint, tick: Tick) -> float:
            return job.evaluator.train(
                job.batches(seed), plan, space=space, accept=self._taken, parameters=chosen,
                checkpoint=checkpoint, tick=tick,
            )  # fmt: skip

        seconds = self._trained(f"supernet {part + 1} of {job.config.shrink_rounds + 1}", steps, seed, training)
        self.log.event({"event": "phase", "name": f"supernet {part + 1}", "seconds": round(seconds, 3)})

    def _taken(self, d: Derivation) -> bool:
        """Whether a candidate keeps the constraints."""
        return not self.job.constraints or self._refused(self.job.price_members(self.job.members(d)))[0] is None

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
        extra = {"members": len(choice.members), "split": choice.split, "member_losses": list(told.member_losses)}
        self.study.tell(d, values_of(told) | cost, seconds=time.monotonic() - began, extra=extra)

    def _finish(self, parent: Trial) -> None:
        """Cuts one finalist out and trains it; its weights are on disk before its line is in the log."""
        job, began = self.job, time.monotonic()
        d, trial = job.space.parse(parent.text), self.study.next_id
        choice = job.members(d)
        module = ensemble(job.net, choice, merged=False)
        chosen = list(module.parameters()) if job.config.tune == "all" else [*module.adapters(), *module.heads()]
        seed = job.config.seed + 1500

        def training(plan: TrainPlan, checkpoint: Checkpoint, tick: Tick) -> float:
            return fine_tune(module, job.batches(seed), plan, parameters=chosen, checkpoint=checkpoint, tick=tick)

        try:
            self._trained(f"final {parent.id}", job.train_steps, seed, training, quiet=True)
        except NonFiniteLoss as error:
            self.study.fail(d, str(error), stage="final", parent=parent.id, seconds=time.monotonic() - began)
            self._checkpoint("").clear()
            return
        kept = {id(p) for p in chosen}
        tensors = {name: p for name, p in module.named_parameters() if id(p) in kept}
        save_tensors(weights_of(self.path, trial), tensors, {"text": parent.text})
        told = job.tuned(module, "validation")
        extra: dict[str, object] = {
            "members": len(choice.members), "split": choice.split, "member_losses": list(told.member_losses),
        }  # fmt: skip
        if job.data.size("test"):
            extra["test"] = values_of(job.tuned(module, "test"))
        values = values_of(told) | job.price_members(choice)
        self.study.tell(d, values, seconds=time.monotonic() - began, stage="final", parent=parent.id, extra=extra)
        self._checkpoint("").clear()
