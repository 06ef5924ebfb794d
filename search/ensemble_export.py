"""Takes an ensemble home: the folder or ONNX file is written, reloaded as a stranger would, and compared."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from archrank import grammar
from archrank.search.base_job import new_parameters
from archrank.search.base_phases import HEAD_FILE
from archrank.search.candidates import weights_of
from archrank.search.config import ConfigError
from archrank.search.encoder_run import IMPORTANCE_FILE, SUPERNET_FILE, load_named
from archrank.search.results import Run
from archrank.search.trial import Trial
from archrank.supernet import tasks
from archrank.supernet.base import load_base
from archrank.supernet.checkpoint import load_tensors
from archrank.supernet.elastic_encoder import elastic_encoder
from archrank.supernet.ensemble_export import load_ensemble
from archrank.supernet.ensembles import Ensemble, ensemble
from archrank.supernet.export import Home
from archrank.supernet.importance import load_order
from archrank.supernet.onnx_export import onnx_answers

__all__ = ["FORMS", "ensemble_card", "extract_ensemble", "write_ensemble"]

FORMS = ("merged", "onnx")


def extract_ensemble(run: Run, trial: Trial | int) -> Ensemble:
    """A trial's ensemble, adapters beside their layers, with the weights that its values were measured with;
    ConfigError when they are gone.
    """
    if isinstance(trial, int):
        trial = run.trial(trial)
    if trial.state != "done":
        raise ConfigError(
            f"trial {trial.id} is {trial.state} ({trial.reason or 'no reason told'}): there is nothing to extract"
        )
    config = run.config
    base = load_base(config.base, config.task, label_names=run.labels, seed=config.seed)
    if base.new_head:
        tensors = load_tensors(_there(run.path / HEAD_FILE))[0]
        for i, p in enumerate(new_parameters(base)):
            p.data.copy_(tensors[f"p{i}"])
    net = elastic_encoder(base.model, grammar.load(str(run.path / "space.lark")), seed=config.seed)
    net.order = load_order(*load_tensors(_there(run.path / IMPORTANCE_FILE)))
    if trial.stage == "inherited":
        load_named(net, _there(run.path / SUPERNET_FILE))
    module = ensemble(net, run.members(trial), merged=False)
    module.home = Home(base.name_or_path, tasks.load(base.task).peft_task, base.new_head, base.processor)
    if trial.stage != "inherited":
        load_named(module, _there(weights_of(run.path, trial.id)))
    return module.eval()


def _there(path: Path) -> Path:
    if not path.exists():
        raise ConfigError(
            f"{path}: is gone; without it the ensemble cannot be extracted. `search resume` the run first if it is "
            "unfinished"
        )
    return path


def write_ensemble(module: Ensemble, folder: Path, form: str, inputs: dict[str, Tensor]) -> tuple[Tensor, str]:
    """Writes one of FORMS: what the reloaded files answer to `inputs`, and a line of Python that loads them."""
    if form == "onnx":
        module.merged().export_onnx(folder / "model.onnx")
        return onnx_answers(folder / "model.onnx", [inputs])[
            0
        ], f'onnxruntime.InferenceSession("{folder.name}/model.onnx")'
    module.save(folder)
    again = load_ensemble(folder)
    with torch.no_grad():
        answer: Tensor = again(**inputs).logits.float()
    return answer, f'archrank.supernet.load_ensemble("{folder.name}")'


def ensemble_card(run: Run, trial: Trial, load: str, difference: float) -> str:
    """The README of an export: how to load it, what was measured, what each member keeps."""
    head, choice = run.header, run.members(trial)
    values = "".join(f"| {name} | {value:.6g} | {trial.stage} |\n" for name, value in trial.values.items())
    tested = trial.extra.get("test")
    if isinstance(tested, dict):
        values += "".join(f"| test {n} | {v:.6g} | tested once, never selected on |\n" for n, v in tested.items())
    rows = "".join(
        f"| {name} | {'all' if i < choice.split else k} | {c.heads or '–'} | {c.ffn or 'dropped'} |\n"
        for k, member in enumerate(choice.members)
        for i, (name, c) in enumerate(member.items())
        if k == 0 or i >= choice.split
    )
    return (
        f"---\nbase_model: {head['base']['name']}\ntags: [archrank, ensemble]\n---\n\n# An ensemble\n\n"
        f"{len(choice.members)} members share the embeddings and the first {choice.split} layers; the answer is the "
        f"mean of their logits.\n\n```python\nmodel = {load}\n```\n\n| value | | stage |\n|---|---|---|\n{values}\n"
        f"- base: `{head['base']['name']}`, sha256 `{head['base']['sha256']}`\n"
        f"- data: `{head['data']['name']}`, sha256 `{head['data']['sha256']}`\n"
        f"- space: `{head['space']}`, seed {head['seed']}, trial {trial.id}, archrank {head['versions']['archrank']}\n"
        f"- reloaded and compared: max |Δ logit| {difference:.1e} (fp32)\n\n"
        f"| layer of the base | member | heads | FFN channels |\n|---|---|---|---|\n{rows}\nSentence: `{trial.text}`\n"
    )
