r"""An existing PEFT LoRA folder as effective factors, and such a folder written again; the base is never needed.

    ΔW_l = s_l B_l A_l, s_l = α_l / r_l, or α_l / √r_l with use_rslora

`r_l` and `α_l` come from `rank_pattern` and `alpha_pattern`, each the first key in the file's order with
`(.*\.)?(key)$` matching the module's name, else from `r` and `lora_alpha`. Written back, every scale is folded into B
and α / r is 1 everywhere: what PEFT, transformers and vLLM all read alike.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from archrank.supernet.canonical_form import finite

__all__ = ["AdapterFolderError", "PeftFolder", "key_in_base", "read_peft", "write_shrunk"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
"""Starts that leave the base's weights as they are; the others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) change them."""
OTHER_PRODUCTS = {
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "arrow_config": "Arrow",
    "kasa_config": "KaSA",
    "target_parameters": "LoRA on parameters (target_parameters)",
    "ensure_weight_tying": "LoRA on tied weights (ensure_weight_tying)",
}
"""Settings under which the branch is not s B A of one module."""

_KEY = re.compile(r"(?P<module>.+)\.lora_(?:embedding_)?(?P<side>[AB])(?:\.weight)?")


class AdapterFolderError(ValueError):
    """A folder that is no LoRA which can be read as low-rank products."""


@dataclass(frozen=True)
class PeftFolder:
    """What a LoRA folder holds.

    factors: {module: (A (r, in), B (out, r))} with the scale folded into B, fp32; `shapes`: of the stored tensors,
    where a convolution has more than two axes; `embeddings`: modules stored as lora_embedding_A / B; `rest`: all other
    tensors by their own key, biases of B already scaled; `dtype`: of the stored factors.
    """

    path: Path
    config: Mapping[str, object]
    factors: Mapping[str, tuple[Tensor, Tensor]]
    shapes: Mapping[str, tuple[torch.Size, torch.Size]]
    embeddings: frozenset[str]
    rest: Mapping[str, Tensor]
    dtype: torch.dtype

    @property
    def adapter_params(self) -> int:
        """Σ r (in + out)."""
        return sum(A.numel() + B.numel() for A, B in self.factors.values())

    def bias(self, module: str) -> Tensor | None:
        """What B adds beside its product (lora_bias), scaled; None without one, or where it is zero."""
        found = self.rest.get(f"{PREFIX}{module}.lora_B.bias")
        return found if found is not None and bool(found.any()) else None


def read_peft(folder: str | Path) -> PeftFolder:
    """Reads `adapter_config.json` and `adapter_model.safetensors`; AdapterFolderError names what cannot be read so."""
    path = Path(folder)
    config = _config(path)
    tensors = _tensors(path)
    if config.get("use_dora") or any("lora_magnitude_vector" in key for key in tensors):
        raise AdapterFolderError(
            f"{path}: is a DoRA (use_dora): its magnitudes rescale W + B A by row, so no low-rank product stands for "
            "it; merge it into the base instead"
        )
    for name, what in OTHER_PRODUCTS.items():
        if config.get(name):
            raise AdapterFolderError(f"{path}: is {what}, not one product B A a module; shrink reads plain LoRA")
    start = config.get("init_lora_weights", True)
    if not any(start is p or start == p for p in PLAIN_STARTS):
        raise AdapterFolderError(
            f"{path}: was started by {start}, which changes the base's weights when it is loaded; save it once with "
            "PEFT's path_initial_model_for_weight_conversion, which makes a plain LoRA of it"
        )
    return _folder(path, config, tensors)


def _config(path: Path) -> dict[str, object]:
    if not path.exists():
        raise AdapterFolderError(f"{path}: no such folder; give a PEFT adapter's ({CONFIG} and {WEIGHTS})")
    if not (path / CONFIG).is_file():
        inside = sorted(p.parent.name for p in path.glob(f"*/{CONFIG}"))
        if inside:
            raise AdapterFolderError(
                f"{path}: holds the adapters {', '.join(inside)}, each in a folder of its own; give one: "
                f"{path / inside[0]}"
            )
        seen = path.name if path.is_file() else ", ".join(sorted(p.name for p in path.iterdir())[:4]) or "nothing"
        raise AdapterFolderError(
            f"{path}: has no {CONFIG} (there is {seen}); shrink reads PEFT's folders: load an adapter of another tool "
            "(kohya, diffusers, A1111) with that tool's converter to PEFT first"
        )
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise AdapterFolderError(f"{path / CONFIG}:{error.lineno}:{error.colno}: is not JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise AdapterFolderError(f"{path / CONFIG}: is not UTF-8: {error}") from None
    if not isinstance(config, dict):
        raise AdapterFolderError(f"{path / CONFIG}: must be an object of settings")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterFolderError(
            f"{path}: its peft_type is {kind}; shrink reads LORA"
            + (" (AdaLoRA: peft.convert_to_lora makes one of it)" if kind == "ADALORA" else "")
        )
    return config


def _tensors(path: Path) -> dict[str, Tensor]:
    if not (path / WEIGHTS).is_file():
        pickle = " (only adapter_model.bin, a pickle, which can run code when it is read: save it again with PEFT)"
        raise AdapterFolderError(f"{path}: has no {WEIGHTS}" + pickle * (path / "adapter_model.bin").is_file())
    try:
        tensors: dict[str, Tensor] = load_file(path / WEIGHTS)
        return tensors
    except SafetensorError as error:
        raise AdapterFolderError(f"{path / WEIGHTS}: cannot be read: {error}; fetch it again") from None


def _folder(path: Path, config: Mapping[str, object], tensors: Mapping[str, Tensor]) -> PeftFolder:
    sides: dict[str, dict[str, Tensor]] = {}
    embeddings, rest = set[str](), dict[str, Tensor]()
    for key, value in tensors.items():
        found = _KEY.fullmatch(key)
        if found is None:
            rest[key] = value
            continue
        if not key.startswith(PREFIX):
            raise AdapterFolderError(
                f"{path}: the tensor {key} does not begin with {PREFIX}: stock PEFT would ignore it; save the adapter "
                "again with save_pretrained"
            )
        module = found["module"].removeprefix(PREFIX)
        sides.setdefault(module, {})[found["side"]] = value
        if "lora_embedding_" in key:
            embeddings.add(module)
    if not sides:
        few = ", ".join(list(tensors)[:2]) or "no tensor"
        raise AdapterFolderError(f"{path}: {WEIGHTS} holds no lora_A and lora_B ({few}, …)")
    factors, shapes = {}, {}
    for module, pair in sides.items():
        if set(pair) != {"A", "B"}:
            raise AdapterFolderError(f"{path}: {module} has its lora_{next(iter(pair))} and not the other factor")
        A, B = pair["A"], pair["B"]
        if A.dim() < 2 or B.dim() < 2 or B.shape[1] != A.shape[0] or B.shape[2:].numel() != 1 or not len(A):
            raise AdapterFolderError(f"{path}: {module} has A {tuple(A.shape)} and B {tuple(B.shape)}, not one product")
        if not (finite(A) and finite(B)):
            raise AdapterFolderError(f"{path}: {module} holds NaN or infinite values; its training diverged")
        scale = _scale(path, config, module, len(A))
        factors[module] = A.float().flatten(1), B.float().flatten(1) * scale
        shapes[module] = A.shape, B.shape
        bias = f"{PREFIX}{module}.lora_B.bias"
        if bias in rest:
            rest[bias] = rest[bias].float() * scale
    dtype = next(iter(sides.values()))["A"].dtype
    return PeftFolder(path, config, factors, shapes, frozenset(embeddings), rest, dtype)


def _scale(path: Path, config: Mapping[str, object], module: str, rank: int) -> float:
    said = _setting(path, config, "rank_pattern", module, "r")
    if said != rank:
        raise AdapterFolderError(
            f"{path}: {module} is stored at rank {rank}, but {CONFIG} says {said:g}; the two files do not belong "
            "together"
        )
    alpha = _setting(path, config, "alpha_pattern", module, "lora_alpha")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _setting(path: Path, config: Mapping[str, object], name: str, module: str, general: str) -> float:
    """What the pattern `name` says of a module, else what `general` says of all (PEFT's default is 8)."""
    patterns = config.get(name) or {}
    if not isinstance(patterns, dict):
        raise AdapterFolderError(f"{path / CONFIG}: {name} is {patterns!r}; it must be an object {{name: number}}")
    where, value = general, config.get(general, 8)
    for key, own in patterns.items():
        try:
            matches = re.match(rf"(.*\.)?({key})$", module)
        except re.error as error:
            raise AdapterFolderError(
                f"{path / CONFIG}: {name} has the key {key!r}, which is no regular expression: {error}"
            ) from None
        if matches:
            where, value = f"{name}[{key!r}]", own
            break
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AdapterFolderError(f"{path / CONFIG}: {where} is {json.dumps(value)}; it must be a number")
    return float(value)


def write_shrunk(source: PeftFolder, factors: Mapping[str, tuple[Tensor, Tensor]], folder: Path) -> Path:
    """`source` with other factors: its configuration, heads and biases stay, ranks and scales are its own.

    Modules of `source` that `factors` lacks are left out; biases of the base that were trained with them stay, those
    of B do not. fp32, since rotated factors do not round to the 16-bit values that the file held. AdapterFolderError
    where nothing is left.
    """
    if not factors:
        raise AdapterFolderError(f"{source.path}: no module would keep a component: nothing to write")
    ranks = {name: len(A) for name, (A, _) in factors.items()}
    top = max(ranks.values())
    odd = {"^" + re.escape(name): rank for name, rank in ranks.items() if rank != top}
    config = {
        **source.config,
        "r": top,
        "lora_alpha": top,
        "rank_pattern": odd,
        "alpha_pattern": odd,
        "use_rslora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    gone = [name for name in source.factors if name not in factors]
    if gone:
        config |= {"target_modules": _targets(list(factors), gone), "layers_to_transform": None, "layers_pattern": None}
    lost = {f"{PREFIX}{name}.lora_B.bias" for name in gone}
    tensors = {key: value for key, value in source.rest.items() if key not in lost}
    for key in source.rest:
        # PEFT wraps a module that was left out no more: the base's parameters stand under their own names
        if key.removeprefix(PREFIX).partition(".base_layer.")[0] in gone:
            tensors[PREFIX + key_in_base(key)] = tensors.pop(key)
    for name, (A, B) in factors.items():
        a, b = source.shapes[name]
        ending = ("lora_embedding_A", "lora_embedding_B")
        keys = ending if name in source.embeddings else ("lora_A.weight", "lora_B.weight")
        tensors[f"{PREFIX}{name}.{keys[0]}"] = A.reshape(len(A), *a[1:])
        tensors[f"{PREFIX}{name}.{keys[1]}"] = B.reshape(b[0], len(A), *b[2:])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    plain = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    save_file(plain, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def key_in_base(key: str) -> str:
    """The base's own name of a parameter in an adapter's file."""
    return key.removeprefix(PREFIX).replace(".base_layer.", ".")


def _targets(kept: list[str], gone: list[str]) -> list[str] | str:
    """Full names; a regular expression where one is the ending of a module that was left out."""
    if any(name.endswith(f".{k}") for name in gone for k in kept):
        return "(?:" + "|".join(map(re.escape, kept)) + ")"
    return kept
