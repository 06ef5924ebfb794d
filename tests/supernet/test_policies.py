"""What every policy promises, looped over the folder: one store, a documented mask, a valid configuration, an exact
extraction; and each policy's own rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import peft
import pytest
import torch
from torch import Tensor, nn

from archrank.supernet import elastic, policies
from archrank.supernet.adapters.lora import LoRA
from archrank.supernet.checkpoint import Checkpoint
from archrank.supernet.lazy_adamw import RowLazyAdamW
from archrank.supernet.net import Elastic
from archrank.supernet.policies import Policy
from archrank.supernet.policies._gates import official_threshold, soft_threshold
from archrank.supernet.policies._schedule import falling_budget
from archrank.supernet.policies.base import counter_uniform, within_budget
from archrank.supernet.training import TrainPlan, train

Make = Callable[[str], nn.Module]
MODULES = {"a.q": (32, 32), "a.k": (8, 32), "b.fc": (64, 4)}
DRAWN = ("mixed", "sandwich", "dylora", "dylora:frozen", "maestro", "nls")
GATED = ("sora", "sora:official", "codyra", "codyra:official", "autolora", "diffora", "adalora")
ALL = (*policies.available(), "dylora:frozen", "sora:official", "codyra:official")
ROWS = 8


def batches(step: int) -> tuple[Mapping[str, Tensor], np.ndarray]:  # type: ignore[type-arg]
    g = torch.Generator().manual_seed(step)
    ids = torch.randint(3, 60, (ROWS, 7), generator=g)
    return {"input_ids": ids, "labels": ids[:, 0] % 3}, step * ROWS + np.arange(ROWS)


def loss(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(logits, batch["labels"])


def without_dropout(model: nn.Module) -> nn.Module:
    for m in model.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.0
    return model


def trained(tiny: Make, name: str, steps: int = 10) -> tuple[Elastic, Policy]:
    net = elastic(without_dropout(tiny("bert")), "lora_ranks", r_max=4)
    policy = policies.load(name)(net.shapes, 4, seed=1, ranks=[0, 1, 2, 4])
    train(net, batches, loss, TrainPlan(steps, 1e-2, seed=1), policy=policy, validation=lambda s: batches(s + 1000))
    return net, policy


@pytest.mark.parametrize("name", ALL)
def test_a_spectrum_is_a_function_of_seed_step_and_index(name: str) -> None:
    policy = policies.load(name)(MODULES, 8, seed=3)
    whole = policy.spectrum(5, [4, 9, 2])
    assert whole.shape == (3, 3, 8)
    again = policies.load(name)(MODULES, 8, seed=3)
    again.spectrum(1, [0])
    assert torch.equal(again.spectrum(5, [9]), whole[1:2])
    if name in DRAWN:
        many = range(64)
        steps = torch.stack([policy.spectrum(s, many) for s in range(8)])
        assert not torch.equal(steps[:-1], steps[1:])
        other = policies.load(name)(MODULES, 8, seed=4)
        assert not torch.equal(steps, torch.stack([other.spectrum(s, many) for s in range(8)]))


@pytest.mark.parametrize("name", ALL)
def test_a_component_beyond_a_modules_limit_is_never_on(name: str) -> None:
    spectrum = policies.load(name)(MODULES, 8, seed=0).spectrum(0, range(200))
    assert not spectrum[:, 2, 4:].any()
    assert policies.summary(name.split(":")[0])


@pytest.mark.parametrize("name", ALL)
def test_one_store_serves_every_policy_and_its_extraction_is_its_forward(tiny: Make, name: str) -> None:
    """After some training: the store has LoRA's parameters and no others, the support's forward is the extracted
    module's, and a budget is kept.
    """
    net, policy = trained(tiny, name)
    assert {k for k, _ in net.adapters.named_parameters()} == {f"{i}.{p}" for i in range(len(net.names)) for p in "AB"}
    inputs = {k: v for k, v in batches(77)[0].items() if k != "labels"}
    bare = net.base.eval()(**inputs).logits
    for budget in (None, 0.4 * policy.full, 0.05 * policy.full):
        support = policy.support(net, budget)
        factors = net.gathered(support)
        sub = Elastic(net.base, {n: LoRA.of(A, B) for n, (A, B) in factors.items()}).eval()
        with torch.no_grad():
            own = net.eval()(spectrum=support[None], **inputs).logits
            torch.testing.assert_close(sub(**inputs).logits, own, atol=2e-6, rtol=1e-5)
        home = policy.factors(net, budget)
        assert set(home) <= set(net.names)
        assert all(len(A) == B.shape[1] <= 4 for A, B in home.values())
        if budget is not None:
            assert sum(A.numel() + B.numel() for A, B in home.values()) <= budget
    assert (own - bare).abs().max() > 0 or not factors


@pytest.mark.parametrize("name", ALL)
def test_the_gradient_mask_is_the_documented_one(tiny: Make, name: str) -> None:
    """None, or for a frozen policy the last component alone; what it leaves out gets no gradient, the input does."""
    policy = policies.load(name)(MODULES, 8, seed=0)
    mask = policy.gradient_mask(3, range(5))
    if not name.endswith("frozen"):
        assert mask is None
        return
    spectrum = policy.spectrum(3, range(5))
    assert mask is not None
    assert torch.equal(mask.sum(-1), torch.ones(5, 3))
    assert torch.equal((mask * torch.arange(1, 9)).sum(-1), spectrum.sum(-1))


def test_frozen_gradients_are_those_of_the_detached_form() -> None:
    """Valipour et al.'s code: rows before b detached, in fp64; with a b of its own for each sample."""
    from archrank import kernels

    g = torch.Generator().manual_seed(0)
    x, A, B = (
        torch.randn(*s, generator=g, dtype=torch.float64).requires_grad_() for s in ((5, 3, 16), (8, 16), (24, 8))
    )
    b = torch.tensor([1, 3, 8, 5, 2])
    c = (torch.arange(8) < b[:, None]).double()
    w = (torch.arange(8) == b[:, None] - 1).double()
    out = []
    for i, r in enumerate(b.tolist()):
        a = torch.cat([A[: r - 1].detach(), A[r - 1 : r]])
        columns = torch.cat([B[:, : r - 1].detach(), B[:, r - 1 : r]], dim=1)
        out.append(x[i] @ a.T @ columns.T)
    slope = torch.randn(5, 3, 24, generator=g, dtype=torch.float64)
    wanted = torch.autograd.grad((torch.stack(out) * slope).sum(), [x, A, B])
    for op in (kernels.masked_lora, kernels.masked_lora_reference):
        y = op(x, A, B, c, w)
        torch.testing.assert_close(y, torch.stack(out), atol=1e-12, rtol=0)
        for got, want in zip(torch.autograd.grad((y * slope).sum(), [x, A, B]), wanted, strict=True):
            torch.testing.assert_close(got, want, atol=1e-11, rtol=0)


def test_per_sample_spectra_are_sliced_loras_in_fp64() -> None:
    from archrank import kernels

    g = torch.Generator().manual_seed(0)
    x, A, B = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((4, 3, 16), (8, 16), (24, 8)))
    ranks = [0, 1, 5, 8]
    c = (torch.arange(8) < torch.tensor(ranks)[:, None]).double()
    y = kernels.spectral_lora(x, A, B, c)
    for i, r in enumerate(ranks):
        assert float((y[i] - x[i] @ A[:r].T @ B[:, :r].T).abs().max()) < 1e-12


def test_a_lazy_step_leaves_untouched_components_bit_identical(tiny: Make) -> None:
    """And is AdamW where all are touched."""
    plain, lazy = (elastic(tiny("bert"), "lora_ranks", r_max=4) for _ in range(2))
    settings = {"lr": 1e-2, "weight_decay": 0.1}
    optimizers = (torch.optim.AdamW(plain.adapters.parameters(), **settings), RowLazyAdamW(lazy, **settings))  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(0)
    for _ in range(3):
        for p, q in zip(plain.adapters.parameters(), lazy.adapters.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=g)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        for p, q in zip(plain.adapters.parameters(), lazy.adapters.parameters(), strict=True):
            torch.testing.assert_close(p, q, atol=1e-6, rtol=1e-5)
    before = [p.detach().clone() for p in lazy.adapters.parameters()]
    mask = torch.zeros(2, len(lazy.names), 4)
    mask[1, :, 2] = 1
    for _ in range(4):
        optimizers[1].touch(mask)  # type: ignore[union-attr]
        optimizers[1].step()
    for old, (name, p) in zip(before, lazy.adapters.named_parameters(), strict=True):
        axis = 0 if name.endswith("A") else 1
        others = torch.tensor([0, 1, 3])
        assert torch.equal(old.index_select(axis, others), p.detach().index_select(axis, others))
        assert not torch.equal(old.select(axis, 2), p.detach().select(axis, 2))


def test_a_frozen_training_moves_one_component_a_step(tiny: Make) -> None:
    net = elastic(without_dropout(tiny("bert")), "lora_ranks", r_max=4)
    policy = policies.load("dylora:frozen")(net.shapes, 4, seed=1)
    seen = []

    def watch(done: int) -> bool:
        seen.append([p.detach().clone() for p in net.adapters.parameters()])
        return True

    train(net, batches, loss, TrainPlan(12, 1e-2, weight_decay=0.1), policy=policy, after=watch)
    for step in range(1, 12):
        b = policy.b(step) - 1  # type: ignore[attr-defined]
        for place, (old, new) in enumerate(zip(seen[step - 1], seen[step], strict=True)):
            moved = (old != new).any(1 - place % 2)
            assert set(moved.nonzero().flatten().tolist()) <= {b}


@pytest.mark.parametrize("name", ["sora", "diffora", "adalora", "maestro"])
def test_a_resumed_training_repeats_gates_and_store(tiny: Make, name: str, tmp_path: object) -> None:
    from pathlib import Path

    class Stop(Exception):
        pass

    whole, policy = trained(tiny, name, 24)
    checkpoint = Checkpoint(Path(str(tmp_path)) / "c", name, 1e9)

    def stop(done: int, value: float) -> None:
        if done == 10:
            raise Stop

    for tick in (stop, None):
        net = elastic(without_dropout(tiny("bert")), "lora_ranks", r_max=4)
        again = policies.load(name)(net.shapes, 4, seed=1, ranks=[0, 1, 2, 4])
        plan = TrainPlan(24, 1e-2, seed=1)
        try:
            train(
                net, batches, loss, plan, policy=again, validation=lambda s: batches(s + 1000),
                checkpoint=checkpoint, tick=tick,
            )  # fmt: skip
        except Stop:
            continue
    assert all(torch.equal(v, again.state()[k]) for k, v in policy.state().items())
    for p, q in zip(whole.adapters.parameters(), net.adapters.parameters(), strict=True):
        assert torch.equal(p, q)


# -- each policy's own rule -------------------------------------------------------------------------------------------


def test_mixed_draws_each_rank_alike_beside_the_max_rank_rows() -> None:
    policy = policies.load("mixed")(MODULES, 8, seed=1)
    ranks = policy.spectrum(0, range(40_000)).sum(-1)[:, 0].numpy()
    share = np.bincount(ranks.astype(int), minlength=9) / len(ranks)
    for rank in (0, 1, 2, 4):
        assert abs(share[rank] - 7 / 8 / 5) < 0.01
    assert abs(share[8] - (1 / 8 + 7 / 8 / 5)) < 0.01
    full = (policy.spectrum(0, range(40_000)).sum(-1)[:, :2] == 8).all(-1).float().mean()
    assert abs(float(full) - (1 / 8 + 7 / 8 / 25)) < 0.01


def test_sandwich_has_its_shares_of_largest_and_smallest_rows() -> None:
    ranks = policies.load("sandwich")(MODULES, 8, seed=1).spectrum(0, range(20_000)).sum(-1)[:, :2]
    assert abs(float((ranks == 8).all(-1).float().mean()) - (1 / 4 + 1 / 2 / 16)) < 0.02
    assert abs(float((ranks == 1).all(-1).float().mean()) - (1 / 4 + 1 / 2 / 16)) < 0.02
    assert ranks.min() == 1


def test_dylora_draws_one_uniform_rank_a_step() -> None:
    policy = policies.load("dylora")(MODULES, 8, seed=1)
    drawn = [policy.spectrum(s, [0, 1]).sum(-1) for s in range(800)]
    assert all((r[:, 0] == r[0, 0]).all() and (r[:, 1] == r[0, 0]).all() for r in drawn)
    share = np.bincount([int(r[0, 0]) for r in drawn], minlength=9)[1:] / 800
    assert abs(share - 1 / 8).max() < 0.04


def test_nls_shares_a_rank_in_each_group() -> None:
    modules = {
        f"l.{i}.{n}": (32, 32)
        for i in range(2)
        for n in ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj")
    }
    policy = policies.load("nls")(modules, 8, seed=1)
    assert policy.groups == [0, 0, 0, 1, 2, 2, 3, 3, 3, 4, 5, 5]  # type: ignore[attr-defined]
    ranks = torch.stack([policy.spectrum(s, [0]).sum(-1)[0] for s in range(60)])
    assert (ranks[:, 0] == ranks[:, 1]).all()
    assert (ranks[:, 0] != ranks[:, 3]).any()
    assert set(ranks.flatten().tolist()) == {1.0, 2.0, 4.0, 8.0}
    assert set(policy.median().values()) == {4}  # type: ignore[attr-defined]


def test_maestro_truncates_one_module_and_visits_all_pairs() -> None:
    policy = policies.load("maestro")({"a": (32, 32), "b": (32, 2)}, 4, seed=1)
    ranks = torch.stack([policy.spectrum(s, [0]).sum(-1)[0] for s in range(3000)])
    share = np.bincount(ranks[:, 0].int().numpy(), minlength=5)[1:4] / 3000
    assert abs(share - 1 / 6).max() < 0.03, "6 live pairs, 4 of them in a"
    assert abs(float((ranks[:, 1] == 1).float().mean()) - 1 / 6) < 0.03


def test_the_proximal_map_is_the_closed_form_and_the_official_one_has_its_dead_zone() -> None:
    g = torch.tensor([-0.35, -0.2, -0.15, -0.1, -0.05, 0.0, 0.05, 0.1, 0.15, 0.2, 0.25], dtype=torch.float64)
    grid = torch.linspace(-1, 1, 400_001, dtype=torch.float64)
    best = torch.stack([grid[(0.5 * (grid - v) ** 2 + 0.1 * grid.abs()).argmin()] for v in g])
    torch.testing.assert_close(soft_threshold(g, 0.1), best, atol=1e-5, rtol=0)
    assert float(official_threshold(torch.tensor([0.15]), 0.1)) == 0, "a true soft threshold gives 0.05"
    kept = official_threshold(torch.tensor([0.1, 0.25, -0.25, 0.19]), 0.1)
    torch.testing.assert_close(kept, torch.tensor([0.1, 0.15, -0.15, 0.0]))


def test_adalora_scores_are_pefts() -> None:
    """PEFT's own allocator and this policy see the same weights and gradients for three steps."""
    from peft.tuners.adalora.layer import RankAllocator

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 8))
    config = peft.AdaLoraConfig(target_modules=["0", "2"], init_r=4, target_r=2, total_step=10, tinit=1, tfinal=1)
    theirs = peft.get_peft_model(model, config)
    allocator = RankAllocator(theirs.base_model, theirs.peft_config["default"], "default")
    modules = {"0": (10, 12), "2": (8, 10)}
    ours = policies.load("adalora")(modules, 4)
    plain = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 8))
    net = Elastic(plain, {n: LoRA(*s, 4) for n, s in modules.items()})
    for step in range(3):
        g = torch.Generator().manual_seed(step)
        for (name, adapter), place in zip(net.items(), range(2), strict=True):
            layer = theirs.base_model.model.get_submodule(name)
            sizes = {"E": (4, 1), "A": (4, adapter.in_features), "B": (adapter.out_features, 4)}
            values = {k: torch.randn(s, generator=g) for k, s in sizes.items()}
            slopes = {k: torch.randn(v.shape, generator=g) for k, v in values.items()}
            for key, p in (("E", layer.lora_E), ("A", layer.lora_A), ("B", layer.lora_B)):
                p["default"].data.copy_(values[key])
                p["default"].grad = slopes[key]
            assert isinstance(adapter, LoRA)
            adapter.A.data.copy_(values["A"])
            adapter.B.data.copy_(values["B"])
            adapter.A.grad, adapter.B.grad = slopes["A"], slopes["B"]
            ours.gates.data[place] = values["E"][:, 0]  # type: ignore[attr-defined]
            if place == 0:
                gradient = torch.zeros(2, 4)
            gradient[place] = slopes["E"][:, 0]
        allocator.update_ipt(theirs.base_model)
        scores = ours.score(net, gradient)  # type: ignore[attr-defined]
    for place, name in enumerate(modules):
        key = f"model.{name}.lora_%s.default"
        wanted = allocator._element_score(key % "E")[:, 0] + allocator._element_score(key % "A").mean(1)
        wanted = wanted + allocator._element_score(key % "B").mean(0)
        torch.testing.assert_close(scores[place], wanted)


def test_gates_learn_on_validation_batches(tiny: Make) -> None:
    """They part from each other, and the budget penalty pulls them down."""
    _, policy = trained(tiny, "diffora", 40)
    assert policy.bilevel
    gates = policy.weights().detach()[:, 0]  # type: ignore[attr-defined]
    assert gates.std() > 0
    assert float((gates * policy.prices).sum() / policy.prices.sum()) < 0.75, "the budget penalty pulls them down"


def test_sora_traces_a_whole_curve_in_one_chain(tiny: Make) -> None:
    net = elastic(without_dropout(tiny("bert")), "lora_ranks", r_max=4)
    policy = policies.load("sora")(net.shapes, 4, seed=1)
    live = []

    def watch(done: int) -> bool:
        live.append(int((policy.support(net) != 0).sum()))
        return True

    train(net, batches, loss, TrainPlan(80, 1e-2, decay=False), policy=policy, after=watch)
    assert live[39] == 48
    assert live[-1] < 0.3 * 48
    assert len(set(live)) >= 6


def test_modules_left_out_share_the_best_component(tiny: Make) -> None:
    net, policy = trained(tiny, "lora_drop")
    policy.observe(net, [batches(5)[0]])  # type: ignore[attr-defined]
    home = policy.factors(net, 0.5 * policy.full)
    shared = [n for n, (A, _) in home.items() if len(A) == 1]
    assert 0 < len(shared) < len(home) == len(net.names)
    by_shape: dict[tuple[int, int], list[str]] = {}
    for n in shared:
        by_shape.setdefault(net.shapes[n], []).append(n)
    for names in by_shape.values():
        products = [net.gathered(policy.held())[n] for n in names]
        mean = torch.stack([B @ A for A, B in products]).mean(0)
        U, S, V = torch.linalg.svd(mean)
        best = S[0] * U[:, :1] @ V[:1]
        for n in names:
            torch.testing.assert_close(home[n][1] @ home[n][0], best, atol=1e-6, rtol=1e-4)


def test_the_falling_budget_ends_at_its_least() -> None:
    found = [falling_budget(s, 100, 640.0) for s in range(100)]
    assert found[49] == 640
    assert found[-1] == pytest.approx(10)
    assert all(a >= b for a, b in pairwise(found))


def test_within_budget_keeps_the_best_that_fit() -> None:
    scores = torch.tensor([[3.0, 1.0], [2.0, 0.5]])
    kept = within_budget(scores, torch.ones(2, 2), torch.tensor([5.0, 2.0]), 9.0)
    assert torch.equal(kept, torch.tensor([[1.0, 0.0], [1.0, 1.0]]))


def test_counter_numbers_are_uniform_and_independent() -> None:
    u = counter_uniform(7, np.arange(400)[:, None], np.arange(400)[None])
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 0.005
    assert abs(np.corrcoef(u[:, 0], u[:, 1])[0, 1]) < 0.15
    assert abs(np.corrcoef(u[0], u[1])[0, 1]) < 0.15


def test_bad_arguments_are_told() -> None:
    with pytest.raises(ValueError, match=r"no policy 'mixt'; did you mean mixed\? there are: "):
        policies.load("mixt")
    with pytest.raises(ValueError, match=r"policy dylora has no variant 'frozn'; there are: dylora:frozen"):
        policies.load("dylora:frozn")
    with pytest.raises(ValueError, match=r"r_max 0 must be at least 1"):
        policies.load("mixed")(MODULES, 0)
    with pytest.raises(ValueError, match=r"ranks \[4, 16\] must lie between 0 and r_max = 8"):
        policies.load("mixed")(MODULES, 8, ranks=[4, 16])
