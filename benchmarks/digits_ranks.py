"""Rank search against the usual ways to choose a rank, on the embedded task (digits turned by 90°), at equal total
training steps.

    python benchmarks/digits_ranks.py --seeds 5 --out benchmarks/results/digits_ranks.json [--methods search,uniform]

Every method spends 15 · N training steps in all and is run at the same learning rates; the rate is chosen on
validation loss, as is every candidate; the test rows are read for what was chosen.

- `search`: the default job; in its own full fine-tunes: supernet 2, re-ranking 3, finalists 6.
- `random`: the same job with the strategy `random`.
- `uniform`: ranks 1, 2, 4, 8, 16, each trained for 3 N steps.
- `scatter`: 15 random allocations of N steps.
- `adalora`: PEFT's, four targets of 3.75 N steps, initial rank 1.5 × target.

A result is, for each seed, the hypervolume of (validation-selected) test loss × log2(adapter parameters), and the test
accuracy of the best candidate within 12.5, 25, 50 and 100 % of the uniform r_max budget.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rank_methods
from rank_methods import ADALORA_TARGETS, Point, chosen, finalists, measured
from record import Cells, interval, write_result

from archrank.search.config import RunConfig
from archrank.search.job import Job, prepare
from archrank.search.pareto import hypervolume
from archrank.search.run import start
from archrank.supernet.training import TrainPlan, train

RATES = (5e-3, 1e-2, 2e-2)
SHARES = (0.125, 0.25, 0.5, 1.0)


def job_for(seed: int, steps: int, rate: float) -> Job:
    """The embedded task as `search run` prepares it."""
    return prepare(RunConfig(seed=seed, train_steps=steps, lr=rate))


def trained(job: Job, ranks: dict[str, int], steps: int, rate: float, seed: int) -> Point:
    """One stand-alone LoRA from scratch."""
    net = job.net.sliced(ranks)
    train(net, job.batches(seed), job.loss, TrainPlan(steps, rate, seed=seed))
    return measured(job, net, sum(r * sum(job.net.shapes[n]) for n, r in ranks.items()))


def uniform(seed: int, steps: int, rate: float) -> list[Point]:
    """Ranks 1, 2, 4, 8, 16, each for 3 N steps."""
    points = []
    for rank in (1, 2, 4, 8, 16):
        job = job_for(seed, steps, rate)
        points.append(trained(job, dict.fromkeys(job.net.names, rank), 3 * steps, rate, seed))
    return points


def scatter(seed: int, steps: int, rate: float) -> list[Point]:
    """15 allocations, their budgets evenly spread over the logarithm, each for N steps."""
    job = job_for(seed, steps, rate)
    rng = np.random.default_rng(seed)
    top = 16 * sum(sum(s) for s in job.net.shapes.values())
    points = []
    for edge in np.geomspace(top / 32, top, 15):
        [d] = job.space.within(adapter_params=(0.8 * edge, edge)).sample(rng, 1)
        points.append(trained(job, job.ranks(d), steps, rate, seed))
    return points


def searched(strategy: str) -> Callable[[int, int, float], list[Point]]:
    """The default job with a strategy; its finalists."""

    def run(seed: int, steps: int, rate: float) -> list[Point]:
        with tempfile.TemporaryDirectory() as folder:
            full = round(15 * steps / 11)
            done = start(RunConfig(seed=seed, train_steps=full, lr=rate, strategy=strategy, out=f"{folder}/run"))
            return finalists(done)

    return run


def adalora(seed: int, steps: int, rate: float) -> list[Point]:
    """PEFT's AdaLoRA at average ranks 1, 2, 4, 8."""
    total = round(3.75 * steps)
    return [rank_methods.adalora(job_for(seed, steps, rate), r, total, rate, seed) for r in ADALORA_TARGETS]


METHODS = {
    "search": searched("nsga2"),
    "random": searched("random"),
    "uniform": uniform,
    "scatter": scatter,
    "adalora": adalora,
}


def summary(points: list[Point], top: float, worst: float, floor: float) -> dict[str, float]:
    """Hypervolume of what validation would choose at each size, at its test loss; test accuracy at the budgets."""
    front = [p for p in points if not any(q["params"] <= p["params"] and q["val_loss"] < p["val_loss"] for q in points)]
    at = np.asarray([[p["test_loss"], np.log2(max(p["params"], floor))] for p in front])
    found = {"hypervolume": hypervolume(at, np.asarray([worst, np.log2(top)]))}
    for share in SHARES:
        best = chosen(points, share * top)
        found[f"accuracy@{share:.1%}"] = best["test_accuracy"] if best else 0.1
    return found


def main() -> None:
    """Measures what is missing, then writes the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--train-steps", type=int, default=400)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    cells = Cells(args.out)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    methods = args.methods.split(",")
    for seed in seeds:
        for rate in RATES:
            for name in methods:
                cells.get(
                    f"{name} {seed} {rate} {args.train_steps}",
                    lambda n=name, s=seed, r=rate: METHODS[n](s, args.train_steps, r),
                )
                print(name, seed, rate, flush=True)
    job = job_for(0, args.train_steps, RATES[0])
    top = 16.0 * sum(sum(s) for s in job.net.shapes.values())
    floor = float(min(sum(s) for s in job.net.shapes.values()))
    worst = job.score(job.net.sliced({}), "test")["loss"]
    table: dict[str, dict[str, object]] = {}
    each: dict[str, list[dict[str, float]]] = {}
    for name in methods:
        rows = []
        for seed in seeds:
            # the rate is chosen as a user would: by the least validation loss that any point of the run reaches,
            # averaged over budgets
            runs = [cells.done[f"{name} {seed} {rate} {args.train_steps}"] for rate in RATES]
            losses = [np.mean([(chosen(p, s * top) or {"val_loss": worst})["val_loss"] for s in SHARES]) for p in runs]
            rows.append(summary(runs[int(np.argmin(losses))], top, worst, floor))
        each[name] = rows
        table[name] = {
            k: {"mean": float(np.mean([r[k] for r in rows])), "ci": interval([r[k] for r in rows])} for k in rows[0]
        }
    paired = {
        name: {k: interval([a[k] - b[k] for a, b in zip(each["search"], rows, strict=True)]) for k in rows[0]}
        for name, rows in each.items()
        if name != "search" and "search" in each
    }
    write_result(
        args.out,
        {
            "claim": "front hypervolume and test accuracy at four budgets, equal total training steps",
            "value": table["search"]["hypervolume"] if "search" in table else None,
            "unit": "nats × log2(parameters)",
            "ci": "95 % percentile bootstrap over seeds",
            "seeds": list(seeds),
            "training_steps": {"total": 15 * args.train_steps, "N": args.train_steps, "rates": list(RATES)},
            "methods": table,
            "search_minus_baseline_ci": paired,
            "baselines": [m for m in methods if m != "search"],
        },
    )
    for name, figures in table.items():
        print(name, {k: round(v["mean"], 3) for k, v in figures.items()})  # type: ignore[index]


if __name__ == "__main__":
    main()
