"""One training loop for everything that a run trains: the supernet, a head, a candidate.

What happens at step t is a function of (seed, t) alone: the data order, the ranks, the dropout masks (the generator is
seeded anew for each step, inside a fork that leaves the caller's state alone). So a checkpoint needs the parameters,
Adam's moments and one integer, and a resumed run repeats the uninterrupted one bit for bit on the same machine with
the same number of threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from archrank.supernet.checkpoint import Checkpoint
from archrank.supernet.lazy_adamw import RowLazyAdamW
from archrank.supernet.net import Elastic
from archrank.supernet.policies.base import Policy
from archrank.supernet.training_step import Batches, LossFunction, TrainingStep, seed_step

__all__ = [
    "LOOK_EVERY",
    "Batches",
    "LossFunction",
    "NonFiniteLoss",
    "Tick",
    "TrainPlan",
    "can_fuse",
    "descend",
    "only",
    "train",
]

Tick = Callable[[int, float], None]
"""(steps done, last loss): progress, and the safe point at which an interruption may be raised."""

LOOK_EVERY = 10  # steps; reading the loss waits for the device
LOOK_SECONDS = 1.0  # slower steps are looked at one by one: what stops a training need not wait for ten of them


class NonFiniteLoss(ArithmeticError):
    """The loss became NaN or infinite; `.step` says when."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"the loss became {loss} at step {step}; a smaller --lr is the usual remedy")
        self.step = step


@dataclass(frozen=True, slots=True)
class TrainPlan:
    """AdamW with linear warm-up and linear decay to zero.

    lr(t) = lr · min(t / w, (T − t) / (T − w)), w = warmup · T; without `decay` it stays at lr after the warm-up, for
    trainings that are read on the way.
    """

    steps: int
    lr: float
    seed: int = 0
    warmup: float = 0.06
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    accumulate: int = 1
    decay: bool = True

    def rate(self, step: int) -> float:
        """The learning rate of step 0 … steps − 1."""
        warm = max(1, math.ceil(self.warmup * self.steps))
        if step < warm:
            return self.lr * (step + 1) / warm
        return self.lr * (self.steps - step) / max(1, self.steps - warm) if self.decay else self.lr


def train(
    net: Elastic,
    batches: Batches,
    loss_function: LossFunction,
    plan: TrainPlan,
    *,
    policy: Policy | None = None,
    validation: Batches | None = None,
    parameters: Sequence[nn.Parameter] | None = None,
    checkpoint: Checkpoint | None = None,
    tick: Tick | None = None,
    after: Callable[[int], bool] | None = None,
) -> float:
    """Trains in place; returns the seconds spent, those before an interruption included.

    policy: draws the spectrum of each sample (None: all components), masks gradients and has its say after each step;
    validation: batches that a bilevel policy's gates learn on; parameters: default the adapters; everything else is
    frozen meanwhile. after: (steps done) -> whether to go on. Raises NonFiniteLoss; whatever `tick` raises passes
    through after a checkpoint was written.
    """
    trained = list(net.adapters.parameters() if parameters is None else parameters)
    if policy is not None:
        policy.prepare(net, plan.steps)
    masked = policy is not None and policy.gradient_mask(0, [0]) is not None
    optimizer = RowLazyAdamW(net, plan.lr, weight_decay=plan.weight_decay) if masked else None

    at = TrainingStep(net, loss_function, policy, plan.accumulate, plan.seed)

    def gradient(step: int) -> Tensor:
        batch, index = batches(step)
        loss = at.backward(batch, index, step)
        if optimizer is not None:
            assert policy is not None
            optimizer.touch(policy.gradient_mask(step, index))
        if policy is not None and policy.second_order and validation is not None:
            at.learn_gates_unrolled(batch, index, step, validation, trained, plan.rate(step))
        return loss

    def stepped(step: int) -> None:
        if policy is not None:
            if policy.bilevel and not policy.second_order and validation is not None:
                at.learn_gates(*validation(step), step)
            policy.after_step(net, step, plan.rate(step))

    net.train()
    net.states.clear()  # of no use under weights that move
    with only(net, trained):
        seconds = descend(
            trained,
            plan,
            gradient,
            fused=can_fuse(trained),
            optimizer=optimizer,
            extra={} if policy is None else policy.state(),
            checkpoint=checkpoint,
            tick=tick,
            stepped=stepped,
            after=after,
        )
    net.eval()
    return seconds


def descend(
    trained: Sequence[nn.Parameter],
    plan: TrainPlan,
    gradient: Callable[[int], Tensor],
    *,
    fused: bool = False,
    optimizer: RowLazyAdamW | None = None,
    extra: Mapping[str, Tensor] | None = None,
    checkpoint: Checkpoint | None = None,
    tick: Tick | None = None,
    stepped: Callable[[int], None] | None = None,
    after: Callable[[int], bool] | None = None,
) -> float:
    """AdamW over the steps of `plan` that are not done yet; returns the seconds spent, those before an interruption
    included.

    gradient: adds a step's gradient to `trained` and returns its loss; random numbers in it are a function of
    (plan.seed, step). optimizer: instead of torch's; extra: tensors that a checkpoint holds too; stepped: called with
    the step after the optimiser, gradients still there; after: (steps done) -> whether to go on. Raises NonFiniteLoss;
    whatever `tick` raises passes through after a checkpoint was written.
    """
    device = trained[0].device if trained else torch.device("cpu")
    rule = optimizer or torch.optim.AdamW(trained, lr=plan.lr, weight_decay=plan.weight_decay, fused=fused)
    kept = dict(extra or {})
    first, before = checkpoint.load(trained, rule, kept) if checkpoint else (0, 0.0)
    start = saved = looked = time.monotonic()
    with _forked(device):
        for step in range(first, plan.steps):
            seed_step(plan.seed, step)
            for group in rule.param_groups:
                group["lr"] = plan.rate(step)
            loss = gradient(step)
            torch.nn.utils.clip_grad_norm_(trained, plan.max_grad_norm)
            rule.step()
            if stepped is not None:
                stepped(step)
            rule.zero_grad(set_to_none=True)
            done, now = step + 1, time.monotonic()
            if after is not None and not after(done):
                break
            due = done % LOOK_EVERY == 0 or done == plan.steps
            if due or now - looked >= LOOK_SECONDS:
                value, looked = float(loss), now
                if due and not math.isfinite(value):  # at the same step however fast the machine is
                    raise NonFiniteLoss(done, value)
                if tick:
                    try:
                        tick(done, value)
                    except BaseException:
                        if checkpoint:
                            checkpoint.save(done, trained, rule, before + now - start, kept)
                        raise
            if checkpoint and now - saved >= checkpoint.every_seconds and done < plan.steps:
                checkpoint.save(done, trained, rule, before + now - start, kept)
                saved = time.monotonic()
    return before + time.monotonic() - start


def can_fuse(parameters: Sequence[nn.Parameter]) -> bool:
    """Whether AdamW may run as one kernel over them: fp32 alone."""
    return bool(parameters) and all(p.dtype == torch.float32 for p in parameters)


@contextmanager
def only(net: nn.Module, trained: Sequence[nn.Parameter]) -> Iterator[None]:
    """Gradients for `trained` alone; every flag is put back afterwards."""
    wanted = {id(p) for p in trained}
    flags = [(p, p.requires_grad) for p in net.parameters()]
    try:
        for p, _ in flags:
            p.requires_grad_(id(p) in wanted)
        yield
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)
            p.grad = None


@contextmanager
def _forked(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
