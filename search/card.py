"""The README that stands beside an exported model: where it comes from and what was measured, in the hub's model-card
format.
"""

from __future__ import annotations

from pathlib import Path

from archrank.search.results import Run
from archrank.search.trial import Trial
from archrank.supernet.subnetwork import SubNetwork

__all__ = ["model_card"]


def model_card(run: Run, trial: Trial, sub: SubNetwork, form: str, folder: Path, difference: float) -> str:
    """Base and data with their hashes, the sentence, ranks, values with their stage, the command."""
    header = run.contents.header
    base, data = header["base"], header["data"]
    ranks = "".join(f"| `{name}` | {rank} |\n" for name, rank in sub.ranks.items()) or "| (no module) | |\n"
    values = "".join(f"| {name} | {value:.6g} | {trial.stage} |\n" for name, value in trial.values.items())
    tested = trial.extra.get("test")
    if isinstance(tested, dict):
        values += "".join(
            f"| test {name} | {value:.6g} | tested once, never selected on |\n" for name, value in tested.items()
        )
    library = {"merged": "transformers", "onnx": "onnxruntime"}.get(form, "peft")
    return f"""---
base_model: {base["name"]}
library_name: {library}
tags: [archrank, lora, rank-search]
---

# {"Adapter" if library == "peft" else "Model"} found by archrank

{_INTRO[form]} It adapts {len(sub.ranks)} modules with {sub.adapter_params:,} parameters.

| value | | stage |
|---|---|---|
{values}
- base: `{base["name"]}`, sha256 `{base["sha256"]}`
- data: `{data["name"]}`, sha256 `{data["sha256"]}`
- space: `{header["space"]}`, seed {header["seed"]}, trial {trial.id}, archrank {header["versions"]["archrank"]}
- reloaded with stock {library}: max |Δ logit| {difference:.1e} against the supernet (fp32)

Sentence: `{trial.text}`

| module | rank |
|---|---|
{ranks}
Made by: `search extract {run.path} --pick {trial.id} --as {form} --out {folder}`
"""


_INTRO = {
    "peft": (
        "A LoRA adapter with a rank for each module (PEFT ≥ 0.15 for its "
        "anchored rank_pattern); alpha / r is 1 everywhere."
    ),
    "uniform": "A LoRA adapter padded with zeros to one rank, for consumers that know one rank only.",
    "merged": "The base with the adapter merged into its weights.",
    "onnx": "The base with the adapter merged into its weights, as ONNX: any batch size, output `logits`.",
}
