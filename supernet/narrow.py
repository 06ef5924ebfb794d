"""A net over a bf16 copy of its base, where that is the faster way to price candidates: CPUs with AMX.

    y = base_bf16(x) + (s B (c ∘ (A x)) in fp32, rounded to bf16)

AMX multiplies bf16 tiles with fp32 sums at several times the rate of fp32 vectors; without it bf16 on a CPU is about as
fast as fp32 or slower, so nothing narrows by itself elsewhere. Numerics: bf16 keeps 8 significant bits, each op rounds
by up to 2⁻⁸ relative, and a loss is then typically 10⁻³ to 10⁻² off. The branch stays a branch in fp32: merging ΔW into
bf16 weights would lose half of the effect of a delta with ‖ΔW‖ = 0.003 ‖W‖ (docs/supernet.md). Values in bf16 are
comparable among themselves, not with fp32 ones.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from archrank.supernet.fingerprint import fingerprint

if TYPE_CHECKING:
    from archrank.supernet.net import Elastic

__all__ = ["COMPUTE_DTYPES", "cpu_has_amx", "fitting_dtype", "narrowed", "narrowed_batch"]

COMPUTE_DTYPES = ("auto", "fp32", "bf16")
SMALL = 1_000_000
"""Parameters below which calls cost more than products, whatever the dtype."""


def cpu_has_amx() -> bool:
    """Whether this CPU multiplies bf16 tiles (Intel's AMX-BF16)."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def fitting_dtype(base: torch.nn.Module) -> str:
    """bf16 for an fp32 base of a million parameters or more on a CPU with AMX, else fp32 (the base as it is)."""
    first = next(base.parameters())
    large = sum(p.numel() for p in base.parameters()) >= SMALL
    fits = first.device.type == "cpu" and first.dtype == torch.float32 and large and cpu_has_amx()
    return "bf16" if fits else "fp32"


def narrowed(net: Elastic) -> Elastic:
    """The net over a bf16 copy of its base with the same adapters; the copy is kept while the base's weights stay."""
    from archrank.supernet.net import Elastic

    if all(p.dtype != torch.float32 for p in net.base.parameters()):
        return net
    version = fingerprint([*net.base.parameters(), *net.base.buffers()])
    if net.narrow is None or net.narrow[0] != version:
        base = copy.deepcopy(net.base).to(torch.bfloat16).eval()
        net.narrow = version, Elastic(base, dict(net.items()), net.space)
    return net.narrow[1]


def narrowed_batch(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inputs in bf16; whole numbers and labels as they are."""
    wide = {k for k, v in batch.items() if k != "labels" and v.dtype == torch.float32}
    return {k: v.bfloat16() if k in wide else v for k, v in batch.items()}
