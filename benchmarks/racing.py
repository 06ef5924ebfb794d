"""How many validation rows racing saves on the embedded task, and whether the front stays what it is without.

    python benchmarks/racing.py --out benchmarks/results/racing.json [--seed 0]

Five seeds, each with a supernet of its own. Population: 200 sampled candidates by loss and adapter parameters, rows of
a full evaluation over rows of the race (the pilot's counted in), certain and with sampled blocks at error 0.05. Search:
200 trials of the run's own search phase, by strategy, raced and not from the same supernet; `random` proposes the same
to both, `nsga2` does not, so its fronts are compared by hypervolume. Seconds are CPU time of one thread.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from record import Cells, arguments, interval, write_result

from archrank.search import candidates
from archrank.search.config import RunConfig
from archrank.search.interrupt import Interrupts
from archrank.search.progress import Silent
from archrank.search.rank_run import RankPhases
from archrank.search.run import prepared
from archrank.supernet.race_evaluation import race_population
from archrank.supernet.racing import Race

SEEDS, CANDIDATES = 5, 200


def front(losses: Sequence[float], cost: Sequence[float]) -> set[int]:
    """The candidates that no other one beats in both."""
    n = range(len(losses))
    points = list(zip(losses, cost, strict=True))
    return {
        j for j in n if not any(points[i] != points[j] and losses[i] <= losses[j] and cost[i] <= cost[j] for i in n)
    }


def phases(seed: int, strategy: str, folder: Path, *, whole: bool = False) -> RankPhases:
    """A run up to its search."""
    folder.mkdir(exist_ok=True)
    job = prepared(RunConfig(seed=seed, strategy=strategy, race="off" if whole else "on", trials=CANDIDATES, threads=1))
    found = RankPhases(job, folder)  # type: ignore[arg-type]
    found.progress = Silent()
    with Interrupts() as found.interrupts:
        found._head()
        found._supernet()
        found._reference()
    return found


def population(run: RankPhases, seed: int) -> dict[str, object]:
    """Both races of one population."""
    job = run.job
    ds = job.space.sample(np.random.default_rng(seed), n=CANDIDATES)
    data = [job.data.batch("validation", np.arange(job.data.size("validation")))]
    cost = [float(sum(r * sum(job.net.shapes[n]) for n, r in job.ranks(d).items())) for d in ds]
    full = job.net.evaluate(ds, data)
    told: dict[str, object] = {"front": len(front(full.tolist(), cost))}
    for name, race in {
        "certain": Race(costs=[(c,) for c in cost]),
        "sampled": Race(error=0.05, costs=[(c,) for c in cost], block_rows=8, seed=seed),
    }.items():
        raced = race_population(job.net, ds, data, race)
        stayed = torch.where(raced.dropped, torch.inf, raced.losses)
        told[name] = {
            "rows_ratio": CANDIDATES * job.data.size("validation") / (int(raced.rows.sum()) + raced.pilot_rows),
            "front_lost": len(front(full.tolist(), cost) - front(stayed.tolist(), cost)),
        }
    return told


def searched(seed: int, strategy: str, folder: Path, supernet: Path) -> dict[str, object]:
    """One search, raced and not."""
    told: list[dict[str, object]] = []
    for whole in (False, True):
        here = folder / f"{strategy}-{whole}"
        here.mkdir()
        shutil.copy(supernet, here / supernet.name)
        run = phases(seed, strategy, here, whole=whole)
        with Interrupts() as run.interrupts:
            began = time.process_time()
            run._search()
            seconds = time.process_time() - began
        trials, rows = run.study.trials, run._scorer.rows
        assert run.scale is not None
        chosen = candidates.to_rerank(trials, run.strata, run.job.objectives, run.job.config.finalists)
        told.append(
            {
                "rows": sum(t.extra["raced"]["rows"] if t.raced else rows for t in trials),  # type: ignore[index]
                "seconds": seconds,
                "front": sorted([t.text, *t.values.values()] for t in run.study.front()),
                "promoted": [t.text for t in chosen],
                "hypervolume": run.scale.hypervolume([t for t in trials if not t.raced]),
            }
        )
    raced, plain = told
    return {
        "rows_ratio": plain["rows"] / raced["rows"],  # type: ignore[operator]
        "seconds_ratio": plain["seconds"] / raced["seconds"],  # type: ignore[operator]
        "same_front": raced["front"] == plain["front"],
        "same_promoted": raced["promoted"] == plain["promoted"],
        "hypervolume": [raced["hypervolume"], plain["hypervolume"]],
    }


def of_seed(seed: int, strategies: Sequence[str]) -> dict[str, object]:
    """The population of one supernet, or its searches by these strategies."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = phases(seed, "random", folder / "supernet")
        if not strategies:
            return population(run, seed)
        file = folder / "supernet" / "supernet.safetensors"
        return {strategy: searched(seed, strategy, folder, file) for strategy in strategies}


def main() -> None:
    """Measures what is missing and writes the result."""
    args = arguments(__doc__)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cells = Cells(args.out)
    seeds = list(range(args.seed, args.seed + SEEDS))
    populations = {f"population, seed {s}": lambda s=s: of_seed(s, ()) for s in seeds}
    searches = {f"search, seed {s}": lambda s=s: of_seed(s, ("random", "nsga2")) for s in seeds}
    found = cells.all({**populations, **searches})
    ratios = [found[name]["certain"]["rows_ratio"] for name in populations]  # type: ignore[index]
    write_result(
        args.out,
        {
            "claim": f"validation rows of all {CANDIDATES} candidates over those of a race that keeps the front",
            "value": float(np.mean(ratios)),
            "unit": "ratio (embedded ViT of 3 × 32, 300 rows)",
            "ci": interval(ratios),
            "seeds": seeds,
            "baselines": ["every row for every candidate", "sampled blocks at error 0.05"],
            "cases": found,
        },
    )


if __name__ == "__main__":
    main()
