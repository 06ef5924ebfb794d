"""Does the supernet rank configurations as training each alone does? On the embedded task.

    python benchmarks/rank_agreement.py --out benchmarks/results/rank_agreement.json

A run of the default job, then `search agreement` on it: stand-alone trainings of 600 steps on three seeds, sixteen in a
pass; 50 configurations over all budgets and 50 in each of two strata of equal parameters. Everything lies in --run
(default: beside the result), so an interrupted measurement goes on where it was.
Published: Kendall τ wide and within strata of equal parameters, of inherited loss, of the parameter count and of the
best kind of module, the run-to-run ceiling, 95 % intervals over configurations.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from record import write_result

from archrank.search.agreement import agreement
from archrank.search.config import RunConfig
from archrank.search.run import resume, start


def main() -> None:
    """Measures, then writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--configs", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train-steps", type=int, default=600)
    parser.add_argument("--supernet-steps", type=int, default=1600, help="--train-steps of the run")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    folder = args.run or args.out.with_suffix(".run")
    if (folder / "config.toml").exists():
        resume(folder)
    else:
        start(RunConfig(seed=args.seed, train_steps=args.supernet_steps, trials=50, finalists=0, out=str(folder)))
    found = agreement(folder, args.configs, args.seeds, args.train_steps, lambda done, n: print(done, n, flush=True))
    told = found.to_json()
    write_result(
        args.out,
        {
            "claim": "Kendall tau of inherited against converged loss within strata of equal adapter parameters",
            "value": found.iso.tau,
            "unit": "Kendall tau_b",
            "ci": list(found.iso.intervals["tau"]),
            "seeds": args.seeds,
            "baselines": {"params": found.iso.params, "per_kind": found.iso.per_kind, "ceiling": found.iso.ceiling},
            **told,
        },
    )
    print(found.describe())


if __name__ == "__main__":
    main()
