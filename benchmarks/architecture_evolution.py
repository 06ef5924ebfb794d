"""Random search against regularised evolution over einspace on 8 × 8 digits, from nothing and from ResNet-18.

    python benchmarks/architecture_evolution.py --seed 0 --out benchmarks/results/architecture_evolution.json

100 evaluations each, a candidate trained from scratch for 3 epochs; the best by validation loss is then trained for 12
epochs on 3 seeds, and its mean test accuracy counts. At most 6 MFLOPs and 512 KiB of written values a row.

- `random`: samples of the grammar;
- `evolution`: `regularized_evolution`, its first 20 candidates being samples;
- `mutants`: the shipped ResNet-18 sentence with widths divided by 8 (at least 16), and 99 mutants of it;
- `evolution from it`: the sentence and 19 mutants first, then `regularized_evolution`;
- `ResNet-18`: the sentence itself, nothing searched.

The unit is the seed; differences are paired, intervals percentile bootstraps.
"""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import torch
from record import Cells, arguments, interval, write_result
from weight_bank import FULL, SHORT, epochs, trained

from archrank import spaces
from archrank.grammar import Derivation
from archrank.search.architecture_job import ArchitectureJob, prepare_architectures
from archrank.search.config import RunConfig
from archrank.search.study import Study
from archrank.supernet.network_training import score
from archrank.supernet.networks import build

SEEDS, EVALUATIONS, FIRST = 5, 100, 20
WRITTEN = 512 * 2**10
METHODS = ("random", "evolution", "mutants", "evolution from it")


def job_for(seed: int) -> ArchitectureJob:
    """The checked run whose parts are used here."""
    where = ("flops <= 6M", "activation_bytes <= 128KiB")
    return prepare_architectures(
        RunConfig(space="einspace", data="digits", where=where, objective=("loss",), seed=seed)
    )


def resnet18(job: ArchitectureJob) -> Derivation:
    """The shipped sentence, an eighth as wide."""
    text = spaces.sentences("einspace")["resnet18"]
    return job.space.parse(re.sub(r"linear\((\d+)\)", lambda m: f"linear({max(16, int(m[1]) // 8)})", text))


def search(seed: int, method: str) -> dict[str, object]:
    """The best sentence by validation loss, and how the best fell over the evaluations."""
    job = job_for(seed)
    study = Study(job.space, job.objectives, "random" if method == "random" else "regularized_evolution", seed)
    from_it, generator = method in ("mutants", "evolution from it"), np.random.default_rng(seed)
    start, fell, found = resnet18(job), list[float](), list[tuple[float, str]]()
    told = set[str]()
    while len(found) < EVALUATIONS:
        if from_it and (method == "mutants" or len(found) < FIRST):
            d = job.space.mutate(start, generator) if told else start
            if d.key in told:
                continue
        else:
            [d] = study.ask(1)
        told.add(d.key)
        architecture = job.architecture(d)
        if not architecture.params or 4 * sum(op.written for op in architecture.ops) > WRITTEN:
            study.tell(d, {}, infeasible="too large")
            continue
        own = 10_000 * (1 + seed) + len(found)
        values = trained(job, build(architecture, own), epochs(job, SHORT), own)
        if np.isfinite(values["loss"]):
            study.tell(d, values)
        else:
            study.fail(d, "diverged")
        found.append((values["loss"], d.text))
        fell.append(min(found)[0])
    return {"text": min(found)[1], "best loss after": fell}


def final(seed: int, text: str) -> float:
    """Mean test accuracy over 3 trainings from scratch."""
    job = job_for(seed)
    architecture, reached = job.architecture(job.space.parse(text)), []
    for k in range(3):
        network = build(architecture, 500 + 1000 * k + seed)
        trained(job, network, epochs(job, FULL), 500 + 1000 * k + seed)
        reached.append(score(network, job.data, "test")["accuracy"])
    return float(np.mean(reached))


def main() -> None:
    """Runs what is not known yet and writes the summary."""
    options = arguments(__doc__)
    torch.set_num_threads(1)
    cells = Cells(options.out)
    tests: dict[str, list[float]] = {}
    for seed in range(options.seed, options.seed + SEEDS):
        texts = {}
        for method in METHODS:
            texts[method] = cells.get(f"{seed} {method}", partial(search, seed, method))["text"]
        texts["ResNet-18"] = resnet18(job_for(seed)).text
        for method, text in texts.items():
            tests.setdefault(method, []).append(cells.get(f"{seed} {method} test", partial(final, seed, text)))
            print(seed, method, tests[method][-1], flush=True)
    pairs = [("evolution", "random"), ("evolution from it", "mutants"), ("evolution from it", "ResNet-18")]
    pairs.append(("evolution from it", "evolution"))
    differences = {f"{a} - {b}": np.subtract(tests[a], tests[b]) for a, b in pairs}
    write_result(
        options.out,
        {
            "claim": " ".join((__doc__ or "").split("\n\n")[0].split()),
            "value": float(np.mean(differences["evolution - random"])),
            "unit": "test accuracy of evolution above random search",
            "ci": interval(list(differences["evolution - random"])),
            "seeds": SEEDS,
            "baselines": ["random", "mutants", "ResNet-18"],
            "test accuracy": {m: {"mean": float(np.mean(v)), "interval": interval(v)} for m, v in tests.items()},
            "paired": {n: {"mean": float(np.mean(d)), "interval": interval(list(d))} for n, d in differences.items()},
        },
    )


if __name__ == "__main__":
    main()
