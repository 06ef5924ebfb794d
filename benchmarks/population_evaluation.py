"""What evaluating a population costs by each method, against the plain loop.

    python benchmarks/population_evaluation.py --out benchmarks/results/population_evaluation.json [--seed 0]

Populations: children of 8 parents with one mutation (four each), whose parents were evaluated before. Methods alternate
in one process on one thread, in CPU time; a figure is the median over rounds of loop time / method time, each round
with a population of its own and with the parents' states made anew.
"""

from __future__ import annotations

import time
import warnings

import numpy as np
import torch
from populations import SIZES, batches, children, net_of
from record import Cells, arguments, interval, write_result

from archrank.search.config import RunConfig
from archrank.search.job import prepare
from archrank.supernet import Elastic, evaluation_methods
from archrank.supernet.training import TrainPlan, train

METHODS = ("loop", "auto", *(m for m in evaluation_methods() if m != "loop"))
ROUNDS = 5


def compared(net: Elastic, data: list[dict[str, torch.Tensor]], seed: int, each: int = 4) -> dict[str, object]:
    """Median ratios to the loop, their interval over rounds, ms a candidate and the largest difference of a loss."""
    ratios: dict[str, list[float]] = {m: [] for m in METHODS}
    spent: dict[str, list[float]] = {m: [] for m in METHODS}
    worst = dict.fromkeys(METHODS, 0.0)
    for k in range(ROUNDS):
        parents, population = children(net, 8, each, 1, 1000 * seed + k)
        told, seconds = {}, {}
        for method in METHODS[:: 1 if k % 2 else -1]:
            net.states.clear()
            if method != "loop":
                net.evaluate(parents, data, method)
            began = time.process_time()
            told[method] = net.evaluate(population, data, method)
            seconds[method] = time.process_time() - began
        for method in METHODS:
            ratios[method].append(seconds["loop"] / seconds[method])
            spent[method].append(seconds[method] / len(population) * 1000)
            worst[method] = max(worst[method], float((told[method] - told["loop"]).abs().max()))
    return {
        m: {
            "loop_time_over_time": float(np.median(ratios[m])),
            "ci": interval(ratios[m]),
            "ms_per_candidate": float(np.median(spent[m])),
            "max_abs_difference": worst[m],
        }
        for m in METHODS
    }


def sized(name: str, dtype: torch.dtype, seed: int) -> dict[str, object]:
    """One random model."""
    size = SIZES[name]
    return {"model": size.name, **compared(net_of(size, dtype=dtype), batches(size, dtype=dtype), seed)}


def embedded(seed: int) -> dict[str, object]:
    """The embedded task."""
    job = prepare(RunConfig(policy="mixed", seed=seed, threads=1))
    train(job.net, job.batches(seed), job.loss, TrainPlan(600, 1e-2, seed=seed), policy=job.policy)
    data = [job.data.batch("validation", np.arange(job.data.size("validation")))]
    rows = job.data.size("validation")
    return {"model": f"embedded ViT of 3 × 32, {rows} × 17 tokens", **compared(job.net, data, seed)}


def main() -> None:
    """Measures what is missing and writes the result."""
    args = arguments(__doc__)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cells = Cells(args.out)
    found: dict[str, object] = {"embedded fp32": cells.get("embedded fp32", lambda: embedded(args.seed))}
    for name in ("minilm-64", "minilm-256", "vit-tiny-197"):
        for label, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            cell = f"{name} {label}"
            found[cell] = cells.get(cell, lambda n=name, d=dtype: sized(n, d, args.seed))
            print(cell, found[cell], flush=True)
    told = found["vit-tiny-197 fp32"]
    assert isinstance(told, dict)
    write_result(
        args.out,
        {
            "claim": "CPU time of the plain loop over that of method auto, children of 8 parents with one mutation",
            "value": told["auto"]["loop_time_over_time"],
            "unit": f"ratio ({told['model']}, fp32)",
            "ci": told["auto"]["ci"],
            "seeds": [args.seed],
            "baselines": ["loop"],
            "cases": found,
        },
    )


if __name__ == "__main__":
    main()
