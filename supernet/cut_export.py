"""Folders of cut encoders.

An ordinary transformers folder is written where the model's own class, built from the configuration, has exactly the
cut model's shapes: equal widths in all layers, and heads that it can name. ViT takes `head_dim`; BERT, RoBERTa and
DistilBERT tie it to hidden / heads, so that only cut FFNs and dropped layers can be said to them.

Every other cut model goes to a folder of two files, `cut.json` and `cut.safetensors`, without a config.json and
model.safetensors: `from_pretrained` refuses it instead of filling it with random weights. `load_cut` reads it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from archrank.supernet.cutting import LayerCut, ffn_unit, resize, say_depth, say_ffn
from archrank.supernet.encoders import ROLES, LayerModules, find_layers
from archrank.supernet.export import ExportRefused, Home, write_merged
from archrank.supernet.model_onnx import write_model_onnx as write_onnx
from archrank.supernet.quiet import quiet_transformers

__all__ = ["CUT_CONFIG", "CUT_WEIGHTS", "is_stock", "load_cut", "padded", "write", "write_onnx"]

CUT_CONFIG, CUT_WEIGHTS = "cut.json", "cut.safetensors"
SCHEMA = 1


def is_stock(model: nn.Module) -> bool:
    """Whether the class of `model`, built from its configuration, has the same shapes under the same names."""
    config = getattr(model, "config", None)
    if config is None:
        return False
    try:
        again = type(config).from_dict(config.to_dict())
        with torch.device("meta"), quiet_transformers():
            fresh = type(model)(again)
    except (ValueError, StrictDataclassError):  # widths that the class does not allow
        return False
    return {k: v.shape for k, v in fresh.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


def write(
    model: nn.Module, layers: Mapping[str, LayerModules], cuts: Mapping[str, LayerCut], folder: Path, home: Home
) -> Path:
    """The model's folder in the form that fits it, with a README that says which; ExportRefused for a folder that
    holds a model in the other form.
    """
    stock = is_stock(model)
    other = (CUT_CONFIG,) if stock else ("config.json", "model.safetensors")
    stale = [name for name in other if (folder / name).exists()]
    if stale:
        raise ExportRefused(f"{folder} holds another model ({', '.join(stale)}); give a new or empty folder")
    if stock:
        write_merged(model, folder, home)
    else:
        _write_cut(model, layers, cuts, folder, home)
    (folder / "README.md").write_text(_readme(type(model).__name__, stock, list(cuts), cuts))
    return folder


def _write_cut(
    model: nn.Module, layers: Mapping[str, LayerModules], cuts: Mapping[str, LayerCut], folder: Path, home: Home
) -> None:
    config = getattr(model, "config", None)
    if config is None:
        raise ExportRefused(f"{type(model).__name__} is no transformers model: keep its module instead")
    folder.mkdir(parents=True, exist_ok=True)
    said = config.to_dict()
    sizes = next(iter(layers.values())).sizes
    _say_base_widths(said, sizes.heads, sizes.ffn)
    record = {
        "schema": SCHEMA,
        "read_by": "archrank.supernet.load_cut",
        "class": type(model).__name__,
        "layers": [{"heads": len(cut.heads), "ffn": len(cut.channels)} for cut in cuts.values()],
        "config": said,
    }
    (folder / CUT_CONFIG).write_text(json.dumps(record, indent=2, default=str) + "\n")
    save_file({k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}, folder / CUT_WEIGHTS)
    save_processor = getattr(home.processor, "save_pretrained", None)
    if save_processor is not None:
        save_processor(folder)


def _say_base_widths(config: dict[str, Any], heads: int, ffn: int) -> None:
    """Before it is cut the model has the base's widths again."""
    for key in ("num_attention_heads", "n_heads"):
        if key in config:
            config[key] = heads
    for key in ("intermediate_size", "hidden_dim"):
        if key in config:
            config[key] = ffn
    config.pop("head_dim", None)


def load_cut(folder: str | Path) -> nn.Module:
    """The model of a folder with `cut.json`, in eval mode, an ordinary module of its transformers class.

    ExportRefused for a folder without one, a class that transformers does not have, or weights that do not belong.
    """
    import transformers

    place = Path(folder)
    if not (place / CUT_CONFIG).is_file() or not (place / CUT_WEIGHTS).is_file():
        hint = " (it has a config.json: use from_pretrained)" if (place / "config.json").is_file() else ""
        raise ExportRefused(f"{place} has no {CUT_CONFIG} and {CUT_WEIGHTS}{hint}")
    record = json.loads((place / CUT_CONFIG).read_text())
    if record.get("schema") != SCHEMA:
        raise ExportRefused(f"{place / CUT_CONFIG}: schema {record.get('schema')}; this version reads {SCHEMA}")
    cls: Any = getattr(transformers, str(record["class"]), None)
    if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
        raise ExportRefused(f"{place / CUT_CONFIG}: transformers {transformers.__version__} has no {record['class']}")
    widths = record["layers"]
    kind: Any = cls
    config = kind.config_class.from_dict({**record["config"]})
    say_depth(config, max(1, len(widths)))
    with quiet_transformers(), torch.random.fork_rng():
        model: nn.Module = cls(config)
    layers = find_layers(model)
    for (name, modules), width in zip(layers.items(), widths, strict=False):
        resize(model.get_submodule(name), name, modules, int(width["heads"]), int(width["ffn"]))
    if not widths:
        blocks = model.get_submodule(next(iter(layers)).rpartition(".")[0])
        assert isinstance(blocks, nn.ModuleList)
        del blocks[0]
        say_depth(config, 0)
    with safe_open(place / CUT_WEIGHTS, framework="pt") as file:
        dtypes = {file.get_tensor(key).dtype for key in file.keys() if file.get_slice(key).get_dtype()[0] in "FB"}  # noqa: SIM118
    if len(dtypes) == 1:
        model.to(dtypes.pop())
    try:
        model.load_state_dict(load_file(place / CUT_WEIGHTS))
    except RuntimeError as error:
        told = str(error).strip().splitlines()
        raise ExportRefused(f"{place}: {CUT_WEIGHTS} does not belong to {CUT_CONFIG}: {told[-1].strip()}") from None
    return model.eval()


def padded(
    model: nn.Module, base: nn.Module, layers: Mapping[str, LayerModules], cuts: Mapping[str, LayerCut]
) -> nn.Module:
    """The same function in a model with the base's heads and the widest kept FFN in every layer, zeros in between.

    A head whose columns of o are zero adds nothing, and so does a channel whose column of down is zero.
    """
    wide = max((len(cut.channels) for cut in cuts.values()), default=1)
    big = copy.deepcopy(model)
    config: Any = big.config
    unit = ffn_unit(config)
    wide = -(-wide // unit) * unit
    sizes = next(iter(layers.values())).sizes
    for position, name in enumerate(cuts):
        fresh = f"{name.rpartition('.')[0]}.{position}"
        for role in ROLES:
            linear = big.get_submodule(fresh + layers[name].names[role][len(name) :])
            assert isinstance(linear, nn.Linear)
            inner, hidden = sizes.heads * sizes.head, sizes.hidden
            rows, columns = {"o": (hidden, inner), "up": (wide, hidden), "down": (hidden, wide)}.get(
                role, (inner, hidden)
            )
            _fill_up(linear, rows, columns)
    if hasattr(config, "head_dim") and not hasattr(getattr(base, "config", None), "head_dim"):
        del config.head_dim
    config.num_attention_heads = sizes.heads
    say_ffn(config, wide)
    return big


def _fill_up(linear: nn.Linear, rows: int, columns: int) -> None:
    weight = linear.weight.detach().new_zeros(rows, columns)
    weight[: linear.out_features, : linear.in_features] = linear.weight.detach()
    bias = linear.bias
    if bias is not None:
        longer = bias.detach().new_zeros(rows)
        longer[: len(bias)] = bias.detach()
        linear.bias = nn.Parameter(longer, requires_grad=bias.requires_grad)
    linear.weight = nn.Parameter(weight, requires_grad=linear.weight.requires_grad)
    linear.out_features, linear.in_features = rows, columns


def _readme(cls: str, stock: bool, names: list[str], cuts: Mapping[str, LayerCut]) -> str:
    rows = "".join(f"| {name} | {len(cuts[name].heads)} | {len(cuts[name].channels)} |\n" for name in names)
    how = (
        f"An ordinary transformers folder: `{cls}.from_pretrained(FOLDER)`."
        if stock
        else (
            f"The layers have widths that `{cls}`'s configuration cannot say, so `from_pretrained` refuses this folder."
            " Load it with `archrank.supernet.load_cut(FOLDER)`; it gives an ordinary module."
        )
    )
    table = f"| layer of the base | heads | FFN channels |\n|---|---|---|\n{rows}"
    return f"---\ntags: [archrank, pruned]\n---\n\n# An encoder cut by archrank\n\n{how}\n\n{table}"
