r"""From low-rank factors to folders that stock PEFT, transformers and vLLM read.

PEFT matches `rank_pattern` keys by `(.*\.)?(key)$`, first match first: only an escaped full name behind `^` names
exactly one module (PEFT ≥ 0.15). vLLM scales every module by the top-level lora_alpha / r: a constant ratio, here 1,
with all scales folded into B, is right for everyone.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from archrank.supernet.quiet import quiet_transformers

__all__ = [
    "ExportDiffers",
    "ExportRefused",
    "Home",
    "merged",
    "unmergeable",
    "write_merged",
    "write_peft",
    "zero_padded",
]

Factors = Mapping[str, tuple[Tensor, Tensor]]


class ExportRefused(ValueError):
    """A sub-network that cannot take the form that was asked for."""


class ExportDiffers(RuntimeError):
    """A file that does not answer as the module that it was made from."""


@dataclass(frozen=True)
class Home:
    """What an export says of the base: name or folder, PEFT's task type, modules trained beside the adapter, the
    tokenizer or image processor.
    """

    base_name: str = ""
    peft_task: str | None = None
    new_head: tuple[str, ...] = ()
    processor: object = field(default=None, compare=False)


def zero_padded(factors: Factors) -> dict[str, tuple[Tensor, Tensor]]:
    """The same products with A and B padded with zeros to the largest rank."""
    top = max((len(A) for A, _ in factors.values()), default=0)
    return {
        name: (
            torch.cat([A, A.new_zeros(top - len(A), A.shape[1])]),
            torch.cat([B, B.new_zeros(len(B), top - B.shape[1])], dim=1),
        )
        for name, (A, B) in factors.items()
    }


def merged(base: nn.Module, factors: Factors) -> nn.Module:
    """A copy of `base` with W + B A; added in fp32 from the pristine weight, then rounded once to the weight's
    dtype. ExportRefused for a weight that another module shares, or that is quantised.
    """
    for reason in unmergeable(base, factors).values():
        raise ExportRefused(reason)
    model = copy.deepcopy(base)
    with torch.no_grad():
        for name, (A, B) in factors.items():
            weight = model.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            delta = B.float() @ A.float()
            if _is_conv1d(model.get_submodule(name)):
                delta = delta.T
            weight.copy_((weight.float() + delta.to(weight.device)).to(weight.dtype))
    return model


def unmergeable(base: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """{module: why W + B A cannot take the place of its weight}, for those of `names` of which it cannot."""
    owners: dict[int, list[str]] = {}
    for name, p in base.named_parameters(remove_duplicate=False):
        owners.setdefault(id(p), []).append(name.rpartition(".")[0])
    found = {}
    for name in names:
        weight = getattr(base.get_submodule(name), "weight", None)
        others = [o for o in owners.get(id(weight), []) if o != name]
        if not isinstance(weight, Tensor) or not weight.is_floating_point():
            found[name] = (
                f"{name} is a {type(base.get_submodule(name)).__name__}, whose weight is quantised: W + B A would have "
                "to be quantised again; take the adapter home as peft, which runs beside it"
            )
        elif others:
            found[name] = (
                f"{name} shares its weight with {others[0]} (tied weights): merging would change both; take the "
                "adapter home as peft, or leave the module out of --target-modules"
            )
    return found


def write_peft(base: nn.Module, factors: Factors, folder: Path, home: Home) -> Path:
    """`adapter_config.json` and `adapter_model.safetensors`; ExportRefused when there is nothing to write."""
    if not factors:
        raise ExportRefused(
            "this sub-network adapts no module: it is the base itself; pick another, or export it merged"
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(peft_config(base, factors, home), indent=2) + "\n")
    tensors: dict[str, Tensor] = {}
    for name, (A, B) in factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = A.detach().float().cpu().contiguous().clone()
        tensors[f"base_model.model.{name}.lora_B.weight"] = B.detach().float().cpu().contiguous().clone()
    for head in heads(base, home):
        for key, value in base.get_submodule(head).state_dict().items():
            tensors[f"base_model.model.{head}.{key}"] = value.detach().float().cpu().contiguous().clone()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def peft_config(base: nn.Module, factors: Factors, home: Home) -> dict[str, object]:
    """The adapter's `adapter_config.json`: r = the largest rank, alpha / r = 1 for every module."""
    ranks = {name: len(A) for name, (A, _) in factors.items()}
    top = max(ranks.values())
    odd = {"^" + re.escape(name): r for name, r in ranks.items() if r != top}
    return {
        "peft_type": "LORA",
        "task_type": home.peft_task,
        "base_model_name_or_path": home.base_name,
        "r": top,
        "lora_alpha": top,
        "rank_pattern": odd,
        "alpha_pattern": odd,
        "target_modules": _targets(base, list(ranks)),
        "modules_to_save": heads(base, home) or None,
        "fan_in_fan_out": any(_is_conv1d(base.get_submodule(name)) for name in ranks),
        "bias": "none",
        "lora_dropout": 0.0,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def heads(base: nn.Module, home: Home) -> list[str]:
    """The modules saved whole beside the adapter: new ones, and for SEQ_CLS the head that the base has, which PEFT
    then asks for.
    """
    kept = [
        n
        for n, _ in base.named_modules()
        if home.peft_task == "SEQ_CLS" and n.split(".")[-1] in ("classifier", "score")
    ]
    return list(dict.fromkeys([*home.new_head, *kept]))


def _targets(base: nn.Module, names: list[str]) -> list[str] | str:
    """Full names; a regular expression where a full name is also another module's suffix (encoder and decoder
    twins).
    """
    others = [n for n, _ in base.named_modules() if n not in set(names)]
    if any(other.endswith("." + name) for other in others for name in names):
        return "(?:" + "|".join(re.escape(name) for name in names) + ")"
    return names


def write_merged(model: nn.Module, folder: Path, home: Home) -> Path:
    """`save_pretrained` of the merged model, with the tokenizer or image processor beside it."""
    save = getattr(model, "save_pretrained", None)
    if save is None:
        raise ExportRefused(f"{type(model).__name__} has no save_pretrained: export the adapter (peft) instead")
    folder.mkdir(parents=True, exist_ok=True)
    with quiet_transformers():
        save(folder)
    save_processor = getattr(home.processor, "save_pretrained", None)
    if save_processor is not None:
        save_processor(folder)
    return folder


def _is_conv1d(module: nn.Module) -> bool:
    """Transformers' Conv1D keeps its weight as (in, out)."""
    return type(module).__name__ == "Conv1D"
