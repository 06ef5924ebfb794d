"""Ensembles: each formula of NEAS, the trunk held and run once, one member bit-equal to the single one, resuming."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from archrank import spaces, supernet
from archrank.grammar import LayerChoice
from archrank.grammar.heads import with_head
from archrank.grammar.layers import EnsembleChoice
from archrank.supernet import EnsembleEvaluator, ensemble, load_ensemble
from archrank.supernet.checkpoint import Checkpoint
from archrank.supernet.elastic_encoder import ElasticEncoder
from archrank.supernet.ensembles import Ensemble
from archrank.supernet.export import ExportRefused
from archrank.supernet.net import ConfigurationError
from archrank.supernet.network_training import fit
from archrank.supernet.networks import Network
from archrank.supernet.shared_trunk import diversity, divided, members_loss
from archrank.supernet.training import TrainPlan

Make = Callable[[str], nn.Module]
KINDS = ("bert", "vit", "electra")
LABELS = torch.tensor([0, 1, 2, 0])
RANKS = (("q", 2), ("v", 1), ("down", 2))


def inputs_of(kind: str) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(5)
    if kind == "vit":
        return {"pixel_values": torch.randn(4, 1, 8, 8, generator=g)}
    ids = torch.randint(3, 60, (4, 9), generator=g)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def net_of(make: Make, kind: str) -> ElasticEncoder:
    data = [{**inputs_of(kind), "labels": LABELS}]
    net = supernet.elastic(make(kind), "elastic_ensemble", r_max=4, data=data).eval()
    assert isinstance(net, ElasticEncoder)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.adapters.parameters():
            p.normal_(0, 0.1, generator=g)
    return net


def pair(net: ElasticEncoder, count: int = 2) -> EnsembleChoice:
    """Members of two layers that share the first."""
    first, second = net.layers
    tails = [LayerChoice(True, 2, 32, RANKS), LayerChoice(True, 4, 16), LayerChoice(True, 4, 64, (("up", 4),))]
    trunk = LayerChoice(True, 3, 48, RANKS)
    return EnsembleChoice(1, tuple({first: trunk, second: tail} for tail in tails[:count]))


def test_the_formulas() -> None:
    logits = [torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])]
    labels = torch.tensor([0, 1])
    torch.testing.assert_close(members_loss(logits, labels), sum(cross_entropy(y, labels) for y in logits))
    assert torch.equal(members_loss(logits[:1], labels), cross_entropy(logits[0], labels))

    def entropy(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    p, q = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))
    first = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
    assert float(diversity(logits)) == pytest.approx(first / 2, rel=1e-6)  # the second row agrees
    apart = [torch.tensor([[80.0, 0.0]]), torch.tensor([[0.0, 80.0]])]
    assert float(diversity(apart)) == pytest.approx(math.log(2))
    assert float(diversity([*apart, apart[0]])) == pytest.approx(2 / 3 * math.log(2))
    assert float(diversity(logits[:1])) == 0.0
    x = torch.ones(3, requires_grad=True)
    divided(x, 4).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.25] * 3
    assert divided(x, 1) is x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [2, 3])
def test_the_trunks_gradient_is_the_mean_of_the_members_and_theirs_is_whole(tiny: Make, kind: str, count: int) -> None:
    net, data = net_of(tiny, kind), inputs_of(kind)
    choice = pair(net, count)
    both = ensemble(net, choice, merged=False).eval()  # without dropout
    alone = [net.extract(member).unmerged().eval() for member in choice.members]
    for module in (both, *alone):
        module.requires_grad_(True)
    both(**data, labels=LABELS).loss.backward()
    for module in alone:
        cross_entropy(module(**data).logits, LABELS).backward()
    gradients = [{name: p.grad for name, p in module.named_parameters()} for module in alone]
    of_first, deep = gradients[0], f"{both.blocks}.1."
    checked = 0
    for name, p in both.members[0].named_parameters():
        if of_first[name] is None:
            continue
        own = name.startswith(deep) or (not name.startswith(both.blocks) and "embeddings" not in name)
        wanted = of_first[name] if own else sum(g[name] for g in gradients) / count
        torch.testing.assert_close(p.grad, wanted, atol=1e-6, rtol=1e-4)
        checked += not own
    assert checked > 10
    for k in range(1, count):
        tail = {name: p.grad for name, p in both.members[k].named_parameters()}
        names = [name for name in tail if name.startswith(f"{both.blocks}.0.") and tail[name] is not None]
        assert names
        for name in names:
            whole = gradients[k][deep + name[len(f"{both.blocks}.0.") :]]
            torch.testing.assert_close(tail[name], whole, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_evaluator_answers_and_trains_as_the_module_does(tiny: Make, kind: str) -> None:
    net, data = net_of(tiny, kind), inputs_of(kind)
    choice, evaluator = pair(net, 3), EnsembleEvaluator(net)
    module = ensemble(net, choice)
    with torch.no_grad():
        each = evaluator.logits(choice, data)
        alone = [net.extract(member).module(**data).logits for member in choice.members]
        for y, z, single in zip(each, module.member_logits(**data), alone, strict=True):
            torch.testing.assert_close(y, single, atol=1e-5, rtol=0)
            torch.testing.assert_close(z, single, atol=1e-5, rtol=0)
        torch.testing.assert_close(module(**data).logits, torch.stack(alone).mean(0), atol=1e-5, rtol=0)
    score = evaluator.score(choice, [{**data, "labels": LABELS}])
    assert score.loss == pytest.approx(float(cross_entropy(torch.stack(alone).mean(0), LABELS)), abs=1e-5)
    assert score.member_losses == pytest.approx([float(cross_entropy(y, LABELS)) for y in alone], abs=1e-5)
    assert score.diversity == pytest.approx(float(diversity(alone)), abs=1e-5)
    q = next(a for name, a in net.items() if "0" in name)
    net.adapters.requires_grad_(True)
    found = torch.autograd.grad(members_loss(evaluator.logits(choice, data), LABELS), [q.A])[0]
    wanted = torch.zeros_like(found)
    for member in choice.members:
        net.select(member)
        wanted += torch.autograd.grad(cross_entropy(net(**data).logits, LABELS), [q.A])[0]  # type: ignore[attr-defined]
    torch.testing.assert_close(found, wanted / 3)


@pytest.mark.parametrize("kind", KINDS)
def test_one_member_is_the_single_network_to_the_bit(tiny: Make, kind: str) -> None:
    net, data = net_of(tiny, kind), inputs_of(kind)
    choice = pair(net, 1)
    member, evaluator = choice.members[0], EnsembleEvaluator(net)
    net.select(member)
    with torch.no_grad():
        assert torch.equal(evaluator.logits(choice, data)[0], net(**data).logits)  # type: ignore[attr-defined]
        single = net.extract(member).module
        assert torch.equal(ensemble(net, choice)(**data).logits, single(**data).logits)
    for split in (0, 1, 2):
        assert ensemble(net, [member], split=split).state_dict().keys() == {
            f"members.0.{name}" for name in single.state_dict()
        }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", [0, 1, 2])
def test_the_trunk_is_held_and_run_once(tiny: Make, kind: str, split: int) -> None:
    net, data = net_of(tiny, kind), inputs_of(kind)
    first, second = net.layers
    members = [{first: LayerChoice(True, 4, 64 - 16 * k), second: LayerChoice(True, 1 + k, 64)} for k in range(3)]
    if split:
        members = [{**member, first: LayerChoice(True, 2, 32)} for member in members]
    if split == 2:
        members = members[:1] * 3
        with pytest.warns(UserWarning, match="coincide from layer 2 on: 0 and 1, 0 and 2, 1 and 2"):
            module = ensemble(net, members, split=split)
    else:
        module = ensemble(net, members, split=split)
    calls: dict[str, int] = {}

    def counted(name: str) -> Callable[..., None]:
        return lambda *args: calls.__setitem__(name, calls.get(name, 0) + 1)

    for k, member in enumerate(module.members):
        embeddings = member.base_model.embeddings
        layers = member.get_submodule(module.blocks)
        assert len(layers) == (2 if k == 0 else 2 - split)
        if k == 0:
            embeddings.register_forward_hook(counted("embeddings"))
            for i, block in enumerate(layers):
                block.register_forward_hook(counted(f"layer {i}"))
    with torch.no_grad():
        module(**data)
        assert torch.equal(module(**data, return_dict=False)[0], module(**data).logits)
    assert calls == {"embeddings": 3, "layer 0": 3, "layer 1": 3}, "three forwards"
    singles = [net.extract(member).module for member in members]
    shared = [name for name in singles[0].state_dict() if "embeddings" in name]
    shared += [
        name for i in range(split) for name in singles[0].state_dict() if name.startswith(f"{module.blocks}.{i}.")
    ]
    once = sum(singles[0].state_dict()[name].numel() for name in shared)
    whole = sum(t.numel() for single in singles for t in single.state_dict().values())
    assert sum(t.numel() for t in module.state_dict().values()) == whole - 2 * once
    evaluator = EnsembleEvaluator(net)
    seen: list[int] = []
    handle = net.base.get_submodule(first).register_forward_hook(lambda *args: seen.append(1))
    with torch.no_grad():
        evaluator.logits(EnsembleChoice(split, tuple(net.choices(m) for m in members)), data)
    handle.remove()
    assert (evaluator.forwards, len(seen)) == (1, 1 if split else 3)


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow if k != "vit" else ()) for k in KINDS])
def test_a_folder_and_onnx_hold_the_trunk_once_and_answer_the_same(tiny: Make, kind: str, tmp_path: Path) -> None:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    net, data = net_of(tiny, kind), inputs_of(kind)
    choice = pair(net)
    module = ensemble(net, choice, merged=False)
    assert len(module.adapters()) == 2 * len(RANKS) + 2 * len(
        RANKS
    )  # in the trunk, and in the first member's own layer
    assert len(module.heads()) == 2 * (4 if kind == "electra" else 2)
    folder = module.save(tmp_path / "e")
    again = load_ensemble(folder)
    with torch.no_grad():
        wanted = module(**data).logits
        torch.testing.assert_close(again(**data).logits, wanted, atol=1e-5, rtol=0)
        assert torch.equal(again(**data).logits, module.merged()(**data).logits)
    assert (again.own, len(again.members), again.coinciding) == (1, 2, ())
    file = module.merged().export_onnx(tmp_path / "e.onnx")
    session = runtime.InferenceSession(str(file))
    given = {i.name: data[i.name].numpy() for i in session.get_inputs()}
    torch.testing.assert_close(torch.as_tensor(session.run(None, given)[0]), wanted, atol=1e-5, rtol=0)
    stored = sum(math.prod(t.dims) for t in onnx.load(str(file)).graph.initializer)
    held = sum(p.numel() for p in again.parameters())
    assert stored <= held * 1.02 + 200
    (folder / "ensemble.safetensors").rename(folder / "gone")
    with pytest.raises(ExportRefused, match=r"has no ensemble.json and ensemble.safetensors"):
        load_ensemble(folder)


def batches_of(kind: str) -> Callable[[int], tuple[Mapping[str, Tensor], NDArray[np.int64]]]:
    return lambda step: ({**inputs_of(kind), "labels": LABELS.roll(step)}, np.arange(4))


def test_training_goes_on_after_an_interruption_to_the_same_bits(tiny: Make, tmp_path: Path) -> None:
    plan = TrainPlan(30, 1e-2, seed=3)
    whole, parted = (EnsembleEvaluator(net_of(tiny, "vit")) for _ in range(2))
    before = whole.score(pair(whole.net), [batches_of("vit")(0)[0]])
    whole.train(batches_of("vit"), plan)
    after = whole.score(pair(whole.net), [batches_of("vit")(0)[0]])
    assert after.loss != before.loss
    checkpoint = Checkpoint(tmp_path / "c.safetensors", "ensembles", 1e9)

    def stop(done: int, loss: float) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parted.train(batches_of("vit"), plan, checkpoint=checkpoint, tick=stop)
    fresh = EnsembleEvaluator(net_of(tiny, "vit"))
    fresh.train(batches_of("vit"), plan, checkpoint=checkpoint)
    for a, b in zip(whole.net.adapters.parameters(), fresh.net.adapters.parameters(), strict=True):
        assert torch.equal(a, b)
    base = net_of(tiny, "vit").base.state_dict()
    assert all(torch.equal(t, base[name]) for name, t in whole.net.base.state_dict().items())


def test_ensembles_that_are_trained_differ_in_their_members(tiny: Make) -> None:
    evaluator = EnsembleEvaluator(net_of(tiny, "vit"))
    drawn = [evaluator.drawn(0, step) for step in range(40)]
    choices = [evaluator.members(d) for d in drawn]
    assert {len(c.members) for c in choices} == {1, 2, 3}
    assert not any(c.coinciding for c in choices)
    assert evaluator.drawn(0, 7) == drawn[7]
    cheap = [evaluator.drawn(0, step, accept=lambda d: evaluator.space.elaborate(d).flops < 4e5) for step in range(20)]
    assert max(evaluator.space.elaborate(d).flops for d in cheap) < 4e5


def test_what_no_ensemble_can_be_is_told(tiny: Make) -> None:
    net = net_of(tiny, "vit")
    evaluator, choice = EnsembleEvaluator(net), pair(net)
    same = EnsembleChoice(1, (choice.members[0],) * 2)
    with pytest.warns(UserWarning, match="members of the ensemble coincide from layer 1 on: 0 and 1"):
        score = evaluator.score(same, [batches_of("vit")(0)[0]])
    assert score.diversity == pytest.approx(0, abs=1e-7)
    with pytest.raises(ConfigurationError, match="a score needs at least one row with a label"):
        evaluator.score(choice, [])
    with pytest.raises(ConfigurationError, match=r"split None is outside 0 … 2"):
        ensemble(net, choice.members)
    other = spaces.load("elastic_ensemble").bind_layers({"a": next(iter(net.space.layers.values()))})
    with pytest.raises(ConfigurationError, match=r"is not bound to the net's layers vit"):
        EnsembleEvaluator(net, other)


# -- networks of an architecture space


def network(text: str, seed: int = 0) -> Network:
    space = spaces.load("ensemble_cnn")
    return supernet.build(with_head(space.elaborate(space.parse(text)), 10), seed).train()


TRUNK, FIRST, SECOND = "conv(3,8),conv(3,16)", "conv(3,16),conv(3,16)", "conv(5,8),conv(1,32)"


def test_networks_share_a_trunk_whose_gradient_is_the_mean() -> None:
    both = network(f"ensemble2(split2({TRUNK}|{FIRST}|{SECOND}))")
    x, labels = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    members_loss(both.member_logits(x), labels).backward()
    own = [[3, 4, 7, 8], [5, 6, 9, 10]]
    total: list[Tensor] = []
    for k, tail in enumerate((FIRST, SECOND)):
        single = network(f"single({TRUNK},{tail})", seed=9)
        places = [0, 1, *own[k]]
        built = [op for op in range(len(single.ops)) if list(single.ops[op].parameters())]
        weighty = [i for i in places if list(both.ops[i].parameters())]
        for mine, theirs in zip(built, weighty, strict=True):
            single.ops[mine].load_state_dict(both.ops[theirs].state_dict())
        cross_entropy(single(x), labels).backward()
        for mine, theirs in zip(built[2:], weighty[2:], strict=True):
            for p, q in zip(both.ops[theirs].parameters(), single.ops[mine].parameters(), strict=True):
                torch.testing.assert_close(p.grad, q.grad, atol=1e-6, rtol=1e-4)
        grads = [p.grad for i in (0, 1) for p in single.ops[i].parameters() if p.grad is not None]
        total = grads if not total else [a + b for a, b in zip(total, grads, strict=True)]
    mine = [p.grad for i in (0, 1) for p in both.ops[i].parameters()]
    for p, wanted in zip(mine, total, strict=True):
        torch.testing.assert_close(p, wanted / 2, atol=1e-6, rtol=1e-4)


def test_a_network_of_one_member_is_the_single_one_to_the_bit_and_trains_as_it() -> None:
    from archrank import grammar
    from archrank.supernet import data as datasets
    from archrank.supernet.data.images import prepare_images

    file = spaces.path("ensemble_cnn").read_text().replace(
        '-> stack4      //@ p = 0.25', '-> stack4      //@ p = 0.15\n     | "one" "(" alone ")" -> leaf //@ p = 0.1'
    )  # fmt: skip
    space = grammar.loads(file + '\nalone: below2 "|" above2 -> ensemble1\n')
    data = prepare_images(datasets.read_dataset("digits", None), (1, 8, 8))
    made = []
    for text in (f"one({TRUNK}|{FIRST})", f"single({TRUNK},{FIRST})"):
        model = supernet.build(with_head(space.elaborate(space.parse(text)), 10), 4)
        fit(model, data, TrainPlan(5, 1e-2, seed=1), 16)
        made.append(model)
    one, single = made
    assert one.state_dict().keys() == single.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), single.state_dict().values(), strict=True))


def test_the_class_of_an_ensemble_is_the_public_one() -> None:
    assert supernet.Ensemble is Ensemble
