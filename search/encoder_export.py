"""Takes a cut encoder home: the folder is written, reloaded as a stranger would, and compared with the supernet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from archrank.search.candidates import weights_of
from archrank.search.encoder_run import load_named
from archrank.search.results import Run
from archrank.search.saved import done_trial, home_of, kept_file, saved_encoder
from archrank.search.trial import Trial
from archrank.supernet import tasks
from archrank.supernet.cut_export import CUT_CONFIG, load_cut
from archrank.supernet.cut_network import CutNetwork
from archrank.supernet.onnx_export import onnx_answers
from archrank.supernet.quiet import quiet_transformers

__all__ = ["FORMS", "encoder_card", "extract_encoder", "reload", "write_encoder"]

FORMS = ("merged", "uniform", "peft", "onnx")


def extract_encoder(run: Run, trial: Trial | int) -> CutNetwork:
    """A trial's cut network with the weights that its values were measured with; ConfigError when they are gone."""
    trial = done_trial(run, trial)
    base, net = saved_encoder(run, "sub-network", shared_weights=trial.stage == "inherited")
    sub = net.extract(run.choices(trial))
    sub.home = home_of(base)
    if trial.stage != "inherited":
        module = sub.unmerged()
        load_named(module, kept_file(weights_of(run.path, trial.id), "sub-network"))
        sub = sub.retrained(module)
    return sub


def write_encoder(sub: CutNetwork, folder: Path, form: str, place: Path) -> None:
    """One of FORMS into `folder`, which will stand at `place`."""
    match form:
        case "merged":
            sub.save_merged(folder)
        case "uniform":
            sub.save_padded(folder)
        case "peft":
            sub.save_pretrained(folder, base_name=str((place / "base").resolve()))
        case "onnx":
            sub.export_onnx(folder / "model.onnx")


def reload(sub: CutNetwork, folder: Path, form: str, task: str, dtype: torch.dtype) -> nn.Module:
    """The folder as a stranger loads it."""
    if form != "peft":
        return _model(folder, task, dtype)
    import peft

    model: nn.Module = peft.PeftModel.from_pretrained(
        _model(folder / "base", task, dtype), folder, autocast_adapter_dtype=False
    )
    return model.eval()


def _model(folder: Path, task: str, dtype: torch.dtype) -> nn.Module:
    import transformers

    if (folder / CUT_CONFIG).exists():
        return load_cut(folder).to(dtype)
    with quiet_transformers():
        model: nn.Module = getattr(transformers, tasks.load(task).auto_class).from_pretrained(folder, dtype=dtype)
    return model.eval()


def answers(folder: Path, inputs: Mapping[str, Tensor]) -> Tensor:
    """Of the ONNX file."""
    return onnx_answers(folder / "model.onnx", [inputs])[0]


def how_to_load(folder: Path, form: str, task: str) -> str:
    """A line of Python."""
    auto, name = tasks.load(task).auto_class, folder.name
    if form == "onnx":
        return f'onnxruntime.InferenceSession("{name}/model.onnx")'
    where = f"{name}/base" if form == "peft" else name
    own = (folder / "base" if form == "peft" else folder) / CUT_CONFIG
    model = f'archrank.supernet.load_cut("{where}")' if own.exists() else f'{auto}.from_pretrained("{where}")'
    return f'peft.PeftModel.from_pretrained({model}, "{name}")' if form == "peft" else model


def encoder_card(run: Run, trial: Trial, sub: CutNetwork, load: str, difference: float) -> str:
    """The README of an export: how to load it, what was measured, what each layer keeps."""
    head = run.header
    values = "".join(f"| {name} | {value:.6g} | {trial.stage} |\n" for name, value in trial.values.items())
    tested = trial.extra.get("test")
    if isinstance(tested, dict):
        values += "".join(f"| test {n} | {v:.6g} | tested once, never selected on |\n" for n, v in tested.items())
    layers = "".join(
        f"| {name} | {len(sub.cuts[name].heads)} | {len(sub.cuts[name].channels)} |\n"
        if name in sub.cuts
        else f"| {name} | dropped | |\n"
        for name in sub.layers
    )
    ranks = ", ".join(f"`{name}` {rank}" for name, rank in sub.ranks.items()) or "none"
    base, data = head["base"], head["data"]
    return (
        f"---\nbase_model: {base['name']}\ntags: [archrank, pruned]\n---\n\n# An encoder cut by archrank\n\n"
        f"```python\nmodel = {load}\n```\n\n| value | | stage |\n|---|---|---|\n{values}\n"
        f"- base: `{base['name']}`, sha256 `{base['sha256']}`\n- data: `{data['name']}`, sha256 `{data['sha256']}`\n"
        f"- space: `{head['space']}`, seed {head['seed']}, trial {trial.id}, archrank {head['versions']['archrank']}\n"
        f"- reloaded and compared: max |Δ logit| {difference:.1e} (fp32)\n- adapters (rank): {ranks}\n\n"
        f"| layer of the base | heads | FFN channels |\n|---|---|---|\n{layers}\nSentence: `{trial.text}`\n"
    )
