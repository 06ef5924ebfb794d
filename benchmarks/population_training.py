"""What training 16 adapters of the embedded task in one pass costs, against 16 runs one after the other.

    python benchmarks/population_training.py --out benchmarks/results/population_training.json [--seed 0]

Baselines: the run's own training loop over a slice of the supernet, and train_population with one member; the same
ranks, batches, steps, optimiser and clipping. One thread, CPU time, alternating; a figure is the median over rounds.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from record import Cells, arguments, interval, write_result

from archrank.search.config import RunConfig
from archrank.search.job import prepare
from archrank.supernet import train_population
from archrank.supernet.training import TrainPlan, train

MEMBERS, STEPS, ROUNDS = 16, 10, 5


def at_batch(rows: int, seed: int) -> dict[str, object]:
    """Ratios at one batch size."""
    job = prepare(RunConfig(seed=seed, threads=1))
    net, rng = job.net, np.random.default_rng(seed)
    configs = [{n: int(rng.choice([1, 2, 4, 8, 16])) for n in net.names} for _ in range(MEMBERS)]
    data = [job.data.batch("train", np.arange(i * rows, (i + 1) * rows)) for i in range(STEPS)]
    seeds = list(range(MEMBERS))

    def runs() -> None:
        for config in configs:
            train(net.sliced(config), lambda s: (data[s], np.arange(rows)), job.loss, TrainPlan(STEPS, 1e-3))

    def alone() -> None:
        for config, start in zip(configs, seeds, strict=True):
            train_population(job.base.model, [config], data, STEPS, [start])

    def together() -> None:
        train_population(job.base.model, configs, data, STEPS, seeds)

    sides: dict[str, Callable[[], None]] = {"runs": runs, "alone": alone, "together": together}
    spent: dict[str, list[float]] = {name: [] for name in sides}
    together()
    for k in range(ROUNDS):
        for name in list(sides)[:: 1 if k % 2 else -1]:
            began = time.process_time()
            sides[name]()
            spent[name].append(time.process_time() - began)
    ratio = {n: [a / b for a, b in zip(spent[n], spent["together"], strict=True)] for n in ("runs", "alone")}
    return {
        "over_runs": float(np.median(ratio["runs"])),
        "ci": interval(ratio["runs"]),
        "over_population_of_one": float(np.median(ratio["alone"])),
        "ms_per_step": {n: float(np.median(s)) / STEPS * 1000 for n, s in spent.items()},
        "tokens_per_member_and_step": rows * 17,
    }


def main() -> None:
    """Measures what is missing and writes the result."""
    args = arguments(__doc__)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cells = Cells(args.out)
    found = {}
    for rows in (32, 8, 2):
        found[f"batch {rows}"] = cells.get(f"batch {rows}", lambda r=rows: at_batch(r, args.seed))
        print(rows, found[f"batch {rows}"], flush=True)
    told = found["batch 32"]
    assert isinstance(told, dict)
    write_result(
        args.out,
        {
            "claim": f"CPU time of {MEMBERS} training runs over one population pass, embedded ViT of 3 × 32, batch 32",
            "value": told["over_runs"],
            "unit": "ratio",
            "ci": told["ci"],
            "seeds": [args.seed],
            "baselines": ["the run's training loop, one after the other", "train_population of one"],
            "cases": found,
        },
    )


if __name__ == "__main__":
    main()
