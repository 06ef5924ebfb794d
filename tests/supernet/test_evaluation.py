"""Population evaluation: every method against the plain loop, kept states, refusals."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from archrank.supernet import elastic, evaluation_methods
from archrank.supernet.chain import NoChain
from archrank.supernet.costs import choose, copies
from archrank.supernet.evaluation import EvaluationError, read_population
from archrank.supernet.net import ConfigurationError, Elastic
from archrank.supernet.population import Way, distinct_nodes

Make = Callable[[str], nn.Module]
Batch = dict[str, Tensor]


def scrambled(model: nn.Module, r_max: int = 8, seed: int = 2) -> Elastic:
    net = elastic(model, "lora_ranks", r_max=r_max)
    scramble(net, seed)
    return net.eval()


def scramble(net: Elastic, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.adapters.parameters():
            p.normal_(0, 0.1, generator=g)


def batches(kind: str, rows: tuple[int, ...] = (4, 3, 1)) -> list[Batch]:
    g = torch.Generator().manual_seed(1)
    found: list[Batch] = []
    for n in rows:
        if kind == "vit":
            found.append(
                {
                    "pixel_values": torch.randn(n, 1, 8, 8, generator=g),
                    "labels": torch.randint(0, 5, (n,), generator=g),
                }
            )
            continue
        ids = torch.randint(3, 60, (n, 7), generator=g)
        mask = (torch.arange(7) < torch.randint(3, 8, (n, 1), generator=g)).long()
        labels = torch.randint(0, 3, (n,), generator=g) if kind == "bert" else ids
        found.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return found


def population(net: Elastic, parents: int = 3, children: int = 4, seed: int = 0) -> list[dict[str, int]]:
    rng = np.random.default_rng(seed)
    found: list[dict[str, int]] = [{}, dict.fromkeys(net.names, 8)]
    for _ in range(parents):
        parent = {n: int(rng.choice([0, 1, 2, 4, 8])) for n in net.names}
        found.append(parent)
        for _ in range(children):
            found.append({**parent, str(rng.choice(net.names)): int(rng.choice([0, 1, 2, 4, 8]))})
    return found


def plainly(net: Elastic, configs: list[dict[str, int]], data: list[Batch]) -> Tensor:
    """Select, forward, mean over rows: the definition."""
    rows = torch.tensor([len(b["labels"]) for b in data], dtype=torch.float64)
    told = []
    for config in configs:
        net.select(config)
        with torch.no_grad():
            told.append(torch.stack([net(**b).loss for b in data]).double() @ rows / rows.sum())  # type: ignore[attr-defined]
    net.reset()
    return torch.stack(told)


@pytest.mark.parametrize("method", ["auto", *evaluation_methods()])
def test_every_method_gives_the_plain_losses(tiny: Make, kind: str, method: str) -> None:
    net, data = scrambled(tiny(kind)), batches(kind)
    configs = population(net)
    truth = plainly(net, configs, data)
    assert truth.max() - truth.min() > 1e-3
    first = net.evaluate(configs, data, method)
    torch.testing.assert_close(first, truth, atol=1e-6, rtol=1e-6)
    assert torch.equal(net.evaluate(configs, data, method), first)
    order = torch.randperm(len(configs), generator=torch.Generator().manual_seed(3)).tolist()
    torch.testing.assert_close(
        net.evaluate([configs[i] for i in order], data, method), truth[order], atol=1e-6, rtol=1e-6
    )
    parts = torch.cat([net.evaluate(configs[i : i + 3], data, method) for i in range(0, len(configs), 3)])
    torch.testing.assert_close(parts, truth, atol=1e-6, rtol=1e-6)


def test_merged_weights_stay_within_the_loops_rounding(tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large weights amplify the rounding of W + ΔW beyond 1e-6: a probe sees it, and the branch runs instead."""
    model = tiny("bert")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(6)
    net, data = scrambled(model), batches("bert")
    configs = population(net, parents=6)
    truth = plainly(net, configs, data)
    assert (net.evaluate(configs, data, "premerged") - truth).abs().max() <= 1e-6
    assert net.states.merges is False
    monkeypatch.setattr("archrank.supernet.evaluation.MERGED_ERROR", 1.0)
    net.states.clear()
    net.states.merges = None
    merged = net.evaluate(configs, data, "premerged")
    assert net.states.merges is True
    assert (merged - truth).abs().max() > 1e-6, "this base does not amplify enough to test anything"
    monkeypatch.undo()
    net.states.clear()
    for p in model.parameters():
        p.data.mul_(0.2)  # other weights: tried anew
    net.evaluate(configs, data, "premerged")
    assert net.states.merges is True


@pytest.mark.parametrize("method", ["auto", "gated", "resume"])
def test_these_repeat_the_loop_to_the_bit_on_small_bases(tiny: Make, kind: str, method: str) -> None:
    """Not promised (a stacked GEMM may round otherwise), but what the design aims at: the branch runs all components
    as the loop does.
    """
    net, data = scrambled(tiny(kind)), batches(kind)
    configs = population(net)
    torch.testing.assert_close(
        net.evaluate(configs, data, method), net.evaluate(configs, data, "loop"), atol=1e-7, rtol=0
    )


@pytest.mark.parametrize("method", ["resume", "premerged", "auto"])
@pytest.mark.parametrize("how", ["in_place", "data", "base", "trained"])
def test_new_weights_void_what_was_kept(tiny: Make, method: str, how: str) -> None:
    model = tiny("bert")
    net, data = scrambled(model), batches("bert")
    configs = population(net)
    before = net.evaluate(configs, data, method)
    if how == "in_place":
        scramble(net, 9)
    elif how == "data":
        for p in net.adapters.parameters():
            p.data.mul_(1.5)  # no version counter sees this
    elif how == "base":
        model.get_submodule("bert.encoder.layer.0.output.dense").weight.data.mul_(1.5)  # type: ignore[operator]
    else:
        optimizer = torch.optim.AdamW(net.adapters.parameters(), lr=0.05)
        net(**data[0]).loss.backward()  # type: ignore[attr-defined]
        optimizer.step()
    after = net.evaluate(configs, data, method)
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after, plainly(net, configs, data), atol=1e-6, rtol=1e-6)


def test_a_child_of_an_evaluated_parent_runs_only_what_differs(tiny: Make) -> None:
    net, data = scrambled(tiny("bert")), batches("bert", (4,))
    parent = dict.fromkeys(net.names, 4)
    net.evaluate([parent], data, "resume")
    calls: list[int] = []
    layers = net.base.get_submodule("bert.encoder.layer")
    handles = [layer.output.register_forward_hook(lambda *_, i=i: calls.append(i)) for i, layer in enumerate(layers)]  # type: ignore[arg-type]
    last = next(n for n in net.names if ".layer.1." in n)
    child = net.evaluate([{**parent, last: 1}], data, "resume")
    for handle in handles:
        handle.remove()
    assert calls.count(1) == 1
    assert calls.count(0) == 0, "the layer before the mutation was run again"
    torch.testing.assert_close(child, plainly(net, [{**parent, last: 1}], data), atol=1e-6, rtol=1e-6)


def test_kept_states_stay_within_their_bound(tiny: Make) -> None:
    net, data = scrambled(tiny("vit")), batches("vit", (4,))
    configs = population(net, parents=6)
    truth = plainly(net, configs, data)
    state = 4 * 17 * 32 * 4
    net.states.limit_bytes = 3 * state
    for _ in range(2):
        torch.testing.assert_close(net.evaluate(configs, data, "resume"), truth, atol=1e-6, rtol=1e-6)
        assert len(net.states) == 3
        assert net.states.bytes == 3 * state
    net.states.limit_bytes = 0
    net.states.clear()
    torch.testing.assert_close(net.evaluate(configs, data, "resume"), truth, atol=1e-6, rtol=1e-6)
    assert len(net.states) == 0


@pytest.mark.parametrize("method", ["gated", "premerged", "resume"])
def test_little_memory_gives_the_same_losses(tiny: Make, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    net, data = scrambled(tiny("bert")), batches("bert")
    configs = population(net)
    monkeypatch.setattr("archrank.supernet.evaluation.STATE_BYTES", 20_000)
    monkeypatch.setattr("archrank.supernet.evaluation.WEIGHT_BYTES", 10_000)
    torch.testing.assert_close(net.evaluate(configs, data, method), plainly(net, configs, data), atol=1e-6, rtol=1e-6)


def test_modes_selection_and_base_are_left_as_they_were(tiny: Make) -> None:
    model = tiny("bert")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    net, data = scrambled(model), batches("bert")
    config = population(net)[3]
    net.select(config)
    net.train()
    net.base.get_submodule("bert.embeddings").eval()
    modes = [m.training for m in net.modules()]
    for method in evaluation_methods():
        net.evaluate(population(net), data, method)
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any("forward" in m.__dict__ or m._forward_hooks for m in model.modules())
    net.eval()
    with torch.no_grad():
        selected = net(**data[0]).loss  # type: ignore[attr-defined]
    torch.testing.assert_close(selected.double(), plainly(net, [config], data[:1])[0], atol=1e-6, rtol=1e-6)


def test_a_failing_forward_leaves_the_base_clean(tiny: Make) -> None:
    net, data = scrambled(tiny("bert")), batches("bert")
    net.evaluate([{}], data)
    broken = [data[0], {**data[1], "input_ids": data[1]["input_ids"] + 1000}]
    with pytest.raises(IndexError):
        net.evaluate(population(net), broken, "resume")
    assert not any("forward" in m.__dict__ for m in net.base.modules())


def test_a_derivation_and_an_empty_population(tiny: Make) -> None:
    net, data = scrambled(tiny("bert")), batches("bert")
    assert net.space is not None
    d = net.space.sample(np.random.default_rng(0), n=1)[0]
    torch.testing.assert_close(net.evaluate([d], data), plainly(net, [net.ranks(d)], data), atol=1e-6, rtol=1e-6)
    for method in ("auto", *evaluation_methods()):
        assert net.evaluate([], data, method).shape == (0,)


def test_read_population_sees_the_answers_themselves(tiny: Make) -> None:
    net, data = scrambled(tiny("vit")), batches("vit")
    configs = population(net)[:4]
    for method in evaluation_methods():
        told = read_population(net, configs, data, lambda answer, place: answer.logits, method)
        for config, row in zip(configs, told, strict=True):
            net.select(config)
            for logits, batch in zip(row, data, strict=True):
                torch.testing.assert_close(logits, net(**batch).logits.detach(), atol=2e-6, rtol=1e-5)  # type: ignore[attr-defined]


class Plain(nn.Module):
    """A base without layers in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.block1 = nn.Linear(6, 6)
        self.block2 = nn.Linear(6, 6)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> SimpleNamespace:
        y = self.block2(torch.tanh(self.block1(x)))
        return SimpleNamespace(logits=y, loss=nn.functional.cross_entropy(y, labels))


def test_a_base_that_is_no_chain_runs_in_the_loop() -> None:
    net = elastic(Plain(), "lora_ranks", r_max=4, target_modules="block1,block2")
    scramble(net, 0)
    data = [{"x": torch.randn(5, 6), "labels": torch.arange(5)}]
    configs = [{}, {"block1": 2}, {"block1": 4, "block2": 1}]
    torch.testing.assert_close(net.evaluate(configs, data), plainly(net, configs, data))
    with pytest.raises(EvaluationError, match=r"method 'gated' runs a base layer by layer.*no nn.ModuleList.*'auto'"):
        net.evaluate(configs, data, "gated")
    with pytest.raises(NoChain):
        net.chain(data[0])


class Skips(nn.Module):
    """Layers in a list that do not hand the hidden state on as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> SimpleNamespace:
        for layer in self.layers:
            x = x + layer(x)
        return SimpleNamespace(logits=x, loss=nn.functional.cross_entropy(x, labels))


def test_residuals_outside_the_layers_are_noticed() -> None:
    net = elastic(Skips(), "lora_ranks", r_max=4)
    scramble(net, 0)
    data = [{"x": torch.randn(5, 6), "labels": torch.arange(5)}]
    configs = [{}, {"layers.1": 2}]
    torch.testing.assert_close(net.evaluate(configs, data), plainly(net, configs, data))
    with pytest.raises(EvaluationError, match="what one layer gives is not what the next one takes"):
        net.evaluate(configs, data, "resume")


class Turns(nn.Module):
    """A layer with an argument whose first axis is tokens, not rows, as rotary embeddings can be."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(6, 6)

    def forward(self, h: Tensor, position: Tensor) -> Tensor:
        turned: Tensor = h + self.mix(h * position)
        return turned


class Rotary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Turns() for _ in range(3))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> SimpleNamespace:
        h = torch.tanh(x)
        position = torch.linspace(0.1, 1, x.shape[1])[:, None].expand(-1, 6)
        for layer in self.layers:
            h = layer(h, position)
        y = h.mean(1)
        return SimpleNamespace(logits=y, loss=nn.functional.cross_entropy(y, labels))


@pytest.mark.parametrize("rows", [1, 2, 4, 5])
def test_as_many_rows_as_tokens_are_not_stacked(rows: int) -> None:
    net = elastic(Rotary(), "lora_ranks", r_max=4)
    scramble(net, 0)
    data = [{"x": torch.randn(rows, 4, 6), "labels": torch.arange(rows)}]
    configs = [{n: int(r) for n, r in zip(net.names, ranks, strict=True)} for ranks in np.ndindex(2, 3, 2)]
    for method in ("gated", "auto"):
        torch.testing.assert_close(net.evaluate(configs, data, method), plainly(net, configs, data))


def test_bad_input_is_told(tiny: Make) -> None:
    net, data = scrambled(tiny("bert")), batches("bert")
    with pytest.raises(EvaluationError, match=r"no evaluation method 'fast'; there are: auto, loop, gated"):
        net.evaluate([{}], data, "fast")
    with pytest.raises(EvaluationError, match=r"batch 1 has attention_mask, input_ids, and no labels"):
        net.evaluate([{}], [data[0], {k: v for k, v in data[1].items() if k != "labels"}])
    with pytest.raises(EvaluationError, match=r"0 batches with no row in them"):
        net.evaluate([{}], [])
    with pytest.raises(ConfigurationError, match=r"rank 9 of .* is outside 0 … 8"):
        net.evaluate([{net.names[0]: 9}], data)


def test_the_choice_depends_on_shapes_alone() -> None:
    assert copies("cpu", 64) == 16
    assert copies("cpu", 5000) == 1
    assert choose("cpu", 64, [4, 8, 8], stackable=True) == Way(copies=16)
    assert choose("cpu", 64, [1, 1, 1], stackable=True) == Way(keep=True), "one candidate has nothing to stack with"
    assert choose("cpu", 64, [4, 8, 8], stackable=False) == Way(keep=True)
    assert choose("cpu", 256, [9, 9, 9], stackable=True) == Way(keep=True), "four at a time gain less than a parent"
    assert choose("cpu", 2000, [9, 9, 9], stackable=True) == Way(keep=True)


def test_distinct_nodes_are_the_distinct_prefixes(tiny: Make) -> None:
    net, data = scrambled(tiny("bert")), batches("bert")
    chain, stackable = net.chain(data[0])
    assert stackable
    first, last = 0, len(net.names) - 1
    base = [2] * len(net.names)
    a, b, c = tuple(base), tuple(base), list(base)
    c[last] = 1
    assert distinct_nodes(chain, [a, b, tuple(c)]) == [1, 2]
    d = list(base)
    d[first] = 0
    assert distinct_nodes(chain, [a, tuple(d), tuple(c)]) == [2, 3]
