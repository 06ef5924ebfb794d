"""Ranks of an existing adapter by what they cost on data: `search shrink --ranks auto --data D`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from archrank.search.config import ConfigError
from archrank.search.shrinking import ShrinkPlan, prices_of, shared
from archrank.supernet import data as datasets
from archrank.supernet.adapters.lora import LoRA
from archrank.supernet.base import Base, load_base
from archrank.supernet.canonical_form import canonical, canonical_for, numerical_rank
from archrank.supernet.net import Elastic
from archrank.supernet.peft_folder import PeftFolder, key_in_base
from archrank.supernet.shrinking import ladder
from archrank.supernet.spectra import second_moments

__all__ = ["ranks_by_loss"]

RUNGS = 24  # configurations that are tried, budgets falling evenly in their logarithm
ROWS = 32
Factors = dict[str, tuple[Tensor, Tensor]]


def ranks_by_loss(
    source: PeftFolder, plan: ShrinkPlan, most: Mapping[str, int]
) -> tuple[Factors, dict[str, np.ndarray], dict[str, int], dict[str, float]]:
    """(factors in data-aware canonical form, their spectra, ranks, {"whole", "shrunk"} validation losses).

    Components are ordered by E‖σ_j u_j v_jᵀ x‖² over training rows and dropped in that order, per parameter, from what
    the other rules leave (`most` of each module, the plan's budget) down; of the configurations on the way the smallest
    is taken whose loss is at most (1 + within) × the whole adapter's, and the first where none is.
    """
    base, batches, calibration = _prepared(source, plan)
    shapes = {n: (len(B), A.shape[1]) for n, (A, B) in source.factors.items()}
    held = {n for n, m in base.model.named_modules() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"}
    strange = [n for n in shapes if n not in held]
    if strange:
        raise ConfigError(
            f"{source.path}: {strange[0]} is no linear layer of the base; --ranks auto runs the adapter over its base "
            "and knows linear layers alone: shrink it without --data"
        )
    moments = second_moments(base.model, list(shapes), calibration)
    forms: Factors = {}
    for name, (A, B) in source.factors.items():
        moment = moments.get(name)
        forms[name] = canonical(A.double(), B.double()) if moment is None else canonical_for(A.double(), B, moment)
    spectra = {n: _sizes(A, B, moments.get(n)) for n, (A, B) in forms.items()}
    whole = {n: max(numerical_rank(torch.from_numpy(s)), int(source.bias(n) is not None)) for n, s in spectra.items()}
    top = shared(source, plan, spectra, {n: min(r, most[n]) for n, r in whole.items()})
    store = {}
    for name, (A, B) in forms.items():
        store[name] = LoRA(*shapes[name], len(A))
        store[name].A.data.copy_(A)
        store[name].B.data.copy_(B)
    net = Elastic(base.model, store).eval()
    prices = prices_of(source)
    # a module that holds a bias of B keeps one component, whatever its price
    rungs = [
        {n: max(r, int(source.bias(n) is not None)) for n, r in rung.items()}
        for rung in ladder({n: s[: top[n]] for n, s in spectra.items()}, prices, RUNGS)
    ]
    with torch.no_grad():
        reference, *found = net.evaluate([whole, *rungs], batches).tolist()
    allowed = reference + plan.within * abs(reference)
    best = min(
        (i for i, loss in enumerate(found) if loss <= allowed),
        key=lambda i: sum(r * prices[n] for n, r in rungs[i].items()),
        default=0,
    )
    return forms, spectra, dict(rungs[best]), {"whole": reference, "shrunk": found[best]}


def _sizes(A: Tensor, B: Tensor, moment: Tensor | None) -> np.ndarray:
    """‖b_j‖ (a_jᵀ C a_j)^½: a component's size where the inputs are."""
    a = A.double()
    inside = a.square().sum(1) if moment is None else torch.einsum("ri,ij,rj->r", a, moment.double(), a).clamp(min=0)
    sizes: np.ndarray = (inside.sqrt() * B.double().norm(dim=0)).numpy()
    return sizes


def _prepared(
    source: PeftFolder, plan: ShrinkPlan
) -> tuple[Base, list[dict[str, Tensor]], Sequence[Mapping[str, Tensor]]]:
    """The base with the adapter's heads, validation batches, and a few training batches."""
    assert plan.data is not None
    name = plan.base or str(source.config.get("base_model_name_or_path") or "") or None
    if name is None:
        raise ConfigError(f"{source.path}: its {'adapter_config.json'} names no base; give --base")
    raw = datasets.read_dataset(plan.data, plan.task)
    base = load_base(name, plan.task or raw.task, label_names=raw.label_names)
    with torch.no_grad(), warnings.catch_warnings():
        own = dict(base.model.named_parameters()) | dict(base.model.named_buffers())
        for key, value in source.rest.items():
            target = own.get(key_in_base(key))
            if target is not None and target.shape == value.shape:
                target.copy_(value)
        for name in source.factors:
            if (bias := source.bias(name)) is not None:
                module: Any = base.model.get_submodule(name)
                module.bias = nn.Parameter(bias.float() if module.bias is None else module.bias + bias)
    data = datasets.prepare(raw, base, max_length=128)
    rows = np.arange(data.size("validation"))[: plan.eval_rows]
    parts = np.array_split(rows, -(-len(rows) // 256))
    few = np.arange(min(data.size("train"), 4 * ROWS))
    calibration = [data.batch("train", part) for part in np.array_split(few, -(-len(few) // ROWS))]
    return base, [dict(data.batch("validation", part)) for part in parts], calibration
