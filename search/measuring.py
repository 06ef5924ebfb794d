"""Timing on the machine at hand, with torch: ops for `search profile`, networks for `search calibrate`.

On a GPU by CUDA events around repeated launches, on a CPU by the clock; the median of the repeats, after two that are
thrown away. Times include what the host adds to a launch where the host is the slower one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from archrank.grammar import Space

__all__ = ["best_device", "networks", "timed", "torch_dtype"]

REPEATS = 7
LEAST_SECONDS = 0.02


def best_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of torch of a name that torch multiplies in; ValueError lists them."""
    known = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if name not in known:
        raise MeasuringError(f"dtype {name!r} cannot be timed here: choose one of {', '.join(known)}")
    return known[name]


class MeasuringError(ValueError):
    """What cannot be timed on this machine."""


def timed(work: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> list[float]:
    """Time of one call in ms, `repeats` times: each the mean of as many calls as fill 20 ms."""
    with torch.inference_mode():
        work()
        calls = max(1, int(LEAST_SECONDS / max(_once(work, device, 1) * 1e-3, 1e-7)))
        return [_once(work, device, min(calls, 2000)) for _ in range(repeats)]


def _once(work: Callable[[], object], device: torch.device, calls: int) -> float:
    if device.type == "cuda":
        start, end = _event(), _event()
        torch.cuda.synchronize(device)
        start.record()
        for _ in range(calls):
            work()
        end.record()
        torch.cuda.synchronize(device)
        return float(start.elapsed_time(end)) / calls
    begun = time.perf_counter()
    for _ in range(calls):
        work()
    return 1e3 * (time.perf_counter() - begun) / calls


def networks(space: Space, texts: Sequence[str], batch: int, dtype: str) -> tuple[float, ...]:
    """The median ms of each sentence's network at a batch, built with random weights; progress on stderr."""
    from rich.console import Console
    from rich.progress import track

    from archrank import supernet

    where, kind = best_device(), torch_dtype(dtype)
    found = []
    for text in track(texts, "timing networks", console=Console(stderr=True)):
        arch = space.elaborate(space.parse(text))
        module = supernet.build(arch, seed=0).to(device=where, dtype=kind).eval()
        if len(arch.input) == 1:
            inputs = torch.zeros((batch, *arch.input), dtype=torch.long, device=where)
        else:
            inputs = torch.zeros((batch, *arch.input), dtype=kind, device=where)
        ms = sorted(timed(lambda module=module, inputs=inputs: module(inputs), where))  # type: ignore[misc]
        found.append(ms[len(ms) // 2])
    return tuple(found)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
