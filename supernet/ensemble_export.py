"""An ensemble as a folder of two files: `ensemble.json` says each member's class and widths, `ensemble.safetensors`
holds every weight once, the trunk's among the first member's. `load_ensemble` reads it back as an ordinary module.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from archrank.grammar import EncoderLayer
from archrank.supernet.cutting import HEAD_COUNTS, resize
from archrank.supernet.encoders import EncoderError, find_layers
from archrank.supernet.export import ExportRefused
from archrank.supernet.quiet import quiet_transformers

if TYPE_CHECKING:
    from archrank.supernet.ensembles import Ensemble

__all__ = ["ENSEMBLE_CONFIG", "ENSEMBLE_WEIGHTS", "load_ensemble", "save_ensemble"]

ENSEMBLE_CONFIG, ENSEMBLE_WEIGHTS = "ensemble.json", "ensemble.safetensors"
SCHEMA = 1
FFN_WIDTHS = ("intermediate_size", "hidden_dim")


def save_ensemble(ensemble: Ensemble, folder: Path) -> Path:
    """Writes the merged ensemble; ExportRefused where its members are no transformers models."""
    whole = ensemble.merged() if ensemble.adapters() else ensemble
    config = getattr(whole.members[0], "config", None)
    if config is None:
        raise ExportRefused(f"{type(whole.members[0]).__name__} is no transformers model: keep its module instead")
    said = config.to_dict()
    sizes = whole.layer
    for key in HEAD_COUNTS:
        if key in said:
            said[key] = sizes.heads
    for key in FFN_WIDTHS:
        if key in said:
            said[key] = sizes.ffn
    said.pop("head_dim", None)
    record = {
        "schema": SCHEMA,
        "read_by": "archrank.supernet.load_ensemble",
        "class": type(whole.members[0]).__name__,
        "blocks": whole.blocks,
        "own": whole.own,
        "layer": [sizes.hidden, sizes.heads, sizes.head, sizes.ffn],
        "coinciding": [list(pair) for pair in whole.coinciding],
        "members": [_widths(member, whole.blocks, sizes.head) for member in whole.members],
        "config": said,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ENSEMBLE_CONFIG).write_text(json.dumps(record, indent=2, default=str) + "\n")
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in whole.state_dict().items()}
    save_file(tensors, folder / ENSEMBLE_WEIGHTS)
    save_processor = getattr(ensemble.home.processor, "save_pretrained", None)
    if save_processor is not None:
        save_processor(folder)
    return folder


def _widths(member: nn.Module, blocks: str, head: int) -> list[dict[str, int]]:
    layers = member.get_submodule(blocks)
    assert isinstance(layers, nn.ModuleList)
    found = []
    for block in layers:
        linears = [m for m in block.modules() if isinstance(m, nn.Linear)]
        found.append({"heads": linears[0].out_features // head, "ffn": linears[4].out_features})
    return found


def load_ensemble(folder: str | Path) -> Ensemble:
    """The ensemble of a folder of `Ensemble.save`, in eval mode.

    ExportRefused for a folder without one, a class that transformers does not have, or weights that do not belong.
    """
    import transformers

    from archrank.supernet.ensembles import Ensemble

    place = Path(folder)
    if not (place / ENSEMBLE_CONFIG).is_file() or not (place / ENSEMBLE_WEIGHTS).is_file():
        raise ExportRefused(f"{place} has no {ENSEMBLE_CONFIG} and {ENSEMBLE_WEIGHTS}")
    record = json.loads((place / ENSEMBLE_CONFIG).read_text())
    if record.get("schema") != SCHEMA:
        raise ExportRefused(f"{place / ENSEMBLE_CONFIG}: schema {record.get('schema')}; this version reads {SCHEMA}")
    cls: Any = getattr(transformers, str(record["class"]), None)
    if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
        raise ExportRefused(
            f"{place / ENSEMBLE_CONFIG}: transformers {transformers.__version__} has no {record['class']}"
        )
    members = [_shaped(cls, record["config"], record["blocks"], widths) for widths in record["members"]]
    layer = EncoderLayer(*(int(n) for n in record["layer"]))
    same = [(int(i), int(j)) for i, j in record["coinciding"]]
    found = Ensemble(members, record["blocks"], layer, int(record["own"]), same)
    tensors = load_file(place / ENSEMBLE_WEIGHTS)
    dtypes = {t.dtype for t in tensors.values() if t.is_floating_point()}
    if len(dtypes) == 1:
        found.to(dtypes.pop())
    try:
        found.load_state_dict(tensors)
    except RuntimeError as error:
        told = str(error).strip().splitlines()[-1].strip()
        raise ExportRefused(f"{place}: {ENSEMBLE_WEIGHTS} does not belong to {ENSEMBLE_CONFIG}: {told}") from None
    return found.eval()


def _shaped(cls: Any, said: dict[str, Any], blocks: str, widths: list[dict[str, int]]) -> nn.Module:
    """A model of a class with layers of these widths; its weights are still to come."""
    config = cls.config_class.from_dict({**said})
    config.num_hidden_layers = max(1, len(widths))
    with quiet_transformers(), torch.random.fork_rng():
        model: nn.Module = cls(config)
    try:
        layers = find_layers(model)
    except EncoderError as error:
        raise ExportRefused(f"{cls.__name__}: {error}") from None
    for (name, modules), width in zip(layers.items(), widths, strict=False):
        resize(model.get_submodule(name), name, modules, int(width["heads"]), int(width["ffn"]))
    if not widths:
        listed = model.get_submodule(blocks)
        assert isinstance(listed, nn.ModuleList)
        del listed[0]
        config.num_hidden_layers = 0
    return model
