"""Many independent adapters over one frozen base in one pass: member p's rows lie below member p − 1's.

    y = base(x) + (x A_pᵀ) B_pᵀ for the rows of member p: two batched products a module, padded to the largest rank

A padded component is zero in A and B, so its gradient is zero and it stays zero. All members' parameters lie in one
vector, and so do their gradients: one AdamW step serves the whole population. The rows of one member never meet
another's, and each gradient is clipped by its own norm, so each trains as it would alone, to round-off.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from archrank.grammar import nearest
from archrank.supernet.adapters.lora import LoRA
from archrank.supernet.chain import without_cache
from archrank.supernet.checkpoint import Checkpoint
from archrank.supernet.modules import adaptable
from archrank.supernet.subnetwork import SubNetwork
from archrank.supernet.tasks import inputs_of
from archrank.supernet.training import LOOK_EVERY, LossFunction, Tick, TrainPlan

__all__ = ["Members", "PopulationError", "train_population"]

STACK_ROWS = {"cpu": 1 << 14, "cuda": 1 << 18}
"""Elements of hidden state (tokens) of one stacked forward: more members are trained one part after the other."""


class PopulationError(ValueError):
    """A population that cannot be trained as asked."""


def train_population(
    base_model: nn.Module,
    configs: Sequence[Mapping[str, int]],
    data: Sequence[Mapping[str, Tensor]],
    steps: int,
    seeds: Sequence[int],
    *,
    lr: float = 1e-3,
    max_grad_norm: float = 1.0,
) -> list[SubNetwork]:
    """A LoRA of the ranks `configs[p]` trained from the start `seeds[p]`, for each p; each as if trained alone.

    Step t takes the batch data[t mod len(data)], for all; the loss is the base's own (a mean over rows or tokens);
    AdamW with TrainPlan's warm-up and decay, the gradient of each member clipped by its own norm. The base, its
    dropouts included, is in evaluation mode and stays untouched. Errors: PopulationError for unequal numbers of
    configurations and seeds, modules or ranks that the base does not have, data without rows, or members that diverge.
    """
    if len(configs) != len(seeds):
        raise PopulationError(f"{len(configs)} configurations and {len(seeds)} seeds: give one seed for each")
    if steps < 1 or not data:
        raise PopulationError(f"{steps} steps over {len(data)} batches: at least 1 of each")
    for i, batch in enumerate(data):
        if not len(batch.get("labels", ())):
            raise PopulationError(f"batch {i} has {', '.join(sorted(batch)) or 'nothing'}, and no labels in it")
    shapes = adaptable(base_model)
    checked = [_checked(config, shapes) for config in configs]
    plan = TrainPlan(steps, lr, max_grad_norm=max_grad_norm)
    most = _stack(base_model, data)
    factors: list[dict[str, tuple[Tensor, Tensor]]] = []
    for low in range(0, len(checked), most):
        members = Members(base_model, checked[low : low + most], seeds[low : low + most])
        members.train(lambda step: data[step % len(data)], plan)
        if diverged := members.diverged():
            raise PopulationError(
                f"the weights of members {[low + p for p in diverged]} are no longer finite after {steps} steps at "
                f"lr {lr}; a smaller lr is the usual remedy"
            )
        factors += members.factors()
    return [SubNetwork(base_model, each) for each in factors]


class Members:
    """P adapters, stacked: A `(P, R, in)` and B `(P, out, R)` of every module, one after the other in `flat`."""

    def __init__(
        self,
        base: nn.Module,
        ranks: Sequence[Mapping[str, int]],
        seeds: Sequence[int] | None = None,
        start: Sequence[Mapping[str, tuple[Tensor, Tensor]]] | None = None,
    ) -> None:
        """From `seeds`, as LoRA starts (B zero), or from the factors `start` of each member."""
        shapes = adaptable(base)
        self.base, self.ranks = base, [dict(r) for r in ranks]
        self.device = next(base.parameters()).device
        self.tops = {n: top for n in shapes if (top := max((r.get(n, 0) for r in ranks), default=0))}
        width = sum(top * sum(shapes[n]) for n, top in self.tops.items())
        self.flat = torch.zeros(len(ranks) * width, device=self.device)
        self.gradient = torch.zeros_like(self.flat)
        self._gradients: list[Tensor] = []
        self.A: dict[str, Tensor] = {}
        self.B: dict[str, Tensor] = {}
        at = 0
        for name, top in self.tops.items():
            out, into = shapes[name]
            self.A[name] = self._leaf(at, top, into)
            self.B[name] = self._leaf(at + len(ranks) * top * into, out, top)
            at += len(ranks) * top * (into + out)
        for p, each in enumerate(start or ()):
            for name, (A, B) in each.items():
                self.A[name].data[p, : len(A)] = A
                self.B[name].data[p, :, : len(A)] = B
        for p, seed in enumerate(seeds or ()):
            generator = torch.Generator().manual_seed(seed)
            for name in self.tops:
                if rank := self.ranks[p].get(name, 0):
                    drawn = LoRA(*shapes[name], rank, generator=generator).A.detach()
                    self.A[name].data[p, :rank] = drawn.to(self.device)

    def _leaf(self, at: int, rows: int, columns: int) -> Tensor:
        """A leaf `(P, rows, columns)` whose values and gradient lie in the two vectors."""
        end = at + self.count * rows * columns
        leaf = self.flat[at:end].view(-1, rows, columns).detach().requires_grad_()
        leaf.grad = self.gradient[at:end].view(-1, rows, columns)
        self._gradients.append(leaf.grad.view(self.count, -1))
        return leaf

    @property
    def count(self) -> int:
        """P."""
        return len(self.ranks)

    def train(
        self,
        batches: Callable[[int], Mapping[str, Tensor]],
        plan: TrainPlan,
        *,
        loss_function: LossFunction | None = None,
        checkpoint: Checkpoint | None = None,
        tick: Tick | None = None,
    ) -> float:
        """Trains in place on what `batches` gives every member at a step; returns the seconds spent, those before an
        interruption included.

        loss_function: (logits, batch) -> a mean over rows (None: the base's own loss). Whatever `tick` raises passes
        through after a checkpoint was written; at the end one is written too.
        """
        optimizer = torch.optim.AdamW([self.flat], lr=plan.lr, weight_decay=plan.weight_decay, fused=True)
        first, before = checkpoint.load([self.flat], optimizer) if checkpoint else (0, 0.0)
        self.flat.grad = self.gradient
        began = saved = time.monotonic()
        weight = float(self.count) if loss_function else None

        def save(done: int) -> None:
            if checkpoint:
                checkpoint.save(done, [self.flat], optimizer, before + time.monotonic() - began)

        with self._attached(), torch.enable_grad():
            for step in range(first, plan.steps if self.tops else 0):
                optimizer.param_groups[0]["lr"] = plan.rate(step)
                batch = {k: v.to(self.device) for k, v in batches(step).items()}
                if weight is None:
                    weight = self._weight_of_loss(batch)
                loss = self._loss(self.stacked(batch), loss_function) * weight
                loss.backward()  # type: ignore[no-untyped-call]
                self._clip(plan.max_grad_norm)
                optimizer.step()
                self.gradient.zero_()
                done = step + 1
                if tick and (done % LOOK_EVERY == 0 or done == plan.steps):
                    try:
                        tick(done, float(loss.detach()) / self.count)
                    except BaseException:
                        save(done)
                        raise
                if done == plan.steps or (checkpoint and time.monotonic() - saved >= checkpoint.every_seconds):
                    save(done)
                    saved = time.monotonic()
        self.flat.grad = None
        return before + time.monotonic() - began

    def _loss(self, batch: Mapping[str, Tensor], loss_function: LossFunction | None) -> Tensor:
        if loss_function is None:
            own: Tensor = getattr(self.base(**batch), "loss")  # noqa: B009
            return own
        answer = self.base(**inputs_of(batch))
        return loss_function(answer.logits, batch)

    def stacked(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same batch for each member."""
        return {k: v.repeat(self.count, *[1] * (v.dim() - 1)) for k, v in batch.items()}

    def factors(self) -> list[dict[str, tuple[Tensor, Tensor]]]:
        """{module: (A (r, in), B (out, r))} of each member, copied, padding left out."""
        return [
            {
                n: (self.A[n].detach()[p, :r].clone(), self.B[n].detach()[p, :, :r].clone())
                for n, r in self.ranks[p].items()
                if r
            }
            for p in range(self.count)
        ]

    def diverged(self) -> list[int]:
        """The members with a weight that is NaN or infinite."""
        finite = torch.ones(self.count, dtype=torch.bool, device=self.device)
        for leaf in (*self.A.values(), *self.B.values()):
            finite &= torch.isfinite(leaf.detach()).flatten(1).all(1)
        return (~finite).nonzero().flatten().tolist()

    def _clip(self, most: float) -> None:
        """Each member's gradient to a norm of at most `most`, as clip_grad_norm_ does for one."""
        squares = torch.stack([g.square().sum(1) for g in self._gradients]).sum(0)
        scale = (most / (squares.sqrt() + 1e-6)).clamp(max=1.0)[:, None]
        for g in self._gradients:
            g.mul_(scale)

    def _weight_of_loss(self, batch: Mapping[str, Tensor]) -> float:
        """What turns the loss of stacked rows into Σ_p loss_p: P for a mean over rows, 1 for a sum.

        Told from the bare base: its losses of one copy and of P copies of the batch must be in that ratio.
        """
        with torch.no_grad(), self.detached():
            stacked = float(getattr(self.base(**self.stacked(batch)), "loss"))  # noqa: B009
            single = float(getattr(self.base(**batch), "loss"))  # noqa: B009
        for weight in (float(self.count), 1.0):
            if math.isclose(stacked * weight, single * self.count, rel_tol=1e-3, abs_tol=1e-6):
                return weight
        raise PopulationError(
            f"the base's loss is {single:.6g} for a batch and {stacked:.6g} for {self.count} copies of it: neither a "
            "mean nor a sum over rows, so members cannot be trained together; train them one by one"
        )

    # -- the base under all members ---------------------------------------------------------------------------------

    @contextmanager
    def _attached(self) -> Iterator[None]:
        modes = [(m, m.training) for m in self.base.modules() if m.training]
        flags = [(p, p.requires_grad) for p in self.base.parameters()]
        self._on = True
        handles = [self.base.get_submodule(n).register_forward_hook(self._branch(n)) for n in self.tops]
        try:
            self.base.eval()
            for p, _ in flags:
                p.requires_grad_(False)
            with without_cache(self.base):
                yield
        finally:
            for handle in handles:
                handle.remove()
            for p, flag in flags:
                p.requires_grad_(flag)
            for module, mode in modes:
                module.training = mode

    @contextmanager
    def detached(self) -> Iterator[None]:
        """The bare base meanwhile."""
        self._on = False
        try:
            yield
        finally:
            self._on = True

    def _branch(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        A, B, count = self.A[name], self.B[name], self.count

        def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if not self._on:
                return output
            x = args[0]
            if x.dim() < 2 or x.shape[0] % count:
                raise PopulationError(
                    f"{name} met an input of {x.shape[0]} rows for {count} members: it does not see the batch as its "
                    "first dimension; leave it out of the configurations"
                )
            h = torch.bmm(x.reshape(count, -1, x.shape[-1]).to(A.dtype), A.transpose(1, 2))
            if output.dtype == A.dtype:
                return torch.baddbmm(output.view(count, -1, output.shape[-1]), h, B.transpose(1, 2)).view_as(output)
            added: Tensor = output + torch.bmm(h, B.transpose(1, 2)).view_as(output).to(output.dtype)
            return added

        return add


def _checked(config: Mapping[str, int], shapes: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    for name, rank in config.items():
        if name not in shapes:
            near = ", ".join(nearest(name, list(shapes))) or "one of the base's linear layers"
            raise PopulationError(f"the base has no linear layer {name!r}; did you mean {near}?")
        if not 0 <= rank <= min(shapes[name]):
            raise PopulationError(f"rank {rank} of {name} is outside 0 … min(in, out) = {min(shapes[name])}")
    return {name: config[name] for name in shapes if config.get(name, 0)}


def _stack(base: nn.Module, data: Sequence[Mapping[str, Tensor]]) -> int:
    """How many members one forward may hold."""
    limit = STACK_ROWS.get(next(base.parameters()).device.type, STACK_ROWS["cpu"])
    tokens = max(max((v.shape[:2].numel() for v in b.values() if v.dim() == 2), default=len(b["labels"])) for b in data)
    return max(1, limit // max(1, tokens))
