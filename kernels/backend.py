"""Which implementation an op runs: Triton on a GPU that it pays on, or under Triton's interpreter; else torch.

ARCHRANK_KERNELS=torch or =triton in the environment forces one, for comparisons.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from archrank.kernels.checks import KernelError

__all__ = ["LARGEST_RANK", "LAUNCHES", "Launch", "interpreted", "launch_for", "launch_planes", "use_triton"]

OLDEST = (8, 0)
"""sm_75 compiles these kernels into 7.8 KB of stack a thread and no tensor-core instruction."""
LARGEST = 2**31
"""Elements that 32-bit offsets reach."""
LARGEST_RANK = 128
"""Components that a tile holds without spilling."""
DTYPES = {"cuda": (torch.float16, torch.bfloat16), "cpu": (torch.float16, torch.float32)}
"""By device. On a GPU fp32 stays with cuBLAS: IEEE products have no tensor cores, and the tiles that pay in bf16 spill
(10 KB of stack a thread for the backward kernel at rank 64). The interpreter, on the CPU, checks fp32; it multiplies
the bit patterns of bf16, which is left to tests that mend it.
"""


@dataclass(frozen=True, slots=True)
class Launch:
    """Tile sizes of one op on one kind of device: `m` rows, `n` outputs, `k` inputs; `warps`, `stages` of Triton;
    `planes`: partial sums that a reduction over rows is split into.
    """

    m: int
    n: int
    k: int
    warps: int = 4
    stages: int = 3
    planes: int = 128


# by device and op; what is not listed takes the entry of "cuda". Compiled within the budget of
# tests/kernels/budget.json; their times are not measured yet (benchmarks/gpu.sh does).
LAUNCHES: dict[str, dict[str, Launch]] = {
    "cuda": {
        "gated_shrink": Launch(64, 0, 64),
        "gated_backward": Launch(64, 32, 0, warps=8),
        "grouped_choice_linear": Launch(128, 128, 64, warps=8),
        "walsh_hadamard": Launch(1, 0, 0),
    },
    "sm_90": {
        "gated_shrink": Launch(128, 0, 64, warps=8),
        "gated_backward": Launch(64, 64, 0, warps=8),
    },
    # the interpreter pays for each program, not for its size
    "interpreter": {
        "gated_shrink": Launch(32, 0, 32),
        "gated_backward": Launch(32, 32, 0, planes=2),
        "grouped_choice_linear": Launch(32, 32, 32),
        "walsh_hadamard": Launch(1, 0, 0),
    },
}


def interpreted() -> bool:
    """Whether Triton kernels run as Python on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def use_triton(op: str, *tensors: Tensor, largest: int = 0) -> bool:
    """Whether `op` runs its Triton kernel on these tensors; KernelError where it is forced and cannot.

    largest: elements of the largest tensor that the kernel writes.
    """
    forced = os.environ.get("ARCHRANK_KERNELS", "")
    if forced == "torch":
        return False
    reason = _unfit(op, tensors, largest)
    if reason and forced == "triton":
        raise KernelError(f"{op}: ARCHRANK_KERNELS=triton, and {reason}; unset it to run the torch implementation")
    return not reason


def launch_for(op: str, tensor: Tensor) -> Launch:
    """The tiles of `op` for the device of `tensor`."""
    if tensor.device.type != "cuda":
        return LAUNCHES["interpreter"][op]
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return LAUNCHES.get(f"sm_{major}{minor}", {}).get(op) or LAUNCHES["cuda"][op]


def launch_planes(dy: Tensor) -> int:
    """Partial sums, each of B's shape, that the backward kernel of `gated_lora` may write; 0 where there is none."""
    if dy.device.type != "cuda" and not interpreted():
        return 0
    return launch_for("gated_backward", dy).planes


def _unfit(op: str, tensors: tuple[Tensor, ...], largest: int) -> str:
    """Why the Triton kernel cannot run; empty where it can."""
    device = tensors[0].device
    if device.type != "cuda" and not interpreted():
        return f"the tensors are on {device}, where Triton runs only with TRITON_INTERPRET=1"
    if tensors[0].dtype not in DTYPES[device.type]:
        has = ", ".join(str(d)[6:] for d in DTYPES[device.type])
        return f"its kernel has no {str(tensors[0].dtype)[6:]} there; it has {has}"
    for t in tensors:
        if _reach(t) >= LARGEST:
            return f"a tensor of shape {tuple(t.shape)} reaches over 2^31 elements, more than 32-bit offsets count"
    if largest >= LARGEST:
        return f"it would write {largest} elements to one tensor, 2^31 or more, which 32-bit offsets do not count"
    if not _has_triton():
        _say(f"triton is not installed: {op} and the other kernels run as torch ops (pip install 'archrank[gpu]')")
        return "triton is not installed"
    if device.type == "cuda" and (got := torch.cuda.get_device_capability(device)) < OLDEST:
        _say(
            f"{torch.cuda.get_device_name(device)} is sm_{got[0]}{got[1]}: kernels for sm_80 and later run as torch ops"
        )
        return f"the device is sm_{got[0]}{got[1]}, older than sm_80"
    return ""


def _reach(t: Tensor) -> int:
    return 1 + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True)) if t.numel() else 0


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@lru_cache(maxsize=32)
def _say(what: str) -> None:
    """Once for each sentence."""
    warnings.warn(what, stacklevel=5)
