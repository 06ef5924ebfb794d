"""Ranks by the default pipeline against the ways to choose one today, at equal total training.

    python benchmarks/rank_quality.py --seeds 5 --out benchmarks/results/rank_quality.json [--methods search,uniform]
    python benchmarks/rank_quality.py --base MINILM --data FOLDER/sst2 --task sst2 --device cuda --out …

A cell is (task, seed, method, rate, N); the embedded task needs neither base nor data. Each spends 15 · N training
steps, the forwards of a search counted as a third of a step each. All methods run at the same learning rates; the rate
is chosen on validation loss, as is every point; test rows are read for what was chosen. Methods:

- `search`: the default job over adapters from uniform r = 1 on: one r_max run in canonical form, the surrogate by
  strata, re-ranking, 4 finalists that learn the r_max run's answers, references; `search5`: over adapters from half of
  that on, 5 finalists; `untaught`: 4 that learn labels alone; `mixed`: from a sampled supernet;
- `sora`, `maestro`: the same, traced by that policy;
- `random`: the default job with the strategy `random`, as many evaluations;
- `uniform`: ranks 1, 2, 4, 8, 16, each 3 N steps;
- `svd`: one r_max LoRA of 7 N steps, resized by its singular values to 4 budgets, each tuned for 2 N more;
- `adalora`, `eva`: PEFT's, four budgets of 3.75 N steps; AdaLoRA starts at 1.5 × its target;
- `nls`: an NLS supernet of 7 N steps, ranks 1, 2, 4, 8 of its list for all modules, each tuned for 2 N more;
- `dylora`: one run of 15 N steps, truncated at each rank.

Figures for each seed: hypervolume of test loss × log2(adapter parameters) between the bare base and the uniform r_max,
parameters below those of uniform r = 1 counting as those; test loss and accuracy of the best point on validation within
12.5, 25, 50 and 100 % of r_max. Differences are paired by seed, percentile bootstrap.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rank_methods
import torch
from rank_methods import ADALORA_TARGETS, Point, chosen, measured, trained_points
from record import Cells, interval, write_result

from archrank.search.base_phases import HEAD_STEPS
from archrank.search.config import RunConfig
from archrank.search.job import Job, new_parameters, prepare
from archrank.search.pareto import hypervolume
from archrank.search.run import start
from archrank.supernet import policies
from archrank.supernet.adapters.lora import LoRA
from archrank.supernet.canonical_form import canonical
from archrank.supernet.net import Elastic
from archrank.supernet.population_training import Members
from archrank.supernet.shrinking import by_budget
from archrank.supernet.training import TrainPlan, train

RATES = (1e-2, 2e-2)
SHARES = (0.125, 0.25, 0.5, 1.0)
TRIALS, UNITS = 60, 15
Ranks = Mapping[str, int]


@dataclass(frozen=True)
class Task:
    """What is adapted to what, and where."""

    name: str = "digits"
    base: str | None = None
    data: str | None = None
    device: str = "cpu"

    def config(self, seed: int, steps: int, rate: float) -> RunConfig:
        """As `search run` would be asked."""
        return RunConfig(
            base=self.base, data=self.data, device=self.device, seed=seed, train_steps=steps, lr=rate, max_length=64
        )


def job_for(task: Task, seed: int, steps: int, rate: float) -> Job:
    """The task as `search run` prepares it, with the head that a run would train."""
    job = prepare(task.config(seed, steps, rate))
    if head := new_parameters(job.base):
        plan = TrainPlan(min(HEAD_STEPS, steps), rate, seed=seed)
        train(Elastic(job.base.model, {}), job.batches(seed), job.loss, plan, parameters=head)
    return job


def price(job: Job, ranks: Ranks) -> float:
    """Adapter parameters."""
    return float(sum(r * sum(job.net.shapes[n]) for n, r in ranks.items()))


def members(job: Job, nets: list[Elastic], steps: int, rate: float, seed: int) -> list[Point]:
    """Each net trained on, all in one pass: what each would be alone."""
    ranks = [net.largest for net in nets]
    start_at = [{n: a.lora_factors() for n, a in net.items()} for net in nets]
    population, batches = Members(job.base.model, ranks, start=start_at), job.batches(seed)
    population.train(lambda step: batches(step)[0], TrainPlan(steps, rate, seed=seed), loss_function=job.loss)
    found = []
    for r, factors in zip(ranks, population.factors(), strict=True):
        net = Elastic(job.base.model, {n: LoRA.of(*pair) for n, pair in factors.items()})
        found.append(measured(job, net, price(job, r)))
    return found


def uniform(task: Task, seed: int, steps: int, rate: float) -> list[Point]:
    """Ranks 1, 2, 4, 8, 16."""
    job = job_for(task, seed, steps, rate)
    nets = [job.net.sliced(dict.fromkeys(job.net.names, r)) for r in (1, 2, 4, 8, 16)]
    return members(job, nets, 3 * steps, rate, seed)


def searched(**flags: str) -> Callable[[Task, int, int, float], list[Point]]:
    """The job with some flags; its fully trained points."""

    def run(task: Task, seed: int, steps: int, rate: float) -> list[Point]:
        policy = policies.load(flags["policy"])
        forwards = 0 if policy.traces else TRIALS * 300 / 32 / 3
        # re-ranking: twice as many, an eighth on two seeds each; then finalists and references. An r_max run is one of
        # the candidates and is not trained again
        again, finalists = 1 if policy.teaches else 0, int(flags.get("finalists", 4))
        tuned = (2 * finalists - again) / 4 + finalists + 2 - 2 * again
        unit = round((UNITS * steps - forwards) / (policy.runs + policy.tune_share * tuned))
        job = prepare(task.config(seed, unit, rate))
        with tempfile.TemporaryDirectory() as folder:
            config = replace(
                task.config(seed, unit, rate),
                trials=TRIALS if not policy.traces else 40,
                finalists=finalists,
                where=(f"adapter_params >= {sum(map(sum, job.net.shapes.values())) // (finalists - 3)}",),
                policy=flags["policy"],
                strategy=flags.get("strategy", "surrogate"),
                distill=flags.get("distill", "auto"),
                out=f"{folder}/run",
            )
            return trained_points(start(config))

    return run


def svd(task: Task, seed: int, steps: int, rate: float) -> list[Point]:
    """One r_max LoRA, resized over all modules by σ² / price."""
    job = job_for(task, seed, steps, rate)
    whole = job.net.sliced(dict.fromkeys(job.net.names, 16))
    train(whole, job.batches(seed), job.loss, TrainPlan(7 * steps, rate, seed=seed))
    forms = {n: canonical(*a.lora_factors()) for n, a in whole.items()}
    spectra = {n: (A.norm(dim=1) * B.norm(dim=0)).double().numpy() for n, (A, B) in forms.items()}
    prices = {n: sum(s) for n, s in job.net.shapes.items()}
    top, nets = 16.0 * sum(prices.values()), []
    for share in (1 / 16, *SHARES[:3]):
        ranks = by_budget(spectra, prices, share * top)
        store = {n: LoRA.of(forms[n][0][:r], forms[n][1][:, :r]) for n, r in ranks.items() if r}
        nets.append(Elastic(job.base.model, store))
    tuned = members(job, nets, 2 * steps, rate, seed + 1000)
    return [measured(job, whole, top), *tuned]


def from_supernet(policy: str, ranks: tuple[int, ...], steps_of: tuple[int, int]) -> Callable[..., list[Point]]:
    """A supernet of `steps_of[0]` units under a policy, uniform ranks of it tuned for `steps_of[1]` more."""

    def run(task: Task, seed: int, steps: int, rate: float) -> list[Point]:
        job = job_for(task, seed, steps, rate)
        rule = policies.load(policy)(job.net.shapes, job.net.r_max, seed, ranks=[0, *job.space.ranks])
        plan = TrainPlan(steps_of[0] * steps, rate, seed=seed)
        train(job.net, job.batches(seed), job.loss, plan, policy=rule)
        nets = [job.net.sliced(dict.fromkeys(job.net.names, r)) for r in ranks]
        if steps_of[1]:
            return members(job, nets, steps_of[1] * steps, rate, seed + 1000)
        return [measured(job, net, price(job, net.largest)) for net in nets]

    return run


def eva(task: Task, seed: int, steps: int, rate: float) -> list[Point]:
    """PEFT's EVA at average ranks 1, 2, 4, 8 (rho 2): ranks and A from activations, then LoRA."""
    import peft

    nets, job = [], job_for(task, seed, steps, rate)
    for target in (1, 2, 4, 8):
        config = peft.LoraConfig(
            target_modules=list(job.net.names),
            r=target,
            lora_alpha=target,
            init_lora_weights="eva",
            eva_config=peft.EvaConfig(rho=2.0),
        )
        torch.manual_seed(seed)
        model = peft.get_peft_model(copy.deepcopy(job.base.model), config, low_cpu_mem_usage=True)
        loader = [{k: v for k, v in job.batches(seed)(s)[0].items() if k != "labels"} for s in range(16)]
        peft.initialize_lora_eva_weights(
            model, loader, prepare_model_inputs_fn=None, prepare_layer_inputs_fn=None, show_progress_bar=False
        )
        store = {}
        for name in job.net.names:
            layer = model.base_model.model.get_submodule(name)
            if "default" in getattr(layer, "lora_A", {}):
                A = layer.lora_A["default"].weight.detach()
                store[name] = LoRA.of(A, torch.zeros(job.net.shapes[name][0], len(A)))
        nets.append(Elastic(job.base.model, store))
    return members(job, nets, round(3.75 * steps), rate, seed)


def adalora(task: Task, seed: int, steps: int, rate: float) -> list[Point]:
    """PEFT's AdaLoRA at average ranks 1, 2, 4, 8."""
    total = round(3.75 * steps)
    return [rank_methods.adalora(job_for(task, seed, steps, rate), r, total, rate, seed) for r in ADALORA_TARGETS]


METHODS: dict[str, Callable[[Task, int, int, float], list[Point]]] = {
    "search": searched(policy="full"),
    "search5": searched(policy="full", finalists="5"),
    "uniform": uniform,
    "svd": svd,
    "sora": searched(policy="sora"),
    "random": searched(policy="full", strategy="random"),
    "untaught": searched(policy="full", distill="off"),
    "adalora": adalora,
    "eva": eva,
    "nls": from_supernet("nls", (1, 2, 4, 8), (7, 2)),
    "dylora": from_supernet("dylora", (1, 2, 4, 8, 16), (15, 0)),
    "mixed": searched(policy="mixed"),
    "maestro": searched(policy="maestro"),
}
OURS = ("search", "search5", "untaught", "mixed", "sora", "maestro", "random")


def figures(points: list[Point], top: float, bare: float) -> dict[str, float]:
    """Hypervolume of what validation would choose at each size, at its test loss; quality at the budgets."""
    front = [p for p in points if not any(q["params"] <= p["params"] and q["val_loss"] < p["val_loss"] for q in points)]
    at = np.asarray([[p["test_loss"], np.log2(max(p["params"], top / 16))] for p in front])
    found = {"hypervolume": hypervolume(at, np.asarray([bare, np.log2(top) + 1e-9]))}
    for share in SHARES:
        best = chosen(points, share * top)
        found[f"loss@{share:.1%}"] = best["test_loss"] if best else bare
        found[f"accuracy@{share:.1%}"] = best["test_accuracy"] if best else 0.1
    return found


def main() -> None:
    """Measures what is missing, then writes the comparison of what is there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--rates", default=",".join(map(str, RATES)))
    parser.add_argument("--train-steps", type=int, default=200, help="N")
    parser.add_argument("--task", default="digits", help="its name in the cells")
    parser.add_argument("--base")
    parser.add_argument("--data")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only-write", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    task = Task(args.task, args.base, args.data, args.device)
    cells, names, seeds = Cells(args.out), args.methods.split(","), range(args.seeds)
    rates = tuple(float(r) for r in args.rates.split(","))
    for seed in seeds if not args.only_write else []:
        for name in names:
            for rate in rates:
                key = f"{task.name} {seed} {name} {rate} {args.train_steps}"
                cells.get(key, lambda n=name, s=seed, r=rate: METHODS[n](task, s, args.train_steps, r))
                print(key, flush=True)
    job = job_for(task, 0, args.train_steps, RATES[0])
    top = 16.0 * sum(sum(s) for s in job.net.shapes.values())
    bare = job.score(job.net.sliced({}), "test")["loss"]
    each: dict[str, list[dict[str, float]]] = {}
    for name in names:
        runs = [[cells.done.get(f"{task.name} {s} {name} {r} {args.train_steps}") for r in rates] for s in seeds]
        if any(p is None for row in runs for p in row):
            continue
        each[name] = []
        for row in runs:
            # one rate for a whole run, as a user would choose it: by validation loss, averaged over the budgets
            means = [np.mean([(chosen(p, s * top) or {"val_loss": bare})["val_loss"] for s in SHARES]) for p in row]
            each[name].append(figures(row[int(np.argmin(means))], top, bare))
    table = {
        name: {k: {"mean": float(np.mean([r[k] for r in rows])), "ci": interval([r[k] for r in rows])} for k in rows[0]}
        for name, rows in each.items()
    }
    paired = {
        ours: {
            name: {k: interval([a[k] - b[k] for a, b in zip(each[ours], rows, strict=True)]) for k in rows[0]}
            for name, rows in each.items()
            if name != ours
        }
        for ours in OURS
        if ours in each
    }
    write_result(
        args.out,
        {
            "claim": "front hypervolume and quality at four budgets, equal total training steps, search counted in",
            "value": table["search"]["hypervolume"]["mean"] if "search" in table else None,
            "unit": "nats × log2(parameters)",
            "ci": "95 % percentile bootstrap over seeds",
            "seeds": list(seeds),
            "training_steps": {"total": UNITS * args.train_steps, "N": args.train_steps, "rates": list(rates)},
            "configurations_seen": {m: 40 if m in ("sora", "maestro") else TRIALS for m in OURS},
            "methods": table,
            "paired_difference_ci": paired,
            "baselines": [m for m in each if m not in OURS],
        },
    )
    for name, row in table.items():
        print(name, {k: round(v["mean"], 3) for k, v in row.items()})  # type: ignore[index, arg-type]


if __name__ == "__main__":
    main()
