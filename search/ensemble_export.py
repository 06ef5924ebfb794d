"""Takes an ensemble home: the folder or ONNX file is written, reloaded as a stranger would, and compared."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from archrank.search.candidates import weights_of
from archrank.search.encoder_run import load_named
from archrank.search.results import Run
from archrank.search.saved import done_trial, home_of, kept_file, saved_encoder
from archrank.search.trial import Trial
from archrank.supernet.ensemble_export import load_ensemble
from archrank.supernet.ensembles import Ensemble, ensemble
from archrank.supernet.onnx_export import onnx_answers

__all__ = ["FORMS", "ensemble_card", "extract_ensemble", "write_ensemble"]

FORMS = ("merged", "onnx")


def extract_ensemble(run: Run, trial: Trial | int) -> Ensemble:
    """A trial's ensemble, adapters beside their layers, with the weights that its values were measured with;
    ConfigError when they are gone.
    """
    trial = done_trial(run, trial)
    base, net = saved_encoder(run, "ensemble", shared_weights=trial.stage == "inherited")
    module = ensemble(net, run.members(trial), merged=False)
    module.home = home_of(base)
    if trial.stage != "inherited":
        load_named(module, kept_file(weights_of(run.path, trial.id), "ensemble"))
    return module.eval()


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
