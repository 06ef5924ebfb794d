"""The weight bank of architecture spaces against training each candidate from scratch, at equal total epochs.

    python benchmarks/weight_bank.py --seed 0 --out benchmarks/results/weight_bank.json

Space: einspace on 8 × 8 images, at most 5 MFLOPs and 192 KiB of written values a row. Tasks: `digits` (1,000 training
rows) and `digit-sums` (2,000). Every method spends 144 epochs on its search; its best candidate by validation loss is
then trained from scratch for 12 epochs on 3 seeds, and its mean test accuracy counts.

- `bank`: 48 candidates, 3 epochs each, starting from the bank;
- `bank, no parent`: the same without the alignment to the nearest relative;
- `short`: 48 candidates, 3 epochs each from scratch;
- `full`: 12 candidates, 12 epochs each from scratch;
- `largest`: of 48 random candidates the one with most parameters, nothing trained.

Ranking: 24 candidates of each bank run are trained from scratch for 12 epochs on 2 seeds. Kendall τ-b to those
validation losses of: the score that the bank gave during its run, 3 epochs from scratch, the parameter count; the
ceiling is the τ between the two seeds. The paired unit is the seed; intervals are percentile bootstraps over seeds.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from record import Cells, arguments, interval, write_result

from archrank.grammar import Architecture
from archrank.predictors.metrics import kendall
from archrank.search.architecture_job import ArchitectureJob, prepare_architectures
from archrank.search.config import RunConfig
from archrank.search.study import Study
from archrank.supernet.bank import Bank
from archrank.supernet.network_training import fit, score
from archrank.supernet.networks import build
from archrank.supernet.relatives import Relatives
from archrank.supernet.training import NonFiniteLoss, TrainPlan

TASKS = ("digits", "digit-sums")
SEEDS = 5
SHORT, FULL, BUDGET = 3, 12, 144
WRITTEN = 192 * 2**10
RANKED = 24
STRATEGY = "nsga2"
DIVERGED = {"loss": float("inf"), "accuracy": 0.0}


def job_for(task: str, seed: int) -> ArchitectureJob:
    """The checked run whose parts are used here; its bounds are those of the search."""
    where = ("flops <= 5M", "activation_bytes <= 128KiB")
    return prepare_architectures(RunConfig(space="einspace", data=task, where=where, objective=("loss",), seed=seed))


def epochs(job: ArchitectureJob, number: int) -> int:
    """Steps of that many epochs."""
    assert job.config.batch_size is not None
    return number * -(-job.data.size("train") // job.config.batch_size)


def trained(job: ArchitectureJob, network: torch.nn.Module, steps: int, seed: int) -> dict[str, float]:
    """Validation loss and accuracy after training in place."""
    assert job.config.batch_size is not None
    try:
        fit(network, job.data, TrainPlan(steps, 2e-3, seed=seed, weight_decay=0.01), job.config.batch_size)
    except NonFiniteLoss:
        return DIVERGED
    told = score(network, job.data, "validation")
    return told if np.isfinite(told["loss"]) else DIVERGED


def small(architecture: Architecture) -> bool:
    """Whether a candidate is trained at all here."""
    return 4 * sum(op.written for op in architecture.ops) <= WRITTEN and architecture.params > 0


def search(task: str, seed: int, method: str) -> list[dict[str, object]]:
    """Trials in order: sentence, validation loss."""
    job = job_for(task, seed)
    each = FULL if method == "full" else SHORT
    study = Study(job.space, job.objectives, STRATEGY, seed)
    bank, relatives, found = Bank(job.space), Relatives(), list[dict[str, object]]()
    while len(found) < BUDGET // each:
        [d] = study.ask(1)
        architecture, number = job.architecture(d), study.next_id - 1
        if not small(architecture):
            study.tell(d, {}, infeasible="too large")
            continue
        own = 10_000 * (1 + seed) + number
        if method.startswith("bank"):
            parent = relatives.nearest(architecture) if method == "bank" else None
            network = bank.build(architecture, seed=own, parent=parent)
        else:
            network = build(architecture, own)
        told = trained(job, network, epochs(job, each), own)
        if np.isfinite(told["loss"]):
            study.tell(d, told)
            if method.startswith("bank"):
                bank.update(architecture, network)
                relatives.add(architecture)
        else:
            study.fail(d, "diverged")
        found.append({"text": d.text, "loss": told["loss"], "params": architecture.params})
    return found


def largest(task: str, seed: int) -> list[dict[str, object]]:
    """48 random candidates; the loss is minus the parameter count."""
    job, generator, found = job_for(task, seed), np.random.default_rng(seed), list[dict[str, object]]()
    while len(found) < BUDGET // SHORT:
        [d] = job.space.sample(generator)
        architecture = job.architecture(d)
        if small(architecture):
            found.append({"text": d.text, "loss": -architecture.params, "params": architecture.params})
    return found


def final(task: str, seed: int, trials: list[dict[str, object]]) -> float:
    """Mean test accuracy of the best trial's candidate over 3 trainings from scratch."""
    job = job_for(task, seed)
    best = min(trials, key=lambda t: float(str(t["loss"])))
    architecture, reached = job.architecture(job.space.parse(str(best["text"]))), []
    for k in range(3):
        network = build(architecture, 500 + 1000 * k + seed)
        told = trained(job, network, epochs(job, FULL), 500 + 1000 * k + seed)
        reached.append(score(network, job.data, "test")["accuracy"] if np.isfinite(told["loss"]) else 0.0)
    return float(np.mean(reached))


def ranking(task: str, seed: int, trials: list[dict[str, object]]) -> dict[str, float]:
    """Kendall's τ-b of each predictor to converged validation losses, over candidates drawn from a bank run."""
    job = job_for(task, seed)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(trials))[:RANKED])
    chosen = [trials[int(i)] for i in drawn]
    truths, short = np.empty((2, len(chosen))), np.empty(len(chosen))
    for i, trial in enumerate(chosen):
        architecture = job.architecture(job.space.parse(str(trial["text"])))
        for k in range(2):
            own = 77_000 + 1000 * k + seed
            truths[k, i] = trained(job, build(architecture, own), epochs(job, FULL), own)["loss"]
        short[i] = trained(job, build(architecture, 5 + seed), epochs(job, SHORT), 5 + seed)["loss"]
    worst = 10.0
    truths, short = np.minimum(truths, worst), np.minimum(short, worst)
    inherited = np.minimum([float(str(t["loss"])) for t in chosen], worst)
    params = [-float(str(t["params"])) for t in chosen]
    told = {"bank": inherited, "short": short, "params": params}
    found = {name: float(np.mean([kendall(t, values) for t in truths])) for name, values in told.items()}
    return found | {"ceiling": kendall(truths[0], truths[1])}


def main() -> None:
    """Runs what is not known yet and writes the summary."""
    options = arguments(__doc__)
    torch.set_num_threads(1)
    cells = Cells(options.out)
    methods = {name: partial(search, method=name) for name in ("bank", "bank, no parent", "short", "full")}
    methods["largest"] = largest
    tests: dict[tuple[str, str], list[float]] = {}
    taus: dict[tuple[str, str], list[float]] = {}
    for seed in range(options.seed, options.seed + SEEDS):
        for task in TASKS:
            for name, method in methods.items():
                trials = cells.get(f"{task} {seed} {name}", partial(method, task, seed))
                test = cells.get(f"{task} {seed} {name} test", partial(final, task, seed, trials))
                tests.setdefault((task, name), []).append(test)
                print(task, seed, name, test, flush=True)
            bank = cells.get(f"{task} {seed} bank", None)
            for name, tau in cells.get(f"{task} {seed} tau", partial(ranking, task, seed, bank)).items():
                taus.setdefault((task, name), []).append(tau)
            print(task, seed, {n: round(v[-1], 2) for (t, n), v in taus.items() if t == task}, flush=True)
    main_one = np.subtract(tests["digit-sums", "bank"], tests["digit-sums", "full"])
    result: dict[str, object] = {
        "claim": " ".join((__doc__ or "").split("\n\n")[0].split()),
        "value": float(np.mean(main_one)),
        "unit": "test accuracy on digit-sums above full training of each candidate",
        "ci": interval(list(main_one)),
        "seeds": SEEDS,
        "baselines": list(methods)[1:],
    }
    for task in TASKS:
        own = {n: v for (t, n), v in tests.items() if t == task}
        result[task] = {
            "test accuracy": {n: {"mean": float(np.mean(v)), "interval": interval(v)} for n, v in own.items()},
            "bank minus": {
                n: {"mean": float(np.mean(d)), "interval": interval(list(d))}
                for n in own
                if n != "bank"
                for d in [np.subtract(own["bank"], own[n])]
            },
            "kendall tau": {
                n: {"mean": float(np.mean(v)), "interval": interval(v)} for (t, n), v in taus.items() if t == task
            },
        }
    write_result(Path(options.out), result)


if __name__ == "__main__":
    main()
