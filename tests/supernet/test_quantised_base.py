"""A quantised base: adapters work through its layers' own forward; what cannot is refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from torch import Tensor, nn

from archrank import grammar
from archrank.supernet import elastic, policies
from archrank.supernet.export import ExportRefused
from archrank.supernet.training import TrainPlan, train

Make = Callable[[str], nn.Module]


class Int8Linear(nn.Linear):
    """Weights as int8 with one scale, as quantisation libraries keep them behind nn.Linear's name."""

    def __init__(self, of: nn.Linear) -> None:
        super().__init__(of.in_features, of.out_features)
        self.register_buffer("scale", of.weight.detach().abs().max() / 127)
        whole = (of.weight.detach() / self.scale).round().to(torch.int8)
        self.weight = nn.Parameter(whole, requires_grad=False)
        self.bias = of.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.float() * self.scale, self.bias)


def quantised(model: nn.Module) -> nn.Module:
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and ".layer." in name:
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, Int8Linear(module))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.eval()


def batches(step: int) -> tuple[Mapping[str, Tensor], np.ndarray]:  # type: ignore[type-arg]
    ids = torch.randint(3, 60, (8, 7), generator=torch.Generator().manual_seed(step))
    return {"input_ids": ids, "labels": ids[:, 0] % 3}, step * 8 + np.arange(8)


def loss(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(logits, batch["labels"])


@pytest.mark.parametrize("family", ["lora", "hydra", "lora_xs"])
def test_training_evaluation_and_export_run_beside_it(tiny: Make, tmp_path: Path, family: str) -> None:
    text = (
        '//@ target_modules = "all-linear"\nstart: site+  //@ each = target_modules\nsite: MODULE ":" adapter\n'
        f'adapter: "none" -> none | "{family}" "(" RANK ")" -> {family}\nRANK: "1" | "2" | "4"\n'
        "MODULE: /[A-Za-z_][\\w.]*/  //@ bound\n%ignore /\\s+/\n"
    )
    base = quantised(tiny("bert"))
    before = copy.deepcopy(base.state_dict())
    net = elastic(base, grammar.loads(text))
    policy = policies.load("mixed")(net.shapes, net.r_max, seed=1)
    train(net, batches, loss, TrainPlan(6, 1e-2, seed=1), policy=policy)
    configs = [{n: (4, 2, 1, 0)[(i + k) % 4] for i, n in enumerate(net.names)} for k in range(3)]
    data = [batches(90)[0]]
    torch.testing.assert_close(net.evaluate(configs, data), net.evaluate(configs, data, method="loop"))
    net.select(configs[0])
    with torch.no_grad():
        wanted = net(input_ids=data[0]["input_ids"]).logits  # type: ignore[attr-defined]
    sub = net.extract(configs[0])
    sub.save_pretrained(tmp_path)
    assert all(torch.equal(v, before[k]) for k, v in base.state_dict().items())
    again = peft.PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=data[0]["input_ids"]).logits, wanted, atol=1e-5, rtol=1e-4)
    with pytest.raises(ExportRefused, match="is a Int8Linear, whose weight is quantised: W \\+ B A would have to be"):
        sub.save_merged(tmp_path / "m")
