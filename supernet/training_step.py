"""The losses of one training step: on the training batch, in parts and over processes, and on a validation batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archrank.supernet.bilevel import unrolled_gradient
from archrank.supernet.distributed import my_rows, sum_gradients, sum_over_processes
from archrank.supernet.net import Elastic
from archrank.supernet.policies._gates import Gated
from archrank.supernet.policies.base import Policy, counter_uniform
from archrank.supernet.tasks import inputs_of

__all__ = ["Batches", "LossFunction", "TrainingStep", "seed_step"]

Batches = Callable[[int], tuple[Mapping[str, Tensor], NDArray[np.int64]]]
"""step -> (batch with labels, the global sample index of each row)."""

LossFunction = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""(logits, batch) -> mean loss over the rows, a scalar."""


def seed_step(seed: int, step: int) -> None:
    """The generators as every pass of a step finds them: two passes of it have the same dropout masks."""
    torch.manual_seed(int(counter_uniform(seed, step, 7) * 2**53))


@dataclass(frozen=True)
class TrainingStep:
    """What a net loses at a step under a policy (None: all components, nothing added)."""

    net: Elastic
    loss_function: LossFunction
    policy: Policy | None
    accumulate: int
    seed: int

    @property
    def device(self) -> torch.device:
        """The base's."""
        return next(self.net.base.parameters()).device

    def _parts(self, batch: Mapping[str, Tensor], index: NDArray[np.int64], step: int) -> Iterator[tuple[Tensor, bool]]:
        """(a part's share of the mean loss, whether others of this process follow)."""
        policy, device, rows = self.policy, self.device, len(index)
        spectrum = None if policy is None else policy.spectrum(step, index).to(device)
        mask = None if policy is None else policy.gradient_mask(step, index)
        mask = None if mask is None else mask.to(device)
        first, last = my_rows(rows)
        for part in np.array_split(np.arange(first, last), min(self.accumulate, max(1, last - first))):
            if not len(part):
                continue
            low, high = int(part[0]), int(part[-1]) + 1
            rows_of = {key: value[low:high].to(device) for key, value in batch.items()}
            c, w = (None if t is None else t[low:high] for t in (spectrum, mask))
            outputs = self.net(spectrum=c, mask=w, **inputs_of(rows_of))
            loss = self.loss_function(outputs.logits, rows_of) * ((high - low) / rows)
            # gates stand in every part's graph
            yield loss, high < last and spectrum is not None and spectrum.requires_grad

    def backward(self, batch: Mapping[str, Tensor], index: NDArray[np.int64], step: int) -> Tensor:
        """Adds the gradient of the mean loss and of the policy's penalty; returns the loss."""
        total = torch.zeros((), device=self.device)
        for loss, more in self._parts(batch, index, step):
            loss.backward(retain_graph=more)  # type: ignore[no-untyped-call]
            total = total + loss.detach()
        policy = self.policy
        gates = () if policy is None else policy.learnt()
        sum_gradients([*(p for p in self.net.parameters() if p.requires_grad), *gates])
        total = sum_over_processes(total)
        penalty = None if policy is None else policy.penalty(self.net, step)
        if penalty is not None:
            penalty.to(self.device).backward()  # type: ignore[no-untyped-call]
        return total

    def learn_gates(
        self, batch: Mapping[str, Tensor], index: NDArray[np.int64], step: int, store: Sequence[Tensor] = ()
    ) -> Sequence[Tensor | None]:
        """The gates' gradient on a validation batch, at the store as it is; returns the store's."""
        assert self.policy is not None
        moved = {key: value.to(self.device) for key, value in batch.items()}
        outputs = self.net(spectrum=self.policy.spectrum(step, index).to(self.device), **inputs_of(moved))
        loss = self.loss_function(outputs.logits, moved)
        return self.policy.gate_gradients(loss, step, store)

    def learn_gates_unrolled(
        self,
        batch: Mapping[str, Tensor],
        index: NDArray[np.int64],
        step: int,
        validation: Batches,
        store: Sequence[Tensor],
        rate: float,
    ) -> None:
        """The same through one unrolled step of the store; the store's gradients on the training batch are there."""
        gated, (rows, places) = self.policy, validation(step)
        assert isinstance(gated, Gated)

        def upper() -> tuple[Tensor, Sequence[Tensor | None]]:
            found = self.learn_gates(rows, places, step, store)
            assert gated.gates.grad is not None
            return gated.gates.grad, found

        def lower() -> Tensor:
            seed_step(self.seed, step)
            total = torch.zeros_like(gated.gates)
            for loss, more in self._parts(batch, index, step):
                total += torch.autograd.grad(loss, gated.gates, retain_graph=more)[0]
            return sum_over_processes(total)

        gated.gates.grad = unrolled_gradient(store, [p.grad for p in store], rate, upper, lower)
