"""Takes a candidate home: writes the folder, reloads it with stock PEFT or transformers, compares, and only then says
that it is there.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from archrank.search import architecture_export, encoder_export, ensemble_export
from archrank.search.candidates import weights_of
from archrank.search.card import model_card
from archrank.search.config import ConfigError
from archrank.search.errors import ExportError
from archrank.search.results import Run
from archrank.search.saved import done_trial, home_of, kept_file, saved_base
from archrank.search.supernet_training import SUPERNET_FILE
from archrank.search.trial import Trial
from archrank.supernet import tasks
from archrank.supernet.adapters.lora import LoRA
from archrank.supernet.checkpoint import load_adapters, load_tensors
from archrank.supernet.net import Elastic, elastic
from archrank.supernet.onnx_export import compare, onnx_answers
from archrank.supernet.quiet import quiet_transformers
from archrank.supernet.subnetwork import SubNetwork

__all__ = ["Taken", "extract", "take_home", "verify"]

FORMS = {
    "adapters": ("adapters", ("peft", "merged", "uniform", "onnx")),
    "architectures": ("networks", architecture_export.FORMS),
    "encoders": ("cut encoders", encoder_export.FORMS),
    "ensembles": ("ensembles", ensemble_export.FORMS),
}
EXACT = 1e-5  # of the largest logit: fp32 round-off of another order of additions
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
COARSE = {"fp16": 0.01, "bf16": 0.08}  # of the largest logit: what rounding every activation to 11 or 8 bits may cost


@dataclass(frozen=True)
class Taken:
    """A folder that answered as the supernet does."""

    path: Path
    form: str
    trial: Trial
    max_abs_diff: float
    serving_dtype: str
    serving_diff: float
    load: str = ""

    def to_json(self) -> dict[str, object]:
        """The document of `search extract --json`."""
        return {
            "path": str(self.path),
            "as": self.form,
            "trial": self.trial.to_json(),
            "max_abs_diff": self.max_abs_diff,
            "serving": {"dtype": self.serving_dtype, "max_abs_diff": self.serving_diff},
        }

    def describe(self) -> str:
        """The same for people."""
        values = ", ".join(f"{k} {v:.4g}" if abs(v) < 1e4 else f"{k} {v:,.0f}" for k, v in self.trial.values.items())
        told = f"{self.path}: trial {self.trial.id} ({self.trial.stage}) as {self.form}\n{values}\n"
        if self.load:
            return (
                f"{told}reloaded with {self.load}: max |Δ logit| {self.max_abs_diff:.1e} in fp32, "
                f"{self.serving_diff:.1e} in {self.serving_dtype}"
            )
        if self.form in architecture_export.FORMS:
            how = "torch" if self.form == "torch" else "onnxruntime"
            return f"{told}reloaded with stock {how}: max |Δ logit| {self.max_abs_diff:.1e}"
        how = "transformers" if self.form == "merged" else "PEFT"
        return (
            f"{told}reloaded with stock {how}: max |Δ logit| {self.max_abs_diff:.1e} in fp32, "
            f"{self.serving_diff:.1e} in {self.serving_dtype}"
        )


def extract(run: Run, trial: Trial | int) -> SubNetwork:
    """A trial's sub-network with the weights that its values were measured with; ConfigError when they are gone."""
    trial = done_trial(run, trial)
    base = saved_base(run, "sub-network")
    net, ranks = elastic(base.model, run.space, seed=run.config.seed), run.ranks(trial)
    own = weights_of(run.path, trial.id)
    if own.exists() or trial.stage != "inherited":
        small = net.sliced(ranks)
        load_adapters(small.items(), load_tensors(kept_file(own, "sub-network"))[0])
    else:
        load_adapters(net.items(), load_tensors(kept_file(run.path / SUPERNET_FILE, "sub-network"))[0])
        small = net.sliced(ranks)
    factors = {name: adapter.lora_factors() for name, adapter in small.items()}
    return SubNetwork(base.model, factors, home_of(base))


def take_home(run: Run, *, pick: str, where: Sequence[str], form: str, out: str) -> Taken:
    """Exports one point of the front to the folder `out`; ExportError (and no folder) when the reloaded model answers
    otherwise.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--out {folder}: exists and is not an empty folder; nothing was written")
    trial = run.pick(pick, where)
    if run.kind not in FORMS:
        raise ConfigError(f"{run.path}: a run of archrank.optimize has no weights; take the trial's sentence")
    what, right = FORMS[run.kind]
    if form not in right:
        raise ConfigError(f"--as {form}: {run.path} searched {what}; take one home as {' or '.join(right)}")
    if run.is_architecture_run:
        return _take_network(run, trial, form, folder)
    if run.kind == "encoders":
        return _take_encoder(run, trial, form, folder)
    if run.kind == "ensembles":
        return _take_ensemble(run, trial, form, folder)
    sub = extract(run, trial)
    with arriving(folder) as fresh:
        match form:
            case "peft":
                sub.save_pretrained(fresh)
            case "uniform":
                sub.save_uniform(fresh)
            case "merged":
                sub.save_merged(fresh)
            case "onnx":
                sub.export_onnx(fresh / "model.onnx")
        exact, serving = verify(
            sub, fresh, form, run.config.task or "", run.config.serve_dtype or "fp32", len(run.labels)
        )
        (fresh / "README.md").write_text(model_card(run, trial, sub, form, folder, exact))
    dtype = "fp32" if form == "onnx" else run.config.serve_dtype or "fp32"
    return Taken(folder, form, trial, exact, dtype, serving)


@contextmanager
def arriving(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to write in, which takes its place when all went well and is gone otherwise."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield fresh
        if folder.exists():
            folder.rmdir()
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _take_encoder(run: Run, trial: Trial, form: str, folder: Path) -> Taken:
    sub = encoder_export.extract_encoder(run, trial)
    inputs, task, dtype = probe(sub.base), run.config.task or "", run.config.serve_dtype or "fp32"
    with torch.no_grad():
        truth = sub.unmerged().eval()(**inputs).logits.float()
    with arriving(folder) as fresh:
        encoder_export.write_encoder(sub, fresh, form, folder)
        if form == "onnx":
            exact = serving = float((encoder_export.answers(fresh, inputs) - truth).abs().max())
            dtype = "fp32"
        else:
            exact, serving = compared(
                truth, inputs, lambda d: encoder_export.reload(sub, fresh, form, task, d), form, dtype
            )
        load = encoder_export.how_to_load(fresh, form, task).replace(f'"{fresh.name}', f'"{folder.name}')
        card = encoder_export.encoder_card(run, trial, sub, load, exact)
        (fresh / "README.md").write_text(card, encoding="utf-8")
    return Taken(folder, form, trial, exact, dtype, serving, load)


def _take_ensemble(run: Run, trial: Trial, form: str, folder: Path) -> Taken:
    module = ensemble_export.extract_ensemble(run, trial)
    inputs = probe(module)
    with torch.no_grad():
        truth = module(**inputs).logits.float()
    with arriving(folder) as fresh:
        answer, load = ensemble_export.write_ensemble(module, fresh, form, inputs)
        difference, allowed = float((answer - truth).abs().max()), EXACT * max(1.0, float(truth.abs().max()))
        if not difference <= allowed:
            raise ExportError(
                f"the {form} files answer otherwise than the ensemble by {difference:.2e} (allowed {allowed:.2e}); "
                "nothing was kept"
            )
        load = load.replace(f'"{fresh.name}', f'"{folder.name}')
        card = ensemble_export.ensemble_card(run, trial, load, difference)
        (fresh / "README.md").write_text(card, encoding="utf-8")
    return Taken(folder, form, trial, difference, "fp32", difference, load)


def _take_network(run: Run, trial: Trial, form: str, folder: Path) -> Taken:
    taken = architecture_export.extract_network(run, trial)
    with arriving(folder) as fresh:
        difference = architecture_export.write_network(taken, fresh, form)
        card = architecture_export.network_card(run, trial, taken, form, difference)
        (fresh / "README.md").write_text(card, encoding="utf-8")
    return Taken(folder, form, trial, difference, "fp32", difference)


def verify(sub: SubNetwork, folder: Path, form: str, task: str, serve_dtype: str, labels: int) -> tuple[float, float]:
    """Max |Δ logit| of the reloaded folder against the supernet's forward, in fp32 and in the serving dtype.

    Raises ExportError above 1e-5 (fp32), 1 % (fp16) or 8 % (bf16) of the largest logit; an ONNX file is of fp32 alone.
    """
    inputs = probe(sub.base)
    net = Elastic(sub.base, {name: _adapter(A, B) for name, (A, B) in sub.factors.items()})
    with torch.no_grad():
        truth = net.eval()(**inputs).logits.float()
    if form == "onnx":
        difference = compare(onnx_answers(folder / "model.onnx", [inputs]), [truth], form)
        return difference, difference
    return compared(truth, inputs, lambda dtype: reload(sub, folder, form, task, dtype, labels), form, serve_dtype)


def compared(
    truth: Tensor,
    inputs: Mapping[str, Tensor],
    load: Callable[[torch.dtype], nn.Module],
    form: str,
    serve_dtype: str,
) -> tuple[float, float]:
    """Max |Δ logit| of what `load` gives, in fp32 and in the serving dtype; ExportError as `verify`."""
    largest = max(1.0, float(truth.abs().max()))
    served = serve_dtype if serve_dtype in DTYPES else "fp32"
    found = {}
    for dtype in dict.fromkeys(["fp32", served]):
        model = load(DTYPES[dtype])
        cast = {k: v.to(DTYPES[dtype]) if v.is_floating_point() else v for k, v in inputs.items()}
        with torch.no_grad():
            found[dtype] = float((model(**cast).logits.float() - truth).abs().max())
        allowed = COARSE.get(dtype, EXACT) * largest
        if not found[dtype] <= allowed:
            raise ExportError(
                f"the {form} folder, reloaded in {dtype}, differs from the supernet by "
                f"{found[dtype]:.2e} (allowed {allowed:.2e}); nothing was kept"
            )
    return found["fp32"], found[served]


def _adapter(A: Tensor, B: Tensor) -> LoRA:
    adapter = LoRA(len(B), A.shape[1], len(A))
    with torch.no_grad():
        adapter.A.copy_(A)
        adapter.B.copy_(B)
    return adapter


def probe(model: nn.Module) -> dict[str, Tensor]:
    """Inputs that any model of a kind accepts, the same each time: 4 random images, or 4 rows of 12 random tokens."""
    generator = torch.Generator().manual_seed(0)
    config: Any = model.config
    if getattr(config, "image_size", None):
        side = config.image_size if isinstance(config.image_size, (list, tuple)) else (config.image_size,) * 2
        return {"pixel_values": torch.randn(4, config.num_channels, *side, generator=generator)}
    ids = torch.randint(0, int(config.get_text_config().vocab_size), (4, 12), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def reload(sub: SubNetwork, folder: Path, form: str, task: str, dtype: torch.dtype, labels: int) -> nn.Module:
    """The folder as a stranger loads it."""
    import transformers

    cls = getattr(transformers, tasks.load(task).auto_class)
    if form == "merged":
        with quiet_transformers():
            merged: nn.Module = cls.from_pretrained(folder, dtype=dtype).eval()
        return merged
    import peft

    extra: Mapping[str, object] = {"num_labels": labels, "ignore_mismatched_sizes": True} if sub.home.new_head else {}
    with quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fresh head is announced, then replaced by modules_to_save
        base = cls.from_pretrained(sub.home.base_name, dtype=dtype, **extra)
        model: nn.Module = peft.PeftModel.from_pretrained(base, folder, autocast_adapter_dtype=False).eval()
    return model
