"""A search over an encoder's layers from end to end: phases, prices, exports, interruptions, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
import transformers
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import archrank as ar
from archrank import predictors
from archrank.search.config import ConfigError, RunConfig
from archrank.search.encoder_job import prepare_encoders
from archrank.search.encoder_run import EncoderPhases
from archrank.search.errors import ExportError, NothingFeasible
from archrank.search.export import take_home
from archrank.search.interrupt import Interrupted
from archrank.search.results import Run, default_form, open_run
from archrank.search.run import resume, start
from archrank.supernet import CutNetwork, load_cut
from archrank.supernet.encoders import EncoderError
from archrank.supernet.tracing import trace

FLAGS: dict[str, object] = {
    "hw": ("a100",), "trials": 6, "train_steps": 10, "batch_size": 8, "finalists": 2, "seed": 1, "strategy": "random",
    "eval_rows": 64,
}  # fmt: skip


def config(out: Path, **others: object) -> RunConfig:
    return RunConfig(space="elastic_encoder", out=str(out), **{**FLAGS, **others})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return start(config(tmp_path_factory.mktemp("run") / "r"))


def values(run: Run) -> list[tuple[object, ...]]:
    return [(t.id, t.text, t.stage, t.state, dict(t.values), t.extra.get("test")) for t in run.trials]


def images() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))}


def taken(run: Run, stage: str) -> Iterator[tuple[int, CutNetwork]]:
    for t in run.trials:
        if t.stage == stage:
            sub = run.extract(t)
            assert isinstance(sub, CutNetwork)
            yield t.id, sub


def test_one_command_trains_searches_and_finishes(finished: Run) -> None:
    assert [t.stage for t in finished.trials] == ["inherited"] * 6 + ["final"] * 2
    assert (finished.finished, finished.kind, default_form(finished)) == (True, "encoders", "merged")
    assert [o.name for o in finished.objectives] == ["loss", "latency_ms"]
    for t in finished.trials:
        assert {"loss", "accuracy", "params", "adapter_params", "flops", "latency_ms", "memory_bytes"} == set(t.values)
    for t in finished.trials[-2:]:
        assert set(t.extra["test"]) == {"loss", "accuracy"}  # type: ignore[arg-type]
    assert " of them fine-tuned (configurations seen: 6 inherited, 2 final)" in finished.verdict
    assert "layers" in finished.table(finished.front())
    assert (finished.path / "report.html").stat().st_size > 1e6
    assert {p.name for p in finished.path.glob("*.safetensors")} == {
        f"{name}.safetensors" for name in ("importance", "supernet", "whole")
    }


def test_the_search_begins_with_equal_layers_for_half_of_its_trials(finished: Run) -> None:
    told = [set(finished.space.layer_choices(finished.space.parse(t.text)).values()) for t in finished.trials[:6]]
    equal = [{c for c in choices if c.kept} for choices in told]
    assert [len(choices) for choices in equal[:3]] == [1, 1, 1]
    assert any(len(choices) > 1 for choices in told[3:6])


def test_a_repeated_run_gives_the_same_values(finished: Run, tmp_path: Path) -> None:
    again = ar.run(finished.path / "space.lark", out=tmp_path / "r", **FLAGS)
    assert values(again) == values(finished)


@pytest.mark.parametrize("deploy", ["merged", "unmerged"])
def test_prices_are_those_of_the_cut_model(tmp_path: Path, deploy: str) -> None:
    job = prepare_encoders(config(tmp_path / "r", deploy=deploy))
    device = predictors.load("a100")
    job.net.measure(job.importance_batches())
    for d in job.space.sample(np.random.default_rng(3), n=6):
        cost, sub = job.pricer.price(job.choices(d)), job.net.extract(job.choices(d))
        model = sub.module if deploy == "merged" else sub.unmerged()
        assert cost["params"] == sum(p.numel() for p in model.parameters())
        assert cost["adapter_params"] == sub.adapter_params
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(pixel_values=images()["pixel_values"][:1])
        assert cost["flops"] == counter.get_total_flops()
        if deploy == "merged":
            told = device.predict([trace(model)], dtype="bf16")
            assert cost["latency_ms"] == pytest.approx(float(told.ms[0]), rel=0.02)


@pytest.mark.parametrize("form", ["merged", "uniform", "peft", "onnx"])
def test_every_candidate_goes_home(finished: Run, tmp_path: Path, form: str) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    for stage in ("final",) if form == "onnx" else ("final", "inherited"):
        number, sub = next(pair for pair in taken(finished, stage) if pair[1].factors)
        out = tmp_path / stage
        told = take_home(finished, pick=str(number), where=(), form=form, out=str(out))
        assert told.max_abs_diff <= 1e-4
        assert told.load in (out / "README.md").read_text()
        truth = sub.logits(images())
        if form == "uniform":
            model = transformers.ViTForImageClassification.from_pretrained(out)
            torch.testing.assert_close(model(**images()).logits.detach(), truth, atol=1e-4, rtol=0)
        if form == "peft":
            ordinary = (out / "base/config.json").is_file()  # equal layers are a transformers folder
            load = transformers.AutoModelForImageClassification.from_pretrained if ordinary else load_cut
            adapted = peft.PeftModel.from_pretrained(load(out / "base"), str(out)).eval()
            torch.testing.assert_close(adapted(**images()).logits.detach(), truth, atol=1e-4, rtol=0)
            assert f'"base_model_name_or_path": "{out / "base"}"' in (out / "adapter_config.json").read_text()


def test_a_finalist_has_the_accuracy_that_its_trial_says(finished: Run) -> None:
    from archrank.supernet.data import prepare, read_dataset

    number, sub = next(taken(finished, "final"))
    job = prepare_encoders(config(finished.path))
    data = prepare(read_dataset(None), job.base)
    rows = data.batch("validation", range(data.size("validation")))
    right = float((sub.logits({"pixel_values": rows["pixel_values"]}).argmax(-1) == rows["labels"]).float().mean())
    assert right == pytest.approx(finished.trial(number).values["accuracy"])


@pytest.mark.parametrize(
    ("where", "tune"),
    [("whole", "adapters"), ("supernet", "adapters"), ("search", "adapters"), ("final", "adapters"), ("final", "all")],
)
def test_an_interrupted_run_goes_on_to_the_same_values(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, tune: str
) -> None:
    others = {"tune": tune, "trials": 3, "finalists": 1} if tune == "all" else {}
    straight = start(config(tmp_path / "s", **others)) if others else finished
    pause, count = EncoderPhases._pause, [0]
    wanted = {"whole": 1, "supernet": 2, "search": 4, "final": 5 + 3 * (not others)}[where]

    def stop(self: EncoderPhases) -> None:
        pause(self)
        count[0] += 1
        if count[0] == wanted:
            raise Interrupted(75, "stopped by SIGTERM")

    with monkeypatch.context() as patch:
        patch.setattr(EncoderPhases, "_pause", stop)
        with pytest.raises(Interrupted, match="go on with: search resume"):
            start(config(tmp_path / "r", **others))
    assert values(resume(tmp_path / "r")) == values(straight)


def test_all_weights_train_and_go_home(tmp_path: Path) -> None:
    run = start(config(tmp_path / "r", tune="all", trials=3, finalists=1))
    ((number, sub),) = taken(run, "final")
    base = prepare_encoders(config(tmp_path / "r")).base.model
    assert not torch.equal(sub.base.classifier.weight, base.classifier.weight)  # type: ignore[arg-type,union-attr]
    assert take_home(run, pick=str(number), where=(), form="merged", out=str(tmp_path / "o")).max_abs_diff <= 1e-4


def test_candidates_beyond_a_constraint_are_infeasible(finished: Run, tmp_path: Path) -> None:
    flops = sorted(t.values["flops"] for t in finished.trials if t.stage == "inherited")
    run = start(config(tmp_path / "r", where=(f"flops <= {flops[2]:.0f}",), finalists=0))
    states = {t.state: t for t in run.trials}
    assert set(states) == {"done", "infeasible"}
    assert "loss" not in states["infeasible"].values
    assert str(states["infeasible"].reason).startswith("does not meet flops <= ")
    assert all(t.values["flops"] <= flops[2] for t in run.front())
    bounded = prepare_encoders(config(tmp_path / "q", where=("adapter_params <= 500",)))
    for d in bounded.space.sample(np.random.default_rng(0), n=5):
        assert bounded.pricer.price(bounded.choices(d))["adapter_params"] <= 500


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"target_modules": "q"}, r"--target-modules q: elastic_encoder cuts and adapts all layers of the base"),
        ({"deploy": "vllm"}, r"--deploy vllm: elastic_encoder cuts encoders, which vLLM does not serve with adapters"),
        ({"evaluate": "train"}, r"--evaluate train: an encoder's candidates start from the pretrained weights"),
        ({"accumulate": 2}, r"--accumulate: sandwich training of elastic_encoder has no such mode"),
        ({"gradient_checkpointing": True}, r"--gradient-checkpointing: sandwich training"),
        ({"objective": ("flops", "loss")}, r"--objective flops: the first objective is the quality: loss or accuracy"),
        ({"hw": (), "objective": ("loss", "latency_ms")}, r"latency_ms needs a device: add --hw"),
        ({"task": "causal-lm"}, r"--task causal-lm: elastic_encoder cuts encoders that classify"),
        ({"tune": "heads"}, r"--tune heads: must be one of adapters, all"),
    ],
)
def test_flags_that_such_a_run_cannot_follow(flags: dict[str, object], told: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        prepare_encoders(config(tmp_path / "r", **flags))


def test_nothing_feasible_is_said_before_training(tmp_path: Path) -> None:
    with pytest.raises(NothingFeasible, match=r"flops <= 100 cannot hold: with every layer dropped flops is still"):
        start(config(tmp_path / "r", where=("flops <= 100",)))
    assert not (tmp_path / "r").exists()


def test_a_base_without_heads_and_ffn_is_refused_before_a_weight_is_read(tmp_path: Path) -> None:
    model = transformers.LlamaConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=3, num_key_value_heads=1, intermediate_size=40,
        architectures=["LlamaForSequenceClassification"],
    )  # fmt: skip
    model.save_pretrained(tmp_path / "llama")  # a configuration alone, no weights
    with pytest.raises(EncoderError, match=r"is no layer of a BERT- or ViT-like encoder: .* it has self_attn.q_proj"):
        start(config(tmp_path / "r", base=str(tmp_path / "llama"), data="digits"))
    assert not (tmp_path / "r").exists()


def test_a_form_of_another_kind_and_a_lost_file_are_told(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"--as torch: .* searched cut encoders; take one home as merged or uniform"):
        take_home(finished, pick="knee", where=(), form="torch", out=str(tmp_path / "x"))
    from archrank.search import export

    monkeypatch.setattr(export, "EXACT", -1.0)
    with pytest.raises(ExportError, match=r"the merged folder, reloaded in fp32, differs from the supernet by"):
        take_home(finished, pick="knee", where=(), form="merged", out=str(tmp_path / "x"))
    assert list(tmp_path.iterdir()) == []
    run = open_run(finished.path)
    file = finished.path / "importance.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda self, own=Path.exists: self != file and own(self))
        with pytest.raises(ConfigError, match=r"importance\.safetensors: is gone; without it the sub-network cannot"):
            run.extract(0)
