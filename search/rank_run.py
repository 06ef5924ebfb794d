"""The phases of a rank search: head, supernet, search, re-rank, finalists."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from archrank.search import candidates
from archrank.search.config import read_share
from archrank.search.job import Job
from archrank.search.pricing import uniform_params
from archrank.search.rank_search import RankSearch
from archrank.search.results import open_run
from archrank.search.traced import densest, net_of
from archrank.search.tuning import Lesson, Tuned, load_tuned, tune_together
from archrank.search.verdict import compared, rows_of, within_share
from archrank.supernet.checkpoint import adapter_tensors, save_tensors
from archrank.supernet.net import Elastic
from archrank.supernet.teaching import answers, taught_loss
from archrank.supernet.training import NonFiniteLoss, TrainPlan

if TYPE_CHECKING:
    from archrank.search.ray.cluster import Cluster

__all__ = ["RankPhases"]


class RankPhases(RankSearch):
    """One pass over the phases."""

    def __init__(self, job: Job, path: Path, cluster: Cluster | None = None) -> None:
        super().__init__(job, path, cluster)
        self._answers: dict[tuple[int, int], Tensor] = {}

    def phases(self) -> None:
        """Head, supernet, search, re-rank, finalists; a tracing policy's chain stands for supernet and search."""
        self._head()
        if self.job.policy.traces:
            self._trace()
            self._reference()
            self._tell_points()
        else:
            self._supernet()
            self._reference()
            self._search()
        self._rerank()
        self._finalists()

    def _rerank(self) -> None:
        """The best of each stratum, fine-tuned for a while from inherited weights on two seeds: this makes budgets
        comparable.
        """
        chosen = candidates.to_rerank(self.study.trials, self.strata, self.job.objectives, self.job.config.finalists)
        entries = [candidates.Entry.of(t, self.study.trials) for t in chosen]
        self._tune_all(
            "rerank", "reranked", entries, candidates.rerank_steps(self.job.tune_steps), candidates.RERANK_SEEDS
        )

    def _finalists(self) -> None:
        """The full fine-tune, of the uniform r_max too, then of the uniform rank at the verdict's cost; the test split
        is read here, once for each, after its selection.
        """
        chosen = candidates.to_finish(self.study.trials, self.strata, self.job.objectives, self.job.config.finalists)
        if not chosen:
            return
        entries = [candidates.Entry.of(t, self.study.trials) for t in chosen]
        fits = [r for r in sorted(self.job.space.ranks, reverse=True) if self._uniform([], r)]
        if fits and not any(e.get("event") == "uniform" for e in self.log.events):
            self.log.event({"event": "uniform", "rank": fits[0]})
        self._finish("finalists", entries + (self._uniform(entries, fits[0]) if fits else []))
        choice = self._verdict_choice()
        if choice is not None:
            self._finish("reference", self._uniform([], choice))

    def _finish(self, phase: str, entries: list[candidates.Entry]) -> None:
        self._tune_all(phase, "final", entries, self.job.tune_steps, self.job.config.final_seeds)

    def _uniform(self, entries: list[candidates.Entry], rank: int) -> list[candidates.Entry]:
        derivation = candidates.uniform(self.job.space, self.job.net.shapes, rank)
        known = {e.text for e in entries}
        if derivation is None or derivation.text in known or not self.job.space.meets(derivation):
            return []
        return [candidates.Entry(derivation.text)]

    def _verdict_choice(self) -> int | None:
        """The uniform rank that stands beside the verdict's choice: the largest of no higher cost, or the smallest."""
        found = compared(open_run(self.path))
        choice = within_share(found, read_share("--within", self.job.config.within))
        if choice is None or choice.uniform:
            return None
        ranks = [r for r in sorted(self.job.space.ranks) if self._uniform([], r)]
        costs = {r: uniform_params(self.job.family, self.job.net.shapes, r) for r in ranks}
        return max((r for r in ranks if costs[r] <= choice.params), default=ranks[0])

    def _tune_all(self, phase: str, stage: str, chosen: list[candidates.Entry], steps: int, seeds: int) -> None:
        done = {t.text for t in self.study.trials if t.stage == stage}
        self.progress.phase(phase, total=len(chosen), unit="candidates")
        files = [self.path / f"{phase}-{k}.safetensors" for k in range(seeds)]
        together: dict[tuple[str, int], Tuned] = {}
        if self.job.trains_together and any(entry.text not in done for entry in chosen):
            together = self._together(stage, chosen, steps, files)
        for place, entry in enumerate(chosen, 1):
            if entry.text not in done:
                self._tune(stage, entry, steps, seeds, together)
            self._show(place)
        for file in files:
            file.unlink(missing_ok=True)

    def _start(self, entry: candidates.Entry) -> Elastic:
        """A candidate's net with the weights that it inherits."""
        ranks = self.job.ranks(self.job.space.parse(entry.text))
        if entry.root is None:
            traces = self.job.policy.traces
            return densest(self.job, self.path / "traced", ranks) if traces else self.job.net.sliced(ranks)
        return net_of(self.job, candidates.weights_of(self.path, entry.root), ranks)

    def _together(
        self, stage: str, chosen: list[candidates.Entry], steps: int, files: list[Path]
    ) -> dict[tuple[str, int], Tuned]:
        """Every candidate that has something to train, on every seed: {(sentence, seed's number): what came of it}.

        Those in the log already are trained again with the others, so that bits do not depend on an interruption.
        """
        assert self.job.config.lr is not None
        wanted = [e for e in chosen if self._needs_training(self.job.ranks(self.job.space.parse(e.text)))]
        nets = {e.text: self._start(e) for e in wanted}
        found: dict[tuple[str, int], Tuned] = {}
        for k, file in enumerate(files if nets else []):
            plan = TrainPlan(steps, self.job.config.lr, seed=self._seed(stage, k))
            lesson = self._lesson(plan.seed, steps)
            each = tune_together(self.job, list(nets.values()), lesson, plan, file, f"{stage} {k}", self._tick(True))
            found |= {(text, k): tuned for text, tuned in zip(nets, each, strict=True)}
        return found

    def _needs_training(self, ranks: Mapping[str, int]) -> bool:
        """Whether there is anything to train: not the bare base, nor the whole adapter that the run has trained."""
        return any(ranks.values()) and not (self.job.policy.teaches and dict(ranks) == self.job.net.largest)

    def _lesson(self, seed: int, steps: int) -> Lesson:
        """What a fine-tune on a seed learns from: labels, and the whole adapter's answers where it teaches."""
        job, batches = self.job, self.job.batches(seed)
        if not job.teaches:
            return batches, job.loss
        if (seed, steps) not in self._answers:
            told = answers(job.net, job.data, batches.met(steps))
            # those of the phase at hand: seeds take turns in it, and rows of another one would be other bits
            self._answers = {key: t for key, t in self._answers.items() if key[1] == steps} | {(seed, steps): told}
        return replace(batches, answers=self._answers[seed, steps]), taught_loss(job.loss)

    def _seed(self, stage: str, k: int) -> int:
        """Of the k-th training of a stage."""
        return self.job.config.seed + 1000 * (1 + k) + (500 if stage == "final" else 0)

    def _tune(
        self,
        stage: str,
        entry: candidates.Entry,
        steps: int,
        seeds: int,
        together: Mapping[tuple[str, int], Tuned],
    ) -> None:
        """Trains one candidate on some seeds, where that was not done in one pass; its weights are on disk before its
        line is in the log.
        """
        derivation = self.job.space.parse(entry.text)
        ranks = self.job.ranks(derivation)
        trial, told, spent = self.study.next_id, list[dict[str, float]](), 0.0
        test: dict[str, float] | None = None
        rows: dict[str, list[np.ndarray]] = {"validation": [], "test": []}
        for k in range(seeds):
            net = self._start(entry)
            began = time.monotonic()
            if self._needs_training(ranks):
                try:
                    if tuned := together.get((entry.text, k)):
                        load_tuned(net, tuned)
                        spent += tuned.seconds
                    else:
                        seed = self._seed(stage, k)
                        lesson = self._lesson(seed, steps)
                        self._train(f"{stage} {derivation.key} {k}", net, steps, seed, lesson=lesson)
                except NonFiniteLoss as error:
                    self.study.fail(
                        derivation, str(error), stage=stage, parent=entry.parent, seconds=time.monotonic() - began
                    )
                    self._checkpoint("").clear()
                    return
            told.append(self.job.score(net, "validation"))
            if k == 0:
                save_tensors(
                    candidates.weights_of(self.path, trial), adapter_tensors(net.items()), {"text": entry.text}
                )
                if stage == "final" and self.job.data.size("test"):
                    test = self.job.score(net, "test")
            if stage == "final":
                for split in rows:
                    if self.job.data.size(split):
                        rows[split].append(self.job.row_losses(net, split))
            spent += time.monotonic() - began
        values = {name: float(np.mean([t[name] for t in told])) for name in told[0]}
        extra: dict[str, object] = {"seeds": told} if seeds > 1 else {}
        if test is not None:
            extra["test"] = test
        if stage == "final":
            kept = {split: torch.from_numpy(np.stack(found)) for split, found in rows.items() if found}
            save_tensors(rows_of(self.path, trial), kept, {"text": entry.text})
        values |= self.job.pricer.price(ranks)
        self.study.tell(
            derivation,
            values,
            seconds=spent,
            stage=stage,
            parent=entry.parent,
            extra=extra,
            constraints=self.job.constraints,
        )
        self._checkpoint("").clear()
