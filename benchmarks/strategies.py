"""Our strategies beside Optuna's, pymoo's and SMAC's on tables of known values: hypervolume and regret by evaluations.

Needs the tables and reference points (`--data FOLDER`, the folder that holds nas/references.json), and for the peers
`pip install pymoo smac`. Each (task, optimiser, seed) is a cell, kept when it is done: an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peers import PEERS, run_peer
from record import Cells, interval, write_result

from archrank.search.bench.cells import run_cell
from archrank.search.bench.task import Task, from_references

MARKS = [50, 100, 200, 500]
TASKS = {
    "nb201_c100_titanrtx": "nasbench201",
    "nb201_in16_fpga": "nasbench201",
    "nb201_c10_gold6226": "nasbench201",
    "gpt2_small_a100": "gpt2_elastic",
    "nb201_c100_regret": "nasbench201",
    "nb201_in16_regret": "nasbench201",
    "nb201_c10_regret": "nasbench201",
}
OURS = {"surrogate": 500, "linas": 500, "nsga2": 500, "regularized_evolution": 500, "local_search": 500, "random": 500}
BARS = {  # the best peer's published mean at 50, 100, 200, 500 evaluations (the data's README)
    "nb201_c100_titanrtx": (0.701, 0.793, 0.880, 0.949),
    "nb201_in16_fpga": (0.716, 0.803, 0.879, 0.946),
    "nb201_c10_gold6226": (0.666, 0.815, 0.892, 0.950),
    "gpt2_small_a100": (0.882, 0.876, 0.897, 0.924),
    "nb201_c100_regret": (0.139, 0.000, 0.000, 0.000),
    "nb201_in16_regret": (0.536, 0.342, 0.306, 0.010),
    "nb201_c10_regret": (0.202, 0.065, 0.000, 0.000),
}
SLOW = {"optuna GP": 5, "smac": 5, "optuna TPE multivariate": 10}  # seeds of peers that take minutes each


def measure(task: Task, name: str, seed: int, trials: int) -> dict[str, Any]:
    """One cell."""
    began = time.process_time()
    if name in PEERS:
        found = run_peer(name, task, seed, trials, MARKS)
    else:
        cell = run_cell(task, name, seed, trials)
        found = {"scores": {str(n): cell.curve[n] for n in MARKS if n in cell.curve}, "repeated": 0.0}
        found["evaluations"] = cell.ended
    return {**found, "cpu_ms_per_evaluation": 1000 * (time.process_time() - began) / max(int(found["evaluations"]), 1)}


def summed(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and 95 % interval at each budget that every seed reached."""
    out: dict[str, Any] = {"seeds": len(cells)}
    for n in map(str, MARKS):
        values = [c["scores"][n] for c in cells if n in c["scores"]]
        if len(values) == len(cells):
            out[n] = {"mean": sum(values) / len(values), "ci": interval(values)}
    out["repeated"] = sum(c["repeated"] for c in cells) / len(cells)
    out["cpu_ms_per_evaluation"] = sum(c["cpu_ms_per_evaluation"] for c in cells) / len(cells)
    return out


def main() -> None:
    """All cells of the chosen tasks and optimisers, then the summary."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/strategies.json"))
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("ARCHRANK_DATA", "../shared/data")))
    parser.add_argument("--task", action="append", choices=list(TASKS), help="repeatable; default: all")
    parser.add_argument("--only", action="append", help="optimisers (repeatable; default: all)")
    parser.add_argument("--minutes", type=float, default=9.0, help="stop after this long; run again to go on")
    args = parser.parse_args()
    stop = time.monotonic() + 60 * args.minutes
    cells = Cells(args.out)
    wanted = [n for n in [*OURS, *PEERS] if not args.only or n in args.only]
    if find_spec("smac") is None:
        wanted = [n for n in wanted if n != "smac"]
    missing = 0
    for task_name in args.task or TASKS:
        task: Task | None = None
        for name in wanted:
            for seed in range(args.seed, args.seed + min(args.seeds, SLOW.get(name, args.seeds))):
                cell = f"{task_name} | {name} | {seed}"
                if cell in cells.done:
                    continue
                if time.monotonic() > stop:
                    missing += 1
                    continue
                task = task or from_references(args.data / "nas" / "references.json", task_name, TASKS[task_name], None)
                cells.get(cell, lambda t=task, n=name, s=seed: measure(t, n, s, 500))
    result: dict[str, Any] = {}
    for task_name in TASKS:
        for name in [*OURS, *PEERS]:
            done = [v for k, v in cells.done.items() if k.split(" | ")[:2] == [task_name, name]]
            if done:
                result.setdefault(task_name, {})[name] = summed(done)
    ours = {t: r["surrogate"] for t, r in result.items() if "surrogate" in r}
    write_result(
        args.out,
        {
            "claim": "surrogate is above the best peer on each multi-objective task at 100, 200 and 500 evaluations",
            "value": {t: [r.get(str(n), {}).get("mean") for n in MARKS] for t, r in ours.items()},
            "unit": "hypervolume / that of the true front at 50, 100, 200, 500 evaluations; regret in points",
            "ci": {t: [r.get(str(n), {}).get("ci") for n in MARKS] for t, r in ours.items()},
            "seeds": args.seeds,
            "baselines": {"published bars": BARS, "all": result},
        },
    )
    for task_name, by_name in result.items():
        print(task_name, "bar", BARS[task_name])
        for name, row in by_name.items():
            shown = " ".join(f"{row[str(n)]['mean']:.3f}" if str(n) in row else "-" for n in MARKS)
            print(f"  {name:26} {shown}  ({row['seeds']} seeds, {row['cpu_ms_per_evaluation']:.1f} ms)")
    if missing:
        print(f"{missing} cells are missing: run again")


if __name__ == "__main__":
    main()
