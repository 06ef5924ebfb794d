"""Ensembles (K = 2, 3) against the best single network at equal FLOPs, on the embedded ViT.

Each condition, seed and FLOPs budget is one search of `elastic_ensemble` with the same recipe: the whole encoder is
trained, then one-shot in three parts, the space shrunk after the first two; then regularised evolution over the same
number of candidates on validation rows, which begins, as a run's does, with equal layers; the best three are fine-tuned
(adapters and heads), and the best of these on validation rows is tested. All that is sampled and scored costs between
four fifths of the budget and the budget, a share of the whole encoder's FLOPs; all members and adapters count.
Conditions: single (K = 1), K = 2 and K = 3 with the diversity term on (λ = 1) and off (λ = 0). Trivial baseline, no
search: all layers alike, the dearest shares of heads and of channels within the budget, LoRA of rank 4 everywhere, the
same fine-tune. CPU seconds and trained FLOPs of every search are in the result. It goes on where it was interrupted;
`--minutes` ends it early.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from record import Cells, interval, write_result
from torch import Tensor
from torch.nn.functional import cross_entropy

from archrank import supernet
from archrank.grammar import Derivation, Space
from archrank.search.objective import Objective
from archrank.search.study import Study
from archrank.supernet import EnsembleEvaluator, ensemble
from archrank.supernet import data as datasets
from archrank.supernet.base import load_base
from archrank.supernet.elastic_encoder import ElasticEncoder
from archrank.supernet.ensemble_evaluator import score_with
from archrank.supernet.ensembles import fine_tune
from archrank.supernet.sandwich import train_whole
from archrank.supernet.space_shrinking import Shrinkage, option_scores, sampled, shrunk
from archrank.supernet.training import TrainPlan

SEEDS, BUDGETS = 5, (1.0, 0.6)
WHOLE_STEPS, ROUNDS, PART_STEPS, SAMPLES, CANDIDATES, FINALISTS, TUNE_STEPS = 150, 3, 50, 24, 48, 3, 240
BATCH, LR, R_MAX = 32, 1e-2, 8
LEAST = 0.8
"""Of its budget costs each candidate at least."""
SHARES = (25, 50, 75, 100)
CONDITIONS = {
    "single": (1, 0.0),
    "K=2, λ=0": (2, 0.0),
    "K=2, λ=1": (2, 1.0),
    "K=3, λ=0": (3, 0.0),
    "K=3, λ=1": (3, 1.0),
}
ROLES = ("q", "k", "v", "o", "up", "down")
Figures = dict[str, float]


class Task:
    """The embedded base, its data, and the supernet over them."""

    def __init__(self, seed: int, budget: float) -> None:
        self.seed = seed
        raw = datasets.read_dataset(None, None)
        self.base = load_base(None, raw.task, label_names=raw.label_names, seed=seed)
        self.data = datasets.prepare(raw, self.base)
        wanted = [self.data.batch("train", np.arange(low, low + 64)) for low in range(0, 512, 64)]
        net = supernet.elastic(self.base.model, "elastic_ensemble", r_max=R_MAX, data=wanted)
        assert isinstance(net, ElasticEncoder)
        self.net, self.evaluator = net, EnsembleEvaluator(net)
        self.trained = 0.0  # FLOPs, 3 a forward
        self._flops: dict[str, float] = {}
        self.most = budget * self.flops(self.uniform(100, 100, None))

    def uniform(self, heads: int, ffn: int, rank: int | None) -> Derivation:
        """A single network of equal layers, shares in percent."""
        own = ",".join(f"{role}={'none' if rank is None else f'lora({rank})'}" for role in ROLES)
        body = f"keep(heads={heads}%,ffn={ffn}%,{own})"
        return self.net.space.parse(f"single({' '.join(f'{name}:{body}' for name in self.net.layers)})")

    def batches(self, seed: int, step: int) -> tuple[Mapping[str, Tensor], NDArray[np.int64]]:
        """The rows of a step."""
        rows = datasets.order(seed, step, BATCH, self.data.size("train"))
        return self.data.batch("train", rows), rows

    def split(self, name: str) -> list[dict[str, Tensor]]:
        """All rows of a split."""
        return [self.data.batch(name, np.arange(self.data.size(name)))]

    def flops(self, d: Derivation) -> float:
        """Of one row through the layers, adapters beside the weights."""
        if d.key not in self._flops:
            self._flops[d.key] = float(self.net.space.elaborate(d).flops)
        return self._flops[d.key]

    def fits(self, d: Derivation) -> bool:
        """Whether it keeps the budget, and uses most of it."""
        return LEAST * self.most <= self.flops(d) <= self.most

    def tuned(self, d: Derivation) -> Figures:
        """Fine-tuned from the shared weights, and tested once."""
        module = ensemble(self.net, self.evaluator.members(d), merged=False)
        seed = 1000 + self.seed
        fine_tune(module, lambda step: self.batches(seed, step), TrainPlan(TUNE_STEPS, LR, seed=seed))
        self.trained += 3 * self.flops(d) * BATCH * TUNE_STEPS
        known, told = (
            score_with(lambda inputs: module.member_logits(**inputs), self.split(part), torch.device("cpu"))
            for part in ("validation", "test")
        )
        return {
            "validation_loss": known.loss, "accuracy": told.accuracy,
            "loss": told.loss, "diversity": told.diversity, "flops": self.flops(d),
            "split": self.evaluator.members(d).split, "worst_member_loss": max(told.member_losses),
            "best_member_loss": min(told.member_losses),
        }  # fmt: skip


def of_size(space: Space, members: int) -> Space:
    """The sentences with that many members."""
    drawn = space.sample(np.random.default_rng(0), 200)
    kept = next(d for d in drawn if len(space.ensemble_choices(d).members) == members).choices[0]
    return space.without([i for i in space.siblings(kept) if i != kept])


def searched(seed: int, members: int, weight: float, budget: float) -> Figures:
    """One condition on one seed at one budget: the tested winner, and what the search cost."""
    began, task = time.process_time(), Task(seed, budget)
    evaluator, validation = task.evaluator, task.split("validation")
    space, recipe = of_size(task.net.space, members), Shrinkage(rounds=ROUNDS - 1, samples=SAMPLES, weight=weight)
    scored = left = 0

    def score(d: Derivation) -> tuple[float, float]:
        nonlocal scored
        scored += 1
        told = evaluator.score(d, validation, warn=False)
        return told.loss, told.diversity

    def apart(d: Derivation) -> bool:
        return task.fits(d) and not evaluator.members(d).coinciding

    plan = TrainPlan(WHOLE_STEPS, LR, seed=700 + seed)
    train_whole(
        task.net,
        lambda step, s=plan.seed: task.batches(s, step),
        lambda logits, batch: cross_entropy(logits, batch["labels"]),
        plan,
    )
    task.trained += 3 * BATCH * task.flops(task.uniform(100, 100, R_MAX)) * WHOLE_STEPS
    for part in range(ROUNDS):
        plan = TrainPlan(PART_STEPS, LR, seed=100 * seed + part)
        evaluator.train(lambda step, s=plan.seed: task.batches(s, step), plan, space=space, accept=task.fits)
        drawn = [evaluator.drawn(plan.seed, step, space, task.fits) for step in range(PART_STEPS)]
        task.trained += sum(3 * BATCH * task.flops(d) for d in drawn)
        if part + 1 < ROUNDS:
            options = option_scores(space, sampled(space, score, SAMPLES, (seed, part), apart), recipe)
            space, options = shrunk(space, options, apart)
            left = sum(not o.dropped for o in options)
    study = Study(space, [Objective("loss")], "regularized_evolution", seed)
    begin = [d for d in space.equal_layers() if apart(d)]
    first = study.enqueue(
        [begin[i] for i in np.linspace(0, len(begin) - 1, min(len(begin), CANDIDATES // 2)).astype(int)]
    )
    seen = list[tuple[float, Derivation]]()
    while len(seen) < CANDIDATES:
        d = first.pop(0) if first else study.ask(1)[0]
        if not apart(d):
            study.tell(d, {}, infeasible="its FLOPs, or members that coincide")
            continue
        seen.append((score(d)[0], d))
        study.tell(d, {"loss": seen[-1][0]})
    best = {d: inherited for inherited, d in sorted(seen, key=lambda pair: pair[0])[:FINALISTS]}
    told = {d: task.tuned(d) for d in best}
    chosen = min(told, key=lambda d: told[d]["validation_loss"])
    return told[chosen] | {
        "inherited_loss": best[chosen], "inherited_diversity": score(chosen)[1], "options_left": left, "scored": scored,
        "cpu_seconds": time.process_time() - began, "trained_flops": task.trained,
    }  # fmt: skip


def uniform(seed: int, budget: float) -> Figures:
    """All layers with one share of heads and one of channels, LoRA of rank 4 everywhere."""
    began, task = time.process_time(), Task(seed, budget)
    fitting = [d for heads in SHARES for ffn in SHARES if task.fits(d := task.uniform(heads, ffn, 4))]
    told = task.tuned(max(fitting, key=task.flops))
    return told | {"cpu_seconds": time.process_time() - began, "trained_flops": task.trained, "scored": 0}


Cases = Mapping[str, Figures]


def paired(cells: Cases, one: str, other: str, budget: float, what: str) -> dict[str, object]:
    """Mean over seeds of one − other, with its bootstrap interval."""
    found = [cells[f"{one}/{budget:g}/{s}"][what] - cells[f"{other}/{budget:g}/{s}"][what] for s in range(SEEDS)]
    return {"mean": float(np.mean(found)), "ci": interval(found), "per_seed": found}


def summary(cells: Cases, budgets: Sequence[float]) -> dict[str, object]:
    """Fronts, paired differences against the best single, what the diversity term changes; at the measured budgets."""
    names, keys = [*CONDITIONS, "uniform"], ("accuracy", "loss", "diversity")

    def means(name: str, what: tuple[str, ...]) -> dict[str, Figures]:
        return {
            f"{b:g}": {k: float(np.mean([cells[f"{name}/{b:g}/{s}"][k] for s in range(SEEDS)])) for k in what}
            for b in budgets
        }

    front = {name: means(name, (*keys, "flops")) for name in names}
    against = {
        name: {f"{b:g}": {k: paired(cells, name, "single", b, k) for k in keys[:2]} for b in budgets}
        for name in names
        if name != "single"
    }
    term = {
        f"K={k}": {f"{b:g}": {w: paired(cells, f"K={k}, λ=1", f"K={k}, λ=0", b, w) for w in keys} for b in budgets}
        for k in (2, 3)
    }
    headline = paired(cells, "K=2, λ=1", "single", budgets[0], "accuracy")
    return {
        "claim": "ensembles against the best single network at equal FLOPs, embedded ViT",
        "value": headline["mean"],
        "unit": "test accuracy: K = 2 with the diversity term minus single, at the whole encoder's FLOPs",
        "ci": headline["ci"],
        "seeds": SEEDS,
        "baselines": {"single": front["single"], "uniformly narrowed": front["uniform"]},
        "front": front,
        "against_single": against,
        "diversity_term": term,
        "cost": {name: means(name, ("cpu_seconds", "trained_flops", "scored")) for name in names},
        "recipe": {
            "whole_steps": WHOLE_STEPS,
            "supernet_steps": ROUNDS * PART_STEPS, "shrinking_samples": SAMPLES, "candidates": CANDIDATES,
            "finalists": FINALISTS, "tune_steps": TUNE_STEPS, "budgets": list(budgets),
        },
    }  # fmt: skip


def main() -> None:
    """Measures what is not known yet; the result once all of it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    began, cells = time.monotonic(), Cells(given.out)
    names = [*CONDITIONS, "uniform"]
    cases = [(name, b, s) for b in BUDGETS for s in range(SEEDS) for name in names]
    for name, budget, seed in cases:
        cell = f"{name}/{budget:g}/{seed}"
        if cell in cells.done:
            continue
        if time.monotonic() - began > 60 * given.minutes:
            break
        cells.get(
            cell,
            lambda n=name, b=budget, s=seed: uniform(s, b) if n == "uniform" else searched(s, *CONDITIONS[n], b),
        )
        print(cell, f"{time.monotonic() - began:.0f} s", cells.done[cell], flush=True)
    whole = [b for b in BUDGETS if all(f"{n}/{b:g}/{s}" in cells.done for n in names for s in range(SEEDS))]
    if whole:
        result = summary(cells.done, whole)
        write_result(given.out, result)
        print(result["value"], result["ci"])
    if len(cells.done) < len(cases):
        print(f"{len(cells.done)} of {len(cases)} cells; run again to go on")


if __name__ == "__main__":
    main()
