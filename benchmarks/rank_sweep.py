"""One supernet for the sweep over ranks 1 … 16: quality at each uniform rank, and the ratio of total time.

    python benchmarks/rank_sweep.py --seeds 5 --out benchmarks/results/rank_sweep.json

Alone: each of the 16 ranks for N steps, one after the other. `dylora` and `mixed`: one supernet of 2 N steps, each rank
read from it as it stands, and after N / 8 more steps. Seconds are CPU seconds of one seed's whole sweep on one
thread, the methods in turn; a cell is (seed, method).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from record import Cells, interval, write_result

from archrank.search.config import RunConfig
from archrank.search.job import prepare
from archrank.supernet import policies
from archrank.supernet.training import TrainPlan, train

RATE = 1e-2
Figures = dict[str, list[float]]


def measured(method: str, seed: int, steps: int) -> Figures:
    """Test losses at ranks 1 … 16 and the seconds of the sweep; of a supernet also after the short tuning."""
    job = prepare(RunConfig(seed=seed, train_steps=steps, lr=RATE))
    began = time.process_time()
    told: Figures = {"loss": [], "tuned": []}
    if method != "alone":
        rule = policies.load(method)(job.net.shapes, job.net.r_max, seed, ranks=range(17))
        train(job.net, job.batches(seed), job.loss, TrainPlan(2 * steps, RATE, seed=seed), policy=rule)
    spent = time.process_time() - began
    told["seconds"] = [spent]
    tuning = 0.0
    for rank in range(1, 17):
        net = job.net.sliced(dict.fromkeys(job.net.names, rank))
        began = time.process_time()
        if method == "alone":
            train(net, job.batches(seed), job.loss, TrainPlan(steps, RATE, seed=seed))
            told["seconds"][0] += time.process_time() - began
        told["loss"].append(job.score(net, "test")["loss"])
        if method != "alone":
            began = time.process_time()
            train(net, job.batches(seed), job.loss, TrainPlan(max(1, steps // 8), RATE, seed=seed + 1000))
            tuning += time.process_time() - began
            told["tuned"].append(job.score(net, "test")["loss"])
    told["tuned_seconds"] = [told["seconds"][0] + tuning]
    return told


def main() -> None:
    """Measures what is missing, then writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--train-steps", type=int, default=400, help="N")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cells, found = Cells(args.out), dict[str, list[Figures]]()
    for seed in range(args.seeds):
        for method in ("alone", "mixed", "dylora"):
            key = f"digits {seed} {method} {args.train_steps}"
            value = cells.get(key, lambda m=method, s=seed: measured(m, s, args.train_steps))  # type: ignore[misc]
            found.setdefault(method, []).append(value)  # type: ignore[arg-type]
            print(key, flush=True)

    def ratio(method: str, name: str) -> list[float]:
        return [a["seconds"][0] / b[name][0] for a, b in zip(found["alone"], found[method], strict=True)]

    def gap(method: str, name: str) -> list[float]:
        return [
            float(np.mean(np.subtract(b[name], a["loss"]))) for a, b in zip(found["alone"], found[method], strict=True)
        ]

    table = {
        method: {
            "time_ratio": {"mean": float(np.mean(ratio(method, "seconds"))), "ci": interval(ratio(method, "seconds"))},
            "loss_gap": {"mean": float(np.mean(gap(method, "loss"))), "ci": interval(gap(method, "loss"))},
            "tuned_time_ratio": {
                "mean": float(np.mean(ratio(method, "tuned_seconds"))),
                "ci": interval(ratio(method, "tuned_seconds")),
            },
            "tuned_loss_gap": {"mean": float(np.mean(gap(method, "tuned"))), "ci": interval(gap(method, "tuned"))},
        }
        for method in ("mixed", "dylora")
    }
    write_result(
        args.out,
        {
            "claim": "time of 16 trainings over that of one supernet, and what it costs in test loss, mean over ranks",
            "value": table["dylora"]["time_ratio"]["mean"],
            "unit": "ratio of seconds",
            "ci": table["dylora"]["time_ratio"]["ci"],
            "seeds": args.seeds,
            "baselines": ["alone"],
            "methods": table,
        },
    )
    print(table)


if __name__ == "__main__":
    main()
