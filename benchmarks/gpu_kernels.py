"""The kernels and population evaluation on a GPU: right against fp64, then timed against the floor and the usual ways.

    python benchmarks/gpu_kernels.py --out benchmarks/results/gpu.json [--seed 0] [--device cuda] [--small]

Resumable: each cell is kept when it is measured. A floor is the bytes that must move over the copy bandwidth measured
here, or the multiply-adds over the GEMM rate measured here, whichever is longer. `--device cpu --small` runs the same
code on tiny shapes, to prove the harness where there is no GPU; its times mean nothing.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from populations import SIZES, Size, batches, children, net_of
from record import Cells, write_result
from torch import Tensor

from archrank import kernels
from archrank.kernels.backend import use_triton
from archrank.supernet.evaluation import evaluation_methods

LAYERS = {  # rows, in, out, R, candidates
    "MiniLM 384 → 384": (131072, 384, 384, 32, 64),
    "MiniLM 384 → 1536": (131072, 384, 1536, 32, 64),
    "768 → 768": (32768, 768, 768, 64, 16),
    "7B 4096 → 4096": (16384, 4096, 4096, 64, 8),
}
SMALL_LAYERS = {"small 32 → 48": (64, 32, 48, 8, 4)}


@dataclass(frozen=True)
class Bench:
    """Where and how long."""

    device: str
    small: bool
    dtype: torch.dtype = torch.bfloat16

    def seconds(self, f: Callable[[], object]) -> dict[str, float]:
        """Median and 20 % / 80 % quantiles of one call, in µs; more than the L2 cache is written in between."""
        if self.device == "cpu":
            f()
            began = time.perf_counter()
            f()
            return {"us": 1e6 * (time.perf_counter() - began)}
        for _ in range(3):
            f()
        flush = torch.empty(1 << 28, dtype=torch.uint8, device=self.device)
        times = []
        for _ in range(20):
            flush.zero_()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            f()
            end.record()
            end.synchronize()
            times.append(1000 * start.elapsed_time(end))
        low, middle, high = np.quantile(times, (0.2, 0.5, 0.8))
        return {"us": float(middle), "us_20": float(low), "us_80": float(high)}

    def rand(self, *shape: int) -> Tensor:
        """Normal numbers on the device."""
        return torch.randn(*shape, device=self.device).to(self.dtype)


def ceilings(b: Bench) -> dict[str, object]:
    """Bytes per second of a copy (read and written), operations per second of a large product."""
    n, d = (1 << 12, 64) if b.small else (1 << 29, 8192)
    x, y = torch.empty(n, dtype=torch.uint8, device=b.device), torch.empty(n, dtype=torch.uint8, device=b.device)
    one, two = b.rand(d, d), b.rand(d, d)
    return {
        "bytes_per_s": 2 * n / (b.seconds(lambda: y.copy_(x))["us"] * 1e-6),
        "flops_per_s": 2 * d**3 / (b.seconds(lambda: one @ two)["us"] * 1e-6),
    }


def layer(b: Bench, shape: tuple[int, int, int, int, int], top: dict[str, float]) -> dict[str, object]:
    """Gated LoRA forward, its shrink alone and its backward pass; grouped choice on the same rows."""
    M, K, N, R, P = shape
    x, W, A, B = b.rand(M, K), b.rand(N, K) / K**0.5, b.rand(R, K) / K**0.5, b.rand(N, R)
    G = (torch.arange(R) < torch.randint(0, R + 1, (P, 1))).float().to(b.device)
    row = torch.arange(P, device=b.device).repeat_interleave(M // P)
    ranks, edges = G.sum(1).int().tolist(), [(p * (M // P), (p + 1) * (M // P)) for p in range(P)]
    size = x.element_size()

    def floor(moved: float, flops: float) -> float:
        return 1e6 * max(moved / top["bytes_per_s"], flops / top["flops_per_s"])

    def loop() -> None:
        for r, (i, j) in zip(ranks, edges, strict=True):
            (x[i:j] @ W.T).addmm_(x[i:j] @ A[:r].T, B[:, :r].T)

    told: dict[str, object] = {"triton": use_triton("gated_lora", x, A, G)}
    with torch.no_grad():
        told["base"] = b.seconds(lambda: x @ W.T)
        told["gated_lora"] = b.seconds(lambda: kernels.gated_lora(x, W, A, B, G, row))
        told["gemms_and_mask"] = b.seconds(lambda: x @ W.T + ((x @ A.T) * G[row].to(x.dtype)) @ B.T)
        told["loop_over_candidates"] = b.seconds(loop)
        told["floor_us"] = floor(size * (M * K + N * K + M * N), 2 * M * N * K) + floor(
            size * (M * K + 2 * M * N + 4 * M * R), 2 * M * R * (K + N)
        )
        if told["triton"]:
            from archrank.kernels.triton_ops.gated_lora import shrink

            told["shrink"] = b.seconds(lambda: shrink(x, A, G, row))
            told["shrink_floor_us"] = floor(size * (M * K + 2 * M * R), 2 * M * R * K)
        weights, blocks = b.rand(4, N, K) / K**0.5, x.view(P, M // P, K)
        choice = torch.arange(P, device=b.device) % 4
        told["grouped_choice_linear"] = b.seconds(lambda: kernels.grouped_choice_linear(blocks, weights, choice))
        told["gather_and_bmm"] = b.seconds(lambda: torch.bmm(blocks, weights[choice].transpose(1, 2)))
    leaves = [t.clone().requires_grad_() for t in (x, A, B, G)]
    dy = b.rand(M, N)

    def both(name: str) -> None:
        y = getattr(kernels, name)(leaves[0], W, leaves[1], leaves[2], leaves[3], row)
        torch.autograd.grad(y, leaves, dy)

    told["forward_and_backward"] = b.seconds(lambda: both("gated_lora"))
    told["forward_and_backward_reference"] = b.seconds(lambda: both("gated_lora_reference"))
    return told


def right(b: Bench) -> dict[str, object]:
    """Each kernel on the device against fp64: the worst error in eps of the sum of its terms' sizes (8 is allowed)."""
    worst: dict[str, float] = {}

    def compare(name: str, got: Tensor, exact: Tensor, size: Tensor) -> None:
        off = (got.double() - exact).abs() / (torch.finfo(b.dtype).eps * size + 1e-30)
        worst[name] = max(worst.get(name, 0.0), float(off.max()))

    for M, K, N, R, P in ((257, 384, 129, 5, 7), (64, 33, 65, 16, 3)):
        x, W, A, B = b.rand(M, K), b.rand(N, K), b.rand(R, K), b.rand(N, R)
        G, row = torch.rand(P, R, device=b.device), torch.randint(0, P, (M,), device=b.device)
        exact = []
        for f in (lambda t: t.double(), lambda t: t.double().abs()):
            leaves = [f(t).requires_grad_() for t in (x, A, B, G)]
            y = leaves[0] @ f(W).T + ((leaves[0] @ leaves[1].T) * leaves[3][row]) @ leaves[2].T
            exact.append([y.detach(), *torch.autograd.grad(y, leaves, torch.ones_like(y))])
        leaves = [t.clone().requires_grad_() for t in (x, A, B, G)]
        y = kernels.gated_lora(leaves[0], W, leaves[1], leaves[2], leaves[3], row)
        got = [y.detach(), *torch.autograd.grad(y, leaves, torch.ones_like(y))]
        for what, ours, truth, size in zip(("y", "dx", "dA", "dB", "dG"), got, *exact, strict=True):
            compare(f"gated_lora {what}", ours, truth, size)
        blocks, weights, choice = b.rand(P, 40, K), b.rand(3, N, K), torch.arange(P, device=b.device) % 3
        y = kernels.grouped_choice_linear(blocks, weights, choice)
        each = [
            torch.bmm(f(blocks), f(weights)[choice].transpose(1, 2))
            for f in (torch.Tensor.double, lambda t: t.double().abs())
        ]
        compare("grouped_choice_linear", y, *each)
    for n in (256, 1024, 4096):
        x = b.rand(9, n)
        H = kernels.walsh_hadamard_reference(torch.eye(n, dtype=torch.float64, device=b.device))
        compare("walsh_hadamard", kernels.walsh_hadamard(x), x.double() @ H, x.double().abs() @ H.abs())
    return {**worst, "all_within_8": max(worst.values()) <= 8}


def hadamard(b: Bench, top: dict[str, float]) -> dict[str, object]:
    """Rows of 4096."""
    x = b.rand(8 if b.small else 16384, 4096)
    return {
        "walsh_hadamard": b.seconds(lambda: kernels.walsh_hadamard(x)),
        "butterfly": b.seconds(lambda: kernels.walsh_hadamard_reference(x)),
        "floor_us": 1e6 * 2 * x.numel() * x.element_size() / top["bytes_per_s"],
    }


def population(b: Bench, name: str, parents: int) -> dict[str, object]:
    """Seconds a candidate by each method, after the parents; in CUDA graphs; the base model alone."""
    size = SIZES[name]
    if b.small:
        size = Size(size.kind, 1, 64, 4, 64, 2, size.tokens)
    net, data = net_of(size, b.device, b.dtype), batches(size, b.device, b.dtype)
    first, each = children(net, parents, 7, 1, 0)
    truth = net.evaluate(each, data, "loop")
    told: dict[str, object] = {"model": size.name, "candidates": len(each)}

    def timed(method: str) -> float:
        net.states.clear()
        if method in ("resume", "auto", "premerged"):
            net.evaluate(first, data, method)
        began = _now(b)
        losses = net.evaluate(each, data, method)
        spent = _now(b) - began
        told[f"{method}_max_abs_difference"] = float((losses - truth).abs().max())
        return spent / len(each)

    for method in ("auto", *evaluation_methods()):
        timed(method)
        told[f"{method}_ms"] = 1000 * timed(method)
    with torch.no_grad():
        told["base_ms"] = b.seconds(lambda: net.base(**data[0]))["us"] / 1000
        if b.device != "cpu":
            told["graph_ms"] = graphed(b, net, data[0])
    return told


def graphed(b: Bench, net: object, batch: dict[str, Tensor]) -> float | str:
    """One candidate's forward replayed from a CUDA graph, its spectrum copied in before."""
    spectrum = net.spectrum_of(dict.fromkeys(net.names, 8)).to(b.device)  # type: ignore[attr-defined]
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    stream = torch.cuda.Stream()
    try:
        with torch.cuda.stream(stream):
            for _ in range(3):
                net(spectrum=spectrum, **inputs)  # type: ignore[operator]
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            net(spectrum=spectrum, **inputs)  # type: ignore[operator]
    except RuntimeError as error:
        return f"not captured: {str(error).splitlines()[0][:120]}"
    return b.seconds(graph.replay)["us"] / 1000


def peft_forward(b: Bench) -> dict[str, object]:
    """Stock PEFT, one LoRA of rank 16 on the MiniLM-size model: ms a candidate."""
    import peft

    size = (
        replace(SIZES["minilm-2048"], layers=1, width=64, heads=4, inner=64, rows=2)
        if b.small
        else SIZES["minilm-2048"]
    )
    net, data = net_of(size, b.device, b.dtype), batches(size, b.device, b.dtype)
    model = peft.get_peft_model(net.base, peft.LoraConfig(r=16, target_modules=list(net.names)))  # type: ignore[arg-type]
    with torch.no_grad():
        return {"ms": b.seconds(lambda: model(**data[0]))["us"] / 1000}


def search_run(b: Bench, out: Path) -> dict[str, object]:
    """One whole rank search on the embedded task."""
    import archrank as ar

    few = {"trials": 4, "train_steps": 5, "finalists": 1} if b.small else {}
    folder = out.with_suffix("") / f"run-{int(time.time())}"
    began = time.monotonic()
    run = ar.run("lora_ranks", hw="a100", device=b.device, out=folder, seed=0, **few)
    return {"seconds": time.monotonic() - began, "front": [t.values for t in run.front()]}


def _now(b: Bench) -> float:
    if b.device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Measures what is missing, in the order of importance, and writes the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.manual_seed(args.seed)
    b, cells = Bench(args.device, args.small), Cells(args.out)
    top = cells.get("ceilings", lambda: ceilings(b))
    assert isinstance(top, dict)
    todo: dict[str, Callable[[], dict[str, object]]] = {
        "right bf16": lambda: right(b),
        "right fp32": lambda: right(replace(b, dtype=torch.float32)),
        **{n: lambda s=s: layer(b, s, top) for n, s in (SMALL_LAYERS if args.small else LAYERS).items()},
        "walsh_hadamard 16384 × 4096": lambda: hadamard(b, top),
        "population minilm-2048": lambda: population(b, "minilm-2048", 2 if args.small else 8),
        "peft minilm-2048": lambda: peft_forward(b),
        "population vit-base-2048": lambda: population(b, "vit-base-2048", 2),
        "population llama-7b-layer-2048": lambda: population(b, "llama-7b-layer-2048", 2),
        "search": lambda: search_run(b, args.out),
    }
    found = {"ceilings": top, **cells.all(todo)}
    told = found["population minilm-2048"]
    assert isinstance(told, dict)
    write_result(
        args.out,
        {
            "claim": "time of the eager loop over that of method auto, MiniLM-size, 2,048 tokens a candidate, bf16",
            "value": told["loop_ms"] / told["auto_ms"],
            "unit": "ratio",
            "ci": None,
            "seeds": [args.seed],
            "baselines": ["eager loop", "CUDA graphs", "PEFT", "two GEMMs and a mask", "gather and bmm", "butterfly"],
            "small": args.small,
            "cases": found,
        },
    )


if __name__ == "__main__":
    main()
