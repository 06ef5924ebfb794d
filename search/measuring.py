"""Timing on the machine at hand, with torch: ops for `search profile`, networks for `search calibrate`.

On a GPU by CUDA events around repeated launches, on a CPU by the clock; the median of the repeats, after two that are
thrown away. Times include what the host adds to a launch where the host is the slower one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from archrank.search.kits import measure
from archrank.search.servable import Servable

__all__ = ["best_device", "networks", "timed", "torch_dtype"]


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


def timed(work: Callable[[], object], device: torch.device, repeats: int = measure.REPEATS) -> list[float]:
    """Time of one call in ms, `repeats` times: each the mean of as many calls as fill 20 ms."""
    with torch.inference_mode():
        return measure.timed(
            measure.by_events(work, device) if device.type == "cuda" else measure.by_clock(work), repeats
        )


def networks(served: Servable, texts: Sequence[str], dtype: str) -> tuple[float, ...]:
    """The median ms of each sentence's network, built with random weights; progress on stderr."""
    from rich.console import Console
    from rich.progress import track

    where, kind = best_device(), torch_dtype(dtype)
    measure.set_precision(dtype)
    found = []
    for text in track(texts, "timing networks", console=Console(stderr=True)):
        module = served.network(text, kind).to(where)
        inputs = [value.to(where) for value in served.inputs(text, kind).values()]
        ms = sorted(timed(lambda module=module, inputs=inputs: module(*inputs), where))  # type: ignore[misc]
        found.append(ms[len(ms) // 2])
    return tuple(found)
