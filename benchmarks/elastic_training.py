"""Two ways to train the supernet of an encoder at equal cost, on the embedded ViT.

    python benchmarks/elastic_training.py --out benchmarks/results/elastic_training.json

`sandwich`: N sandwich steps; `whole first`: N steps of the whole encoder on labels, then 0.6 N sandwich steps, which is
what runs do. A sandwich step (largest, smallest and two sampled) costs about 2.5 steps of the whole, so both spend
about 2.5 N. Then the same sub-networks, four equally cut ones and six sampled ones, are taken from either: their
inherited validation loss, and their test loss after N steps on labels and on the softened answers of the whole: the
supernet's largest, or where it was trained first what it was before it was cut. `fresh`: after N steps on labels from
adapters that nothing trained, no supernet at all. Kendall τ is that of inherited against tuned loss over the ten. The
unit is the seed; differences are paired, intervals percentile bootstraps.
"""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import torch
from record import Cells, arguments, interval, write_result

from archrank.grammar import Derivation
from archrank.predictors.metrics import kendall
from archrank.search.config import RunConfig
from archrank.search.encoder_job import SANDWICH_SHARE, EncoderJob, prepare_encoders
from archrank.search.encoder_run import ANSWERS
from archrank.supernet.elastic_encoder import ElasticEncoder
from archrank.supernet.sandwich import adapter_parameters, fine_tune, train_sandwich, train_whole
from archrank.supernet.training import TrainPlan

SEEDS, STEPS, SAMPLED = 5, 240, 6
METHODS = ("sandwich", "whole first", "fresh")
EQUAL = ((100, 4), (75, 4), (50, 16), (50, 4))
"""Shares of heads and channels in percent, and ranks."""


def sub_networks(job: EncoderJob, seed: int) -> list[Derivation]:
    """The same for all methods."""
    found = []
    for share, rank in EQUAL:
        own = ",".join(f"{role}=lora({rank})" for role in ("q", "k", "v", "o", "up", "down"))
        found.append(job.space.parse(" ".join(f"{n}:keep(heads={share}%,ffn={share}%,{own})" for n in job.net.layers)))
    return found + job.space.sample(np.random.default_rng(seed), SAMPLED)


def measured(seed: int, method: str) -> dict[str, list[float]]:
    """Inherited validation losses and tuned test losses."""
    job = prepare_encoders(RunConfig(space="elastic_encoder", train_steps=STEPS, seed=seed))
    job.net.measure(job.importance_batches())
    lr = job.config.lr
    assert lr is not None

    def plan(steps: float, own: int) -> TrainPlan:
        return TrainPlan(round(steps), lr, seed=own)

    teacher: ElasticEncoder | None = None if method == "fresh" else job.net
    if method == "whole first":
        train_whole(job.net, job.batches(seed + 700), job.loss, plan(STEPS, seed + 700))
        teacher = copy.deepcopy(job.net)
    if method != "fresh":
        share = SANDWICH_SHARE if method == "whole first" else 1
        train_sandwich(job.net, job.batches(seed), job.loss, plan(share * STEPS, seed))
    job.net.eval()
    told: dict[str, list[float]] = {"inherited": [], "tuned": []}
    for d in sub_networks(job, seed):
        told["inherited"].append(job.score(job.choices(d))["loss"])
        sub, own = job.net.extract(job.choices(d)), seed + 1500
        module = sub.unmerged()
        parameters = adapter_parameters(module) or list(module.parameters())
        fine_tune(
            sub, module, job.batches(own), job.loss, plan(STEPS, own),
            teacher=teacher, distillation=ANSWERS, parameters=parameters,
        )  # fmt: skip
        told["tuned"].append(job.measured(module, job.rows("test"))["loss"])
    return told


def main() -> None:
    """Measures what is not known yet and writes the summary."""
    options = arguments(__doc__)
    torch.set_num_threads(1)
    cells, found = Cells(options.out), dict[str, list[dict[str, list[float]]]]()
    for seed in range(options.seed, options.seed + SEEDS):
        for method in METHODS:
            value = cells.get(f"{seed} {method} {STEPS}", partial(measured, seed, method))
            found.setdefault(method, []).append(value)  # type: ignore[arg-type]
            print(seed, method, {k: round(float(np.mean(v)), 3) for k, v in found[method][-1].items()}, flush=True)

    def figures(values: list[float]) -> dict[str, object]:
        return {"mean": float(np.mean(values)), "interval": interval(values), "per_seed": values}

    def means(method: str, what: str) -> list[float]:
        return [float(np.mean(told[what])) for told in found[method]]

    first = means("whole first", "tuned")
    against = {m: [a - b for a, b in zip(first, means(m, "tuned"), strict=True)] for m in METHODS if m != "whole first"}
    write_result(
        options.out,
        {
            "claim": "Test loss of ten tuned sub-networks of an encoder's supernet that was trained whole first.",
            "value": float(np.mean(against["sandwich"])),
            "unit": "nats, below that of a supernet of sandwich steps alone at equal cost",
            "ci": interval(against["sandwich"]),
            "seeds": SEEDS,
            "baselines": ["sandwich", "fresh"],
            "tuned": {m: figures(means(m, "tuned")) for m in METHODS},
            "inherited": {m: figures(means(m, "inherited")) for m in METHODS},
            "whole first minus": {m: figures(v) for m, v in against.items()},
            "kendall tau": {
                m: figures([kendall(told["tuned"], told["inherited"]) for told in found[m]]) for m in METHODS[:2]
            },
        },
    )


if __name__ == "__main__":
    main()
