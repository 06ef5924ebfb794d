"""Sub-networks of elastic_encoder against the depth-pruned and the uniformly narrowed encoder, on SST-2.

    python benchmarks/elastic_encoder.py --data FOLDER/sst2 --base FOLDER --work DIR --seeds 5
        --out benchmarks/results/elastic_encoder.json

One teacher a seed: MiniLM-L6-H384 fine-tuned on 2,000 sentences (batch 16). From it, at 2/3, 1/2 and 1/3 of its layers'
FLOPs (32 tokens):
- depth: its first layers alone (Sajjad et al., On the effect of dropping layers of pre-trained transformers, 2023);
- narrow: all layers with the same share of heads and FFN channels, the most important ones;
- elastic: sandwich training of the supernet, 8 sub-networks of each budget, the two above and sampled ones, compared on
  64 validation rows, the best of each fine-tuned.
All learn labels and the teacher's logits, all weights but the embeddings train, and every method may spend the same
training in units of a full model's step, 93 for the three budgets: fine-tunes of 62 steps for the baselines; for the
supernet 24 sandwich steps (largest, smallest, one sampled: 1.85 units each), the candidates' evaluation (about 13
units) and fine-tunes of 24 steps. Accuracy on 912 test rows, which nothing else reads. Interrupted, it goes on at the
cell and training step where it was.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from record import Cells, interval, write_result
from torch import Tensor, nn
from torch.nn import functional as F

from archrank import predictors
from archrank.grammar import LayerChoice
from archrank.supernet import data as datasets
from archrank.supernet import elastic, fine_tune, train_sandwich
from archrank.supernet.base import load_base
from archrank.supernet.checkpoint import Checkpoint, load_tensors, save_tensors
from archrank.supernet.cut_network import CutNetwork
from archrank.supernet.elastic_encoder import ElasticEncoder
from archrank.supernet.importance import Order
from archrank.supernet.sandwich import Sandwich
from archrank.supernet.tracing import trace
from archrank.supernet.training import TrainPlan

TOKENS, ROWS, BATCH, LR = 32, 2000, 16, 3e-4
TEACHER_STEPS, STEPS, SANDWICH_STEPS, TUNE_STEPS = 100, 62, 24, 24
CANDIDATES, CANDIDATE_ROWS, TEST_ROWS = 8, 64, 912
LEVELS = {"2/3": (4, 8, 1024), "1/2": (3, 6, 768), "1/3": (2, 4, 512)}
"""Layers kept, and heads and FFN channels kept in every layer."""


class Bench:
    """What the cells of one seed share."""

    def __init__(self, args: argparse.Namespace, seed: int) -> None:
        self.seed, self.work = seed, args.work / str(seed)
        raw = datasets.read_dataset(str(args.data))
        base = load_base(str(args.base), raw.task, label_names=raw.label_names, seed=seed)
        self.model = base.model
        self.data = datasets.prepare(raw, base, max_length=TOKENS)
        self.rows = np.sort(np.random.default_rng(0).permutation(self.data.size("train"))[:ROWS])
        self.device = predictors.load("a100")
        self.teacher: Tensor | None = None
        self.order: Order | None = None

    def batches(self, step: int) -> tuple[Mapping[str, Tensor], np.ndarray]:  # type: ignore[type-arg]
        """`labels` are the rows' numbers: the loss looks up labels and the teacher's logits by them."""
        index = self.rows[datasets.order(self.seed, step, BATCH, ROWS)]
        batch = self.data.batch("train", index)
        self.labels = batch["labels"]
        return {**batch, "labels": torch.as_tensor(np.searchsorted(self.rows, index))}, index

    def loss(self, logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Cross-entropy, and with a teacher the KL divergence from its logits."""
        total = F.cross_entropy(logits.float(), self.labels)
        if self.teacher is None:
            return total
        log_t = F.log_softmax(self.teacher[batch["labels"]], -1)
        return total + F.kl_div(F.log_softmax(logits.float(), -1), log_t, reduction="batchmean", log_target=True)

    def checkpoint(self, name: str) -> Checkpoint:
        return Checkpoint(self.work / f"{name}.checkpoint", name, 120)

    def trained(self, name: str, module: nn.Module, sub: CutNetwork, steps: int) -> float:
        plan = TrainPlan(steps, LR, seed=self.seed)
        chosen = [p for n, p in module.named_parameters() if "embeddings" not in n]
        return fine_tune(
            sub, module, self.batches, self.loss, plan, parameters=chosen, checkpoint=self.checkpoint(name)
        )

    def load_teacher(self) -> None:
        """The fine-tuned full model into self.model, its logits on the training rows into self.teacher."""
        tensors, _ = load_tensors(self.work / "teacher.safetensors")
        self.teacher = tensors.pop("logits")
        self.model.load_state_dict(tensors)

    def net(self) -> ElasticEncoder:
        """Over the teacher, heads and channels by its importances."""
        net = elastic(self.model, "elastic_encoder", r_max=1)
        if self.order is None:
            net.measure([self.data.batch("train", self.rows[i : i + 32]) for i in range(0, 128, 32)])
            self.order = net.order
        net.order = self.order
        return net

    def score(self, model: nn.Module, split: str, rows: int) -> dict[str, float]:
        index = np.sort(np.random.default_rng(1).permutation(self.data.size(split))[:rows])
        loss = correct = 0.0
        model.eval()
        for low in range(0, len(index), 128):
            batch = dict(self.data.batch(split, index[low : low + 128]))
            labels = batch.pop("labels")
            with torch.no_grad():
                logits = model(**batch).logits
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            correct += float((logits.argmax(-1) == labels).sum())
        return {"loss": loss / len(index), "accuracy": correct / len(index)}

    def price(self, model: nn.Module) -> dict[str, float]:
        works = {batch: trace(model, batch=batch, seq=TOKENS) for batch in (1, 64)}
        told = {b: float(self.device.predict([w], dtype="bf16").ms[0]) for b, w in works.items()}
        params = sum(p.numel() for p in model.parameters())
        return {"flops": float(works[1].flops), "params": params, "ms_batch_1": told[1], "ms_batch_64": told[64]}


def teacher(bench: Bench) -> dict[str, object]:
    """The full model, fine-tuned on the labels."""
    layers = elastic(bench.model, "elastic_encoder", r_max=1)
    whole = layers.extract({name: LayerChoice(True, m.sizes.heads, m.sizes.ffn) for name, m in layers.layers.items()})
    module = whole.module
    module.requires_grad_(True)
    seconds = bench.trained("teacher", module, whole, TEACHER_STEPS)
    logits = []
    for low in range(0, ROWS, 128):
        batch = dict(bench.data.batch("train", bench.rows[low : low + 128]))
        batch.pop("labels")
        with torch.no_grad():
            logits.append(module(**batch).logits)
    tensors = {**module.state_dict(), "logits": torch.cat(logits)}
    save_tensors(bench.work / "teacher.safetensors", tensors, {})
    bench.checkpoint("teacher").clear()
    return {**bench.score(module, "test", TEST_ROWS), **bench.price(module), "seconds": seconds}


def baseline(bench: Bench, method: str, level: str) -> dict[str, object]:
    """A depth-pruned or narrowed model, fine-tuned."""
    bench.load_teacher()
    net = bench.net()
    return tuned(bench, net, equal_layers(net, level)[method], f"{method} {level}", STEPS)


def equal_layers(net: ElasticEncoder, level: str) -> dict[str, dict[str, LayerChoice]]:
    """The first layers whole (`depth`), and all of them narrowed alike (`narrow`)."""
    kept, heads, ffn = LEVELS[level]
    full = {name: LayerChoice(True, m.sizes.heads, m.sizes.ffn) for name, m in net.layers.items()}
    return {
        "depth": {name: choice if i < kept else LayerChoice(False) for i, (name, choice) in enumerate(full.items())},
        "narrow": dict.fromkeys(net.layers, LayerChoice(True, heads, ffn)),
    }


def tuned(
    bench: Bench, net: ElasticEncoder, choices: Mapping[str, LayerChoice], name: str, steps: int
) -> dict[str, object]:
    sub = net.extract(choices)
    module = sub.module
    module.requires_grad_(True)
    before = bench.score(module, "validation", CANDIDATE_ROWS)
    seconds = bench.trained(name.replace("/", "-").replace(" ", "-"), module, sub, steps)
    widths = [(c.heads, c.ffn) if c.kept else None for c in choices.values()]
    return {
        **bench.score(module, "test", TEST_ROWS), **bench.price(module),
        "seconds": seconds, "before": before, "layers": widths,
    }  # fmt: skip


def supernet(bench: Bench) -> dict[str, object]:
    """The sandwich, from the teacher's weights."""
    bench.load_teacher()
    net = bench.net()
    chosen = [p for n, p in net.base.named_parameters() if "embeddings" not in n]
    plan = TrainPlan(SANDWICH_STEPS, LR, seed=bench.seed)
    seconds = train_sandwich(
        net, bench.batches, bench.loss, plan, Sandwich(random=1),
        parameters=chosen, checkpoint=bench.checkpoint("supernet"),
    )  # fmt: skip
    save_tensors(bench.work / "supernet.safetensors", net.base.state_dict(), {})
    return {"seconds": seconds}


def search(bench: Bench, level: str, order_from: Callable[[], ElasticEncoder]) -> dict[str, object]:
    """Equal layers and sampled sub-networks of a budget on inherited weights, the best fine-tuned."""
    net = order_from()
    kept, _, _ = LEVELS[level]
    one = next(iter(net.layers.values())).sizes
    budget = kept * layer_flops(one.hidden, one.heads * one.head, one.ffn)
    rng, found, began = np.random.default_rng((bench.seed, kept)), equal_layers(net, level), time.monotonic()
    while len(found) < CANDIDATES:
        for d in net.space.sample(rng, n=50):
            choices = {n: LayerChoice(c.kept, c.heads, c.ffn) if c.kept else c for n, c in net.choices(d).items()}
            flops = sum(layer_flops(one.hidden, c.heads * one.head, c.ffn) for c in choices.values() if c.kept)
            if 0.94 * budget <= flops <= 1.001 * budget and len(found) < CANDIDATES:
                found[d.key] = choices
    scores = {}
    for key, choices in found.items():
        net.select(choices)
        scores[key] = bench.score(net, "validation", CANDIDATE_ROWS)["loss"]
    net.reset()
    spent = time.monotonic() - began
    best = min(scores, key=lambda k: scores[k])
    told = tuned(bench, net, found[best], f"elastic {level}", TUNE_STEPS)
    return {**told, "search_seconds": spent, "candidate_losses": sorted(scores.values())}


def layer_flops(hidden: int, inner: int, ffn: int) -> int:
    """One layer at TOKENS tokens: 2 T (4 e inner + 2 e ffn) + 4 T² inner."""
    return 2 * TOKENS * (4 * hidden * inner + 2 * hidden * ffn) + 4 * TOKENS * TOKENS * inner


def supernet_of(bench: Bench) -> ElasticEncoder:
    """Importances of the teacher, weights of the trained supernet."""
    bench.load_teacher()
    net = bench.net()
    net.base.load_state_dict(load_tensors(bench.work / "supernet.safetensors")[0])
    return net


def cells_of(bench: Bench) -> dict[str, Callable[[], dict[str, object]]]:
    def cell(method: str, level: str) -> Callable[[], dict[str, object]]:
        if method == "elastic":
            return lambda: search(bench, level, lambda: supernet_of(bench))
        return lambda: baseline(bench, method, level)

    cases: dict[str, Callable[[], dict[str, object]]] = {
        "teacher": lambda: teacher(bench),
        "supernet": lambda: supernet(bench),
    }
    return cases | {f"{m} {level}": cell(m, level) for level in LEVELS for m in ("depth", "narrow", "elastic")}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("--data", "--base", "--work", "--out"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cells, bench = Cells(args.out), None
    for seed in range(args.seeds):
        names = [f"seed {seed} {n}" for n in cells_of(Bench.__new__(Bench))]
        if any(n not in cells.done for n in names):
            bench = Bench(args, seed)
            for name, measure in cells_of(bench).items():
                cell = f"seed {seed} {name}"
                print(cell, cells.get(cell, measure), flush=True)
    summarise(cells, args.seeds, args.out)


def summarise(cells: Cells, seeds: int, out: Path) -> None:
    def values(name: str, key: str) -> list[float]:
        return [cells.done[f"seed {s} {name}"][key] for s in range(seeds)]

    keys = ("accuracy", "flops", "params", "ms_batch_1", "ms_batch_64", "seconds")
    table = {
        f"{m} {level}": {k: float(np.mean(values(f"{m} {level}", k))) for k in keys}
        | {"accuracy_ci": interval(values(f"{m} {level}", "accuracy"))}
        for level in LEVELS for m in ("depth", "narrow", "elastic")
    }  # fmt: skip
    gains = {}
    for level in LEVELS:
        for other in ("depth", "narrow"):
            pairs = zip(values(f"elastic {level}", "accuracy"), values(f"{other} {level}", "accuracy"), strict=True)
            gain = [a - b for a, b in pairs]
            gains[f"{level} over {other}"] = {"mean": float(np.mean(gain)), "ci": interval(gain), "per_seed": gain}
    every = [
        [float(np.mean([gains[f"{level} over {o}"]["per_seed"][s] for level in LEVELS])) for s in range(seeds)]  # type: ignore[index]
        for o in ("depth", "narrow")
    ]
    write_result(out, {
        "claim": "test accuracy of elastic_encoder's sub-networks minus that of the narrowed and of the depth-pruned "
        "encoder, at equal FLOPs and equal training, mean over three budgets",
        "value": {"over_narrow": float(np.mean(every[1])), "over_depth": float(np.mean(every[0]))},
        "unit": "accuracy",
        "ci": {"over_narrow": interval(every[1]), "over_depth": interval(every[0])},
        "seeds": seeds,
        "baselines": ["first layers alone", "uniformly narrowed by importance"],
        "teacher": {k: float(np.mean(values("teacher", k))) for k in keys},
        "supernet_seconds": values("supernet", "seconds"),
        "search_seconds": {level: values(f"elastic {level}", "search_seconds") for level in LEVELS},
        "table": table,
        "gains": gains,
        "settings": {
            "rows": ROWS, "batch": BATCH, "lr": LR, "tokens": TOKENS, "teacher_steps": TEACHER_STEPS,
            "baseline_steps": STEPS, "sandwich_steps": SANDWICH_STEPS, "tune_steps": TUNE_STEPS,
            "candidates": CANDIDATES, "candidate_rows": CANDIDATE_ROWS, "test_rows": TEST_ROWS,
            "latency": "predicted for an A100 in bf16, batch 1 and 64",
        },
    })  # fmt: skip


if __name__ == "__main__":
    main()
