"""Zero-cost proxies: one interface, closed forms, a module that is left alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from archrank import spaces, supernet
from archrank.supernet import proxies
from archrank.supernet.proxies import ProxyError

RNG = torch.Generator().manual_seed(0)
X, LABELS = torch.randn(6, 3, 8, 8, generator=RNG), torch.tensor([0, 1, 2, 0, 1, 2])


class Small(nn.Module):
    """A convolution, normalisation, an activation, a linear layer."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.conv, self.norm, self.head = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


@pytest.mark.parametrize("name", proxies.available())
def test_every_proxy_is_a_number_and_leaves_the_module_alone(name: str) -> None:
    module = Small().eval()
    module.head.weight.grad = torch.ones_like(module.head.weight)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    first = proxies.load(name)(module, {"x": X, "labels": LABELS})
    assert isinstance(first, float)
    assert math.isfinite(first)
    assert proxies.load(name)(module, {"x": X, "labels": LABELS}) == pytest.approx(first, rel=1e-6)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert not any(m.training for m in module.modules())
    assert torch.equal(module.head.weight.grad, torch.ones_like(module.head.weight))
    assert proxies.summary(name)


def test_sizes_are_counted() -> None:
    small, large = (proxies.scores(Small(w), {"x": X, "labels": LABELS}, ["params", "flops"]) for w in (4, 8))
    assert small["params"] == 3 * 4 * 9 + 4 + 8 + 4 * 3 + 3
    assert small["flops"] == 2 * (36 * 27 * 4 + 4 * 3)
    assert large["params"] > small["params"]


def test_gradient_norm_of_a_softmax_regression() -> None:
    linear = nn.Linear(5, 3)
    x = torch.randn(6, 5, generator=RNG)
    off = (torch.softmax(linear(x), 1).detach() - torch.eye(3)[LABELS]) / 6  # ∂L/∂logits
    exact = math.sqrt(float((off.T @ x).square().sum() + off.sum(0).square().sum()))
    assert proxies.load("grad_norm")(linear, {"input": x, "labels": LABELS}) == pytest.approx(exact, rel=1e-5)


def test_synflow_of_linear_layers_is_their_number_times_the_flow() -> None:
    net = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 6, bias=False), nn.Linear(6, 2, bias=False))
    flow = torch.ones(1, 4)
    for layer in net:
        assert isinstance(layer, nn.Linear)
        flow = flow @ layer.weight.detach().abs().T
    told = proxies.load("synflow")(net, {"input": torch.randn(3, 4)})
    assert math.expm1(told) == pytest.approx(3 * float(flow.sum()), rel=1e-5)


def test_naswot_counts_units_that_agree() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(x)

    x = torch.tensor([[1.0, -1.0, 1.0, 1.0], [1.0, 1.0, -1.0, 1.0]])  # K = [[4, 2], [2, 4]]
    assert proxies.load("naswot")(Two(), {"x": x}) == pytest.approx(math.log(12), abs=1e-6)


def test_fisher_of_a_linear_layer_is_that_of_its_outputs() -> None:
    linear = nn.Linear(5, 3)
    x = torch.randn(6, 5, generator=RNG)
    logits = linear(x).detach()
    each = logits * (torch.softmax(logits, 1) - torch.eye(3)[LABELS])  # a ∂L_row/∂a
    exact = float(each.square().sum()) / (2 * 6)
    assert proxies.load("fisher")(linear, {"input": x, "labels": LABELS}) == pytest.approx(exact, rel=1e-4)


def test_fisher_of_an_elastic_net_is_at_its_rank_gates() -> None:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    base = ViTForImageClassification(
        ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            image_size=8, patch_size=4, num_labels=3,
        )
    )  # fmt: skip
    net = supernet.elastic(base, "lora_ranks", r_max=4)
    batch = {"pixel_values": X, "labels": LABELS}
    assert proxies.load("fisher")(net, batch) == 0.0  # B is zero
    with torch.no_grad():
        for _, adapter in net.items():
            adapter.B.normal_(generator=RNG)
    ranks = dict.fromkeys(net.names, 4)
    small, whole = (proxies.load("fisher")(net.sliced(r), batch) for r in ({net.names[0]: 2}, ranks))
    assert small > 0
    gate = net.spectrum_of(ranks).expand(6, -1, -1).clone()
    for row, module, component in ((0, 0, 0), (3, 2, 3)):  # finite differences of single gates
        values = []
        for step in (-1e-3, 1e-3):
            moved = gate.clone()
            moved[row, module, component] += step
            logits = net(spectrum=moved, pixel_values=X).logits[row : row + 1].double().detach()
            values.append(float(nn.functional.cross_entropy(logits, LABELS[row : row + 1])))
        slope = (values[1] - values[0]) / 2e-3
        assert whole >= slope**2 / 12 * 0.99


def test_networks_of_a_space_are_scored() -> None:
    space = spaces.load("nasbench201")
    arch = space.elaborate(space.parse("cell(nor_conv_3x3,skip_connect,none,nor_conv_1x1,avg_pool_3x3,nor_conv_3x3)"))
    net = supernet.build(arch, seed=0)
    x = torch.randn(3, *arch.input, generator=RNG)
    told = proxies.scores(net, {"x": x, "labels": torch.tensor([0, 1, 2])})
    assert set(told) == set(proxies.available())
    assert told["params"] == arch.params
    assert told["flops"] == arch.flops


def test_what_cannot_be_scored_is_told() -> None:
    with pytest.raises(ProxyError, match=r"no zero-cost proxy 'synflo'; did you mean synflow\? there are: fisher, "):
        proxies.load("synflo")
    with pytest.raises(ProxyError, match=r"the batch has x, and no labels: this proxy needs a loss"):
        proxies.load("grad_norm")(Small(), {"x": X})
    with pytest.raises(ProxyError, match=r"labels \(2,\) do not go with logits \(6, 3\): one a row"):
        proxies.load("fisher")(Small(), {"x": X, "labels": LABELS[:2]})
    with pytest.raises(ProxyError, match=r"label 7 is beyond the 3 classes"):
        proxies.load("grad_norm")(Small(), {"x": X, "labels": LABELS + 5})
    with pytest.raises(ProxyError, match=r"calls no activation function that naswot watches"):
        proxies.load("naswot")(nn.Linear(5, 3), {"input": torch.zeros(4, 5)})
    with pytest.raises(ProxyError, match=r"give at least 2"):
        proxies.load("naswot")(Small(), {"x": X[:1]})
    with pytest.raises(ProxyError, match=r"Identity has no parameter that requires a gradient"):
        proxies.load("params")(nn.Identity(), {})
    with pytest.raises(ProxyError, match=r"Identity has no convolution and no linear layer"):
        proxies.load("fisher")(nn.Identity(), {"input": torch.zeros(2, 3), "labels": torch.zeros(2).long()})
    bad = Small()
    with torch.no_grad():
        bad.head.weight.fill_(np.inf)
    with pytest.raises(ProxyError, match=r"grad_norm is nan"):
        proxies.load("grad_norm")(bad, {"x": X, "labels": LABELS})
