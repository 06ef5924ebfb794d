"""Takes a network home: a torch.export program and its weights, or ONNX; reloaded without archrank, and compared."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from archrank.grammar.heads import with_head
from archrank.search.architecture_run import network_of
from archrank.search.config import ConfigError
from archrank.search.results import Run
from archrank.search.saved import done_trial, kept_file
from archrank.search.trial import Trial
from archrank.supernet.bank import Bank
from archrank.supernet.checkpoint import load_tensors, save_tensors
from archrank.supernet.networks import Network, build
from archrank.supernet.onnx_export import compare, export_program, write_onnx

__all__ = ["FORMS", "TakenNetwork", "extract_network", "write_network"]

FORMS = ("torch", "onnx")
ROWS = (1, 3)


@dataclass(frozen=True)
class TakenNetwork:
    """A network of a run with weights. `module` maps (batch, *input) to (batch, classes)."""

    module: Network
    sentence: str
    labels: tuple[str, ...]

    @property
    def input(self) -> tuple[int, ...]:
        """The input's shape without the batch."""
        return self.module.architecture.input

    def save_torch(self, folder: str | Path) -> None:
        """`model.pt2`, a torch.export program for any batch, which stock torch loads; `model.safetensors`, the weights;
        `network.json`, the sentence, input and classes. ExportError names the op that torch.export cannot trace.
        """
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        torch.export.save(self._program(), place / "model.pt2")
        save_tensors(place / "model.safetensors", dict(self.module.state_dict()), {"text": self.sentence})
        told = {"sentence": self.sentence, "input": list(self.input), "labels": list(self.labels)}
        (place / "network.json").write_text(json.dumps(told, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    def export_onnx(self, path: str | Path) -> float:
        """An ONNX file for any batch, input `x`, output `logits`: max |Δ logit| in onnxruntime. Errors: those of
        `onnx_export.write_onnx`.
        """
        probes = [{"x": self.probe(rows)} for rows in (2, *ROWS)]
        return write_onnx(self.module.eval(), Path(path), probes, {"x": (0,)}, self._named)

    def _program(self) -> torch.export.ExportedProgram:
        return export_program(self.module.eval(), {"x": self.probe(2)}, {"x": (0,)}, self._named)

    def _named(self, path: str) -> str:
        """The sentence's op that a module of the network is of."""
        place = path.split(".")
        return self.module.architecture.ops[int(place[1])].op if place[0] == "ops" and len(place) > 1 else path

    def probe(self, rows: int) -> Tensor:
        """Inputs that are the same each time: (rows, *input) from N(0, 1)."""
        return torch.randn(rows, *self.input, generator=torch.Generator().manual_seed(0))


def extract_network(run: Run, trial: Trial | int) -> TakenNetwork:
    """A trial's network; ConfigError where it failed or its weights are gone."""
    trial = done_trial(run, trial)
    architecture = with_head(run.space.elaborate(run.space.parse(trial.text)), len(run.labels))
    if trial.stage == "final":
        network = build(architecture, run.config.seed)
        network.load_state_dict(_read(network_of(run.path, trial.id))[0])
    elif run.config.evaluate == "train":
        raise ConfigError(
            f"trial {trial.id} was trained from scratch and its weights were not kept: pick a finalist "
            "(`search front` says stage final)"
        )
    else:
        tensors, meta = _read(run.path / "supernet.safetensors")
        bank, names = Bank(run.space), meta.get("order", [])
        assert isinstance(names, list)
        bank.load_state_dict(tensors, [str(name) for name in names])
        network = bank.build(architecture, seed=run.config.seed)
    return TakenNetwork(network.eval(), trial.text, tuple(run.labels))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    return load_tensors(kept_file(path, "network"))


def write_network(taken: TakenNetwork, folder: Path, form: str) -> float:
    """Writes a folder, reloads it without archrank, and compares: max |Δ logit|. ExportDiffers above 1e-4 of the
    largest logit.
    """
    if form == "onnx":
        return taken.export_onnx(folder / "model.onnx")
    taken.save_torch(folder)
    reloaded: nn.Module = torch.export.load(folder / "model.pt2").module()
    probes = [taken.probe(rows) for rows in ROWS]
    with torch.no_grad():
        return compare([reloaded(x) for x in probes], [taken.module(x) for x in probes], form)


def network_card(run: Run, trial: Trial, taken: TakenNetwork, form: str, difference: float) -> str:
    """The README beside an exported network: what it is, what was measured, how to load it."""
    rows = [f"| {name} | {value:.6g} | {trial.stage} |" for name, value in trial.values.items()]
    tested = trial.extra.get("test")
    if isinstance(tested, dict):
        rows += [f"| test {name} | {value:.6g} | tested once, never selected on |" for name, value in tested.items()]
    shape = ", ".join(map(str, taken.input))
    load = (
        f'model = torch.export.load("model.pt2").module()  # torch {torch.__version__}; x: (batch, {shape}) -> logits'
        if form == "torch"
        else f'onnxruntime.InferenceSession("model.onnx").run(None, {{"x": x}})  # x: (batch, {shape}) float32'
    )
    head = run.header
    data, space = head["data"], head["space"]
    return (
        f"# A network found by archrank\n\n```python\n{load}\n```\n\n| value | | stage |\n|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\n- data: `{data['name']}`, sha256 `{data['sha256']}`; classes: {', '.join(taken.labels)}\n"
        f"- space: `{space}`, seed {head['seed']}, trial {trial.id}, archrank {head['versions']['archrank']}\n"
        f"- reloaded and compared: max |Δ logit| {difference:.1e}\n\nSentence: `{taken.sentence}`\n"
    )
