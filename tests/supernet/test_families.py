"""Hydra and LoRA-XS in the same store: their own formulas, and an export that is plain LoRA, exactly."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn

from archrank import grammar
from archrank.supernet import elastic
from archrank.supernet.adapters.hydra import Hydra
from archrank.supernet.adapters.lora_xs import LoRAXS
from archrank.supernet.first_update import start_from_first_update, weight_gradients
from archrank.supernet.modules import effective_weight
from archrank.supernet.net import Elastic

Make = Callable[[str], nn.Module]
TEXT = """//@ target_modules = "all-linear"
start: site+                                          //@ each = target_modules
site: MODULE ":" adapter
adapter: "none" -> none | "%s" "(" RANK ")" -> %s
RANK: "1" | "2" | "4"
MODULE: /[A-Za-z_][\\w.]*/                             //@ bound
%%ignore /\\s+/
"""


def net_of(model: nn.Module, family: str) -> Elastic:
    net = elastic(model, grammar.loads(TEXT % (family, family)))
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.adapters.parameters():
            p.normal_(0, 0.1, generator=g)
    return net.eval()


@pytest.mark.parametrize("family", ["hydra", "lora_xs"])
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_sub_network_goes_home_as_plain_lora(tiny: Make, tmp_path: Path, kind: str, family: str) -> None:
    net = net_of(tiny(kind), family)
    config = {name: (4, 2, 1, 0)[i % 4] for i, name in enumerate(net.names)}
    ids = torch.randint(3, 60, (3, 9), generator=torch.Generator().manual_seed(5))
    net.select(config)
    with torch.no_grad():
        wanted = net(input_ids=ids).logits
        bare = net.base(input_ids=ids).logits
    net.extract(config).save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(tiny(kind), str(tmp_path)).eval()
    assert (wanted - bare).abs().max() > 1e-3
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, wanted, atol=1e-5, rtol=1e-4)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 4


def test_hydra_is_a_parallel_and_a_sequential_branch() -> None:
    g = torch.Generator().manual_seed(0)
    W, x = torch.randn(12, 8, generator=g), torch.randn(3, 8, generator=g)
    adapter = Hydra(12, 8, 5, scale=0.5, generator=g)
    adapter.bind(W)
    with torch.no_grad():
        adapter.B.normal_(generator=g)
        parallel = x @ adapter.A_p.T @ adapter.B[:, 0::2].T
        sequential = x @ W.T @ adapter.A_s.T @ adapter.B[:, 1::2].T
        torch.testing.assert_close(adapter(x), 0.5 * (parallel + sequential))


def test_lora_xs_starts_from_the_first_update_and_moves_within_its_bases(tiny: Make) -> None:
    """Its start is the truncated SVD of −η sign(G); its gradient is Bᵀ G Aᵀ."""
    net = net_of(tiny("bert"), "lora_xs")
    ids = torch.randint(3, 60, (6, 7), generator=torch.Generator().manual_seed(5))
    batch = {"input_ids": ids, "labels": ids[:, 0] % 3}

    def loss(logits: Tensor, given: Mapping[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(logits, given["labels"])

    bare = net.base.eval()
    target = bare.get_submodule(net.names[0])
    target.weight.requires_grad_()  # type: ignore[union-attr]
    loss(bare(input_ids=ids).logits, batch).backward()
    assert isinstance(target.weight, nn.Parameter)
    slope = target.weight.grad
    target.weight.requires_grad_(False)
    assert slope is not None
    torch.testing.assert_close(weight_gradients(net, [batch], loss)[net.names[0]], slope, atol=1e-6, rtol=1e-4)
    start_from_first_update(net, [batch], loss, lr=0.1)
    adapter = next(iter(net.adapters))
    assert isinstance(adapter, LoRAXS)
    U, S, V = torch.linalg.svd(-0.1 * slope.sign(), full_matrices=False)
    torch.testing.assert_close(adapter.delta_weight(), U[:, :4] * S[:4] @ V[:4], atol=1e-4, rtol=1e-3)
    x, dy = torch.randn(5, 32), torch.randn(5, 32)
    adapter(x).backward(dy)
    assert adapter.C.grad is not None
    torch.testing.assert_close(adapter.C.grad, adapter.B.T @ (dy.T @ x) @ adapter.A.T, atol=1e-4, rtol=1e-4)


def test_a_quantised_layer_tells_its_weight_by_its_forward() -> None:
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.randint(-4, 4, (6, 5), dtype=torch.int8))
            self.register_buffer("bias", torch.randn(6))

        def forward(self, x: Tensor) -> Tensor:
            return x @ (0.1 * self.weight.float()).T + self.bias

    layer = Quantised()
    torch.testing.assert_close(effective_weight(layer, 6, 5), 0.1 * layer.weight.float())


def test_two_families_at_one_site_are_refused(tiny: Make) -> None:
    text = (TEXT % ("lora", "lora")).replace("-> none |", '-> none | "hydra" "(" RANK ")" -> hydra |')
    with pytest.raises(ValueError, match=r"has .*hydra.* at one site: a store holds one family"):
        elastic(tiny("bert"), grammar.loads(text))
