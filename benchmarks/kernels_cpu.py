"""The kernels' torch implementations on the CPU against the usual way of computing the same.

    python benchmarks/kernels_cpu.py --out benchmarks/results/kernels_cpu.json [--seed 0]

One thread, CPU time, alternating, median over rounds: walsh_hadamard against a butterfly in torch and a dense matrix;
sparse_delta_switch (1 % of a 4096 × 4096 weight) against unfusing one LoRA of rank 16 and fusing another; gated_lora
against two products, a mask and a sum; grouped_choice_linear against a batched product over gathered weights.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from record import Cells, arguments, interval, write_result
from torch import Tensor

from archrank import kernels

ROUNDS = 9


def alternating(sides: dict[str, Callable[[], object]], inner: int) -> dict[str, object]:
    """Median of the others' time over that of "ours", and ms a call."""
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for f in sides.values():
        f()
    for k in range(ROUNDS):
        for name in list(sides)[:: 1 if k % 2 else -1]:
            began = time.process_time()
            for _ in range(inner):
                sides[name]()
            spent[name].append((time.process_time() - began) / inner)
    told: dict[str, object] = {"ms": {n: float(np.median(s)) * 1000 for n, s in spent.items()}}
    for name in sides:
        if name != "ours":
            ratio = [a / b for a, b in zip(spent[name], spent["ours"], strict=True)]
            told[f"{name}_over_ours"] = {"ratio": float(np.median(ratio)), "ci": interval(ratio)}
    return told


def hadamard(n: int) -> dict[str, object]:
    """256 rows of n numbers."""
    x = torch.randn(256, n)
    H = kernels.walsh_hadamard(torch.eye(n))
    return alternating(
        {
            "ours": lambda: kernels.walsh_hadamard(x),
            "butterfly": lambda: kernels.walsh_hadamard_reference(x),
            "dense": lambda: x @ H,
        },
        3,
    )


def switch(dtype: torch.dtype) -> dict[str, object]:
    """Exchanges an adapter of a 4096 × 4096 weight."""
    d, r = 4096, 16
    count = d * d // 100
    W = torch.randn(d, d).to(dtype)
    index = [torch.randperm(d * d)[:count].sort().values for _ in range(2)]
    value = [torch.randn(count).to(dtype) for _ in range(2)]
    state = {"on": 0, "saved": kernels.sparse_delta_apply(W, index[0], value[0])}
    A, B = ([torch.randn(*s).to(dtype) for _ in range(2)] for s in ((r, d), (d, r)))
    V = torch.randn(d, d).to(dtype)

    def ours() -> None:
        a, b = int(state["on"]), 1 - int(state["on"])
        saved = state["saved"]
        assert isinstance(saved, Tensor)
        state.update(on=b, saved=kernels.sparse_delta_switch(W, index[a], saved, index[b], value[b]))

    def lora() -> None:
        V.addmm_(B[0], A[0], alpha=-1)
        V.addmm_(B[1], A[1])

    return alternating({"ours": ours, "lora_unfuse_and_fuse": lora}, 1)


def gated(M: int, K: int, N: int, R: int, P: int) -> dict[str, object]:
    """Forward of one layer under P candidates."""
    x, W, A, B = torch.randn(M, K), torch.randn(N, K), torch.randn(R, K), torch.randn(N, R)
    G, row = (torch.arange(R) < torch.randint(0, R + 1, (P, 1))).float(), torch.arange(P).repeat_interleave(M // P)

    def each() -> Tensor:
        parts = []
        for p in range(P):
            r, part = int(G[p].sum()), x[p * (M // P) : (p + 1) * (M // P)]
            parts.append(part @ W.T + (part @ A[:r].T) @ B[:, :r].T)
        return torch.cat(parts)

    with torch.no_grad():
        return alternating(
            {
                "ours": lambda: kernels.gated_lora(x, W, A, B, G, row),
                "mask": lambda: x @ W.T + ((x @ A.T) * G[row]) @ B.T,
                "loop": each,
            },
            5,
        )


def choice(P: int, rows: int, d: int, C: int) -> dict[str, object]:
    """P candidates over C merged weights."""
    x, weights, picked = torch.randn(P, rows, d), torch.randn(C, d, d), torch.arange(P) % C
    return alternating(
        {
            "ours": lambda: kernels.grouped_choice_linear(x, weights, picked),
            "gather_and_bmm": lambda: torch.bmm(x, weights[picked].transpose(1, 2)),
        },
        5,
    )


def main() -> None:
    """Measures what is missing and writes the result."""
    args = arguments(__doc__)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    cases: dict[str, Callable[[], dict[str, object]]] = {
        **{f"walsh_hadamard 256 × {n}": lambda n=n: hadamard(n) for n in (1024, 4096)},
        "sparse_delta_switch 4096² 1 % fp32": lambda: switch(torch.float32),
        "sparse_delta_switch 4096² 1 % bf16": lambda: switch(torch.bfloat16),
        "gated_lora 16 × 64 rows, 384 → 384, R 16": lambda: gated(1024, 384, 384, 16, 16),
        "gated_lora 16 × 64 rows, 384 → 1536, R 16": lambda: gated(1024, 384, 1536, 16, 16),
        "grouped_choice 16 × 64 rows, 384 → 384, 4 choices": lambda: choice(16, 64, 384, 4),
    }
    cells = Cells(args.out)
    found = cells.all(cases)
    told = found["walsh_hadamard 256 × 1024"]
    assert isinstance(told, dict)
    write_result(
        args.out,
        {
            "claim": "CPU time of a butterfly in torch over walsh_hadamard, 256 × 1024 fp32",
            "value": told["butterfly_over_ours"]["ratio"],
            "unit": "ratio",
            "ci": told["butterfly_over_ours"]["ci"],
            "seeds": [args.seed],
            "baselines": ["butterfly", "dense", "LoRA unfuse and fuse", "mask", "loop", "gather and bmm"],
            "cases": found,
        },
    )


if __name__ == "__main__":
    main()
