"""How well surrogates and zero-cost proxies rank candidates, beside counting parameters and cheap training.

    python benchmarks/quality_predictors.py [--seeds N] [--embedded] [--out F.json]

- NAS-Bench-201 (`ARCHRANK_DATA`, default `../shared/data`): Kendall's τ-b with the 12-epoch validation accuracy and
  the 200-epoch test accuracy on three data sets. Proxies: fresh networks, one batch of 16 digits scaled to 3 × 32 × 32
  (the benchmark's own images are not among the public tables), 20 live cells a seed. Surrogates: fitted to n cells'
  200-epoch accuracy, judged on 2,000 others. The 12-epoch accuracy itself stands beside them.
- Embedded task (`--embedded`; digits turned by 90°): validation loss of adapters trained alone for 200 steps, 16 rank
  configurations of any budget and 16 of one budget a seed. Proxies on the supernet's weights (400 steps), since an
  adapter's B starts at zero; the supernet's own loss (`inherited`) and the adapter's parameters beside them; surrogates
  by 4-fold cross-validation.

τ is with the quality, so that 1 is the right order; intervals are over seeds. An interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from record import Cells, interval, write_result

from archrank import spaces, supernet
from archrank.predictors import metrics, surrogates
from archrank.search.config import RunConfig
from archrank.search.job import Job, prepare
from archrank.search.racing import Scorer
from archrank.supernet import proxies
from archrank.supernet.data import digits
from archrank.supernet.training import TrainPlan, train

DATA = Path(os.environ.get("ARCHRANK_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
OUT = Path(__file__).resolve().parent / "results" / "quality_predictors.json"
TABLE = DATA / "nas" / "nasbench201.csv.gz"
TARGETS = ("hp12_c10_val", "hp12_c100_val", "hp12_in16_val", "c10_test", "c100_test", "in16_test")
FINAL = {"c10_test": "hp12_c10_val", "c100_test": "hp12_c100_val", "in16_test": "hp12_in16_val"}
DRAWN, CELLS, ROWS, PART, JUDGED = 40, 20, 16, 10, 2000
"""Of the cells drawn the first `CELLS` are scored."""
FITTED = (20, 50, 100, 200)
STEPS, CONFIGS, BATCH, BAND = 200, 16, 32, 0.05
FOLDS = 4
Array = NDArray[np.float64]


def live_rows() -> tuple[list[str], dict[str, Array]]:
    """Sentences and accuracies of the cells with a live path."""
    with gzip.open(TABLE, "rt", encoding="utf-8", newline="") as packed:
        rows = list(csv.DictReader(packed))
    texts = spaces.read_table("nasbench201", TABLE)
    live = [i for i, row in enumerate(rows) if float(row["c10_test"]) > 10.01]
    return [texts[i] for i in live], {t: np.array([float(rows[i][t]) for i in live]) for t in TARGETS}


def images(seed: int) -> dict[str, torch.Tensor]:
    """One batch of upright digits as (16, 3, 32, 32), with labels."""
    splits, _ = digits.load("digits")
    drawn = np.random.default_rng(seed).choice(len(splits["train"]["label"]), ROWS, replace=False)
    small = torch.from_numpy(splits["train"]["image"][drawn])
    wide = torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear").expand(-1, 3, -1, -1)
    return {"x": wide.contiguous(), "labels": torch.from_numpy(splits["train"]["label"][drawn])}


def scored(texts: Sequence[str], seed: int) -> dict[str, Any]:
    """{proxy: scores}."""
    space, batch = spaces.load("nasbench201"), images(seed)
    found: dict[str, list[float]] = {name: [] for name in proxies.available()}
    for number, text in enumerate(texts):
        net = supernet.build(space.elaborate(space.parse(text)), seed=1000 * seed + number)
        for name, values in found.items():
            values.append(proxies.load(name)(net, batch))
    return found


def cells_of(seed: int, count: int) -> NDArray[np.intp]:
    return np.random.default_rng(100 + seed).choice(count, DRAWN, replace=False)[:CELLS]


def nasbench_proxies(done: Cells, seeds: Sequence[int]) -> dict[str, Any]:
    """{target: {proxy: τ of each seed}}."""
    texts, true = live_rows()
    taus: dict[str, dict[str, list[float]]] = {t: {p: [] for p in (*proxies.available(), "12 epochs")} for t in TARGETS}
    for seed in seeds:
        chosen, scores = cells_of(seed, len(texts)), {name: [] for name in proxies.available()}
        for low in range(0, CELLS, PART):
            part = chosen[low : low + PART]
            got: Any = done.get(
                f"proxies {seed} {low}", lambda part=part, seed=seed: scored([texts[i] for i in part], seed)
            )
            for name in scores:
                scores[name] += got[name]
        for target in TARGETS:
            for name, values in scores.items():
                taus[target][name].append(metrics.kendall(true[target][chosen], np.asarray(values)))
            if target in FINAL:
                taus[target]["12 epochs"].append(metrics.kendall(true[target][chosen], true[FINAL[target]][chosen]))
    for target in TARGETS:
        if target not in FINAL:
            del taus[target]["12 epochs"]
    return taus


def nasbench_surrogates(seed: int) -> dict[str, Any]:
    """{target: {surrogate: {n: [τ, share inside the 90 % interval]}}}."""
    texts, true = live_rows()
    space = spaces.load("nasbench201")
    order = np.random.default_rng(200 + seed).permutation(len(texts))[: JUDGED + max(FITTED)]
    x = surrogates.features(space, [space.parse(texts[i]) for i in order])
    found: dict[str, Any] = {}
    for target in FINAL:
        y = true[target][order]
        found[target] = {name: {} for name in surrogates.available()}
        for name in surrogates.available():
            for n in FITTED:
                told = surrogates.load(name)(seed=seed).fit(x[JUDGED : JUDGED + n], y[JUDGED : JUDGED + n])
                guess = told.predict(x[:JUDGED])
                low, high = guess.interval(0.9)
                inside = float(np.mean((low <= y[:JUDGED]) & (y[:JUDGED] <= high)))
                found[target][name][str(n)] = [metrics.kendall(y[:JUDGED], guess.mean), inside]
    return found


def configurations(job: Job, seed: int) -> dict[str, list[dict[str, int]]]:
    """`wide`: of budgets even on a log scale; `iso`: within 5 % of a quarter of the largest."""
    rng = np.random.default_rng(seed)
    top = 16 * sum(sum(shape) for shape in job.net.shapes.values())
    wide = []
    for edge in np.geomspace(top / 32, top, CONFIGS):
        [d] = job.space.within(adapter_params=(0.8 * edge, edge)).sample(rng, 1)
        wide.append(job.ranks(d))
    near = job.space.within(adapter_params=((1 - BAND) * top / 4, (1 + BAND) * top / 4))
    return {"wide": wide, "iso": [job.ranks(d) for d in near.sample(rng, CONFIGS)]}


def embedded(seed: int) -> dict[str, Any]:
    """{wide, iso: {predictor: τ}}."""
    job = prepare(RunConfig(policy="mixed", seed=seed, train_steps=STEPS, batch_size=BATCH))
    train(job.net, job.batches(seed), job.loss, TrainPlan(2 * STEPS, job.config.lr, seed=seed), policy=job.policy)
    batches = [job.batches(seed)(step)[0] for step in range(STEPS)]
    batch = job.data.batch("train", np.random.default_rng(seed).choice(job.data.size("train"), 64, replace=False))
    found: dict[str, Any] = {}
    job.net.eval()
    scorer = Scorer(job)
    for kind, configs in configurations(job, seed).items():
        trained = supernet.train_population(
            job.base.model, configs, batches, STEPS, [seed] * len(configs), lr=job.config.lr
        )
        every = job.data.batch("validation", np.arange(job.data.size("validation")))
        loss = np.array([_loss(each.module, every) for each in trained])
        told: dict[str, list[float]] = {name: [] for name in ("inherited", *proxies.available())}
        for config in configs:
            told["inherited"].append(-scorer.score(config).values["loss"])
            for name, value in proxies.scores(job.net.sliced(config), batch).items():
                told[name].append(value)
        taus = {name: metrics.kendall(-loss, np.asarray(values)) for name, values in told.items()}
        x = surrogates.features(job.space, [job.space.from_ranks(config) for config in configs])
        taus |= {name: metrics.kendall(-loss, _crossed(name, x, -loss, seed)) for name in surrogates.available()}
        found[kind] = taus
    return found


def _loss(module: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> float:
    with torch.no_grad():
        return float(module.eval()(**batch).loss)


def _crossed(name: str, x: Array, y: Array, seed: int) -> Array:
    """Predictions of each from a surrogate that has not seen it."""
    turn, told = np.random.default_rng(seed).permutation(len(y)) % FOLDS, np.zeros(len(y))
    for fold in range(FOLDS):
        out = turn == fold
        told[out] = surrogates.load(name)(seed=seed).fit(x[~out], y[~out]).predict(x[out]).mean
    return told


def summed(taus: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Mean and interval over the seeds; nan (a predictor that says the same of all) counts as 0."""
    clean = {name: np.nan_to_num(np.asarray(values, dtype=float)).tolist() for name, values in taus.items()}
    return {name: {"tau": float(np.mean(v)), "ci": interval(v), "seeds": v} for name, v in clean.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--embedded", action="store_true")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    done, seeds = Cells(args.out), range(args.seeds)
    cells: list[Any] = [done.get(f"surrogates {seed}", lambda seed=seed: nasbench_surrogates(seed)) for seed in seeds]
    taus = nasbench_proxies(done, seeds)
    at: Callable[[str, str, str, int], list[float]] = lambda t, name, n, part: [c[t][name][n][part] for c in cells]  # noqa: E731
    value = {
        "nasbench201_proxies": {target: summed(each) for target, each in taus.items()},
        "nasbench201_surrogates": {
            target: {
                name: {
                    str(n): {
                        "tau": float(np.mean(at(target, name, str(n), 0))),
                        "ci": interval(at(target, name, str(n), 0)),
                        "inside_90": float(np.mean(at(target, name, str(n), 1))),
                    }
                    for n in FITTED
                }
                for name in surrogates.available()
            }
            for target in FINAL
        },
    }
    if args.embedded:
        found: list[Any] = [done.get(f"embedded {seed}", lambda seed=seed: embedded(seed)) for seed in seeds]
        value["embedded"] = {
            kind: summed({name: [f[kind][name] for f in found] for name in found[0][kind]}) for kind in ("wide", "iso")
        }
    write_result(
        args.out,
        {
            "claim": "surrogates and zero-cost proxies rank candidates by quality",
            "value": value,
            "unit": "Kendall's tau-b with the quality; shares",
            "ci": "95 % bootstrap over seeds",
            "seeds": list(seeds),
            "baselines": ["params", "12 epochs (NAS-Bench-201)", "inherited (embedded)"],
        },
    )


if __name__ == "__main__":
    main()
