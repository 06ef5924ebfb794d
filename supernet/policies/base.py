"""What a policy is, and counter-based random numbers for it.

A spectrum must be a function of (seed, step, global sample index) alone: then a resumed run, another batch split and
any number of devices draw the same ranks. A sequential generator cannot give that; a hash of the counters can.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from archrank.supernet.policies._schedule import LEAST, falling_budget

if TYPE_CHECKING:
    from archrank.supernet.net import Elastic

__all__ = ["Policy", "PolicyError", "counter_uniform", "sizes_of", "within_budget"]

SUPERNET_RUNS = 2.0
"""Length of a supernet's training in full fine-tunes. The pilot advised 3 or more; at equal total steps, 2 and longer
finalists were measured to be better spent (docs/supernet.md).
"""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection whose output bits depend on all
    input bits.
    """
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def counter_uniform(*counters: ArrayLike) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), one for each tuple of (broadcast) non-negative integer counters, independent of any
    state.
    """
    state = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for counter in counters:
            state = _mix((state + _GOLDEN) ^ _mix(np.asarray(counter, dtype=np.uint64) * _GOLDEN + _GOLDEN))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


class PolicyError(ValueError):
    """A name that no file of this folder has, or a policy that does not suit a space."""


class Policy(ABC):
    """Chooses the rank spectrum of each sample, and what becomes of the store.

    modules: {name: (out_features, in_features)}, the adapted layers in model order; `r_max`: components held a module;
    `ranks`: the ranks to draw from (default: 0 and the powers of two up to r_max, with r_max itself).

    nested: every prefix is trained, so that the store can be sliced as it stands; others are brought to canonical
    form after training. bilevel: gates learn on validation batches, second_order: through an unrolled step of the
    store. traces: one training yields a front by itself. switches_modules: decides which modules are adapted, and
    nothing else; draws_zero: a module left alone is one of its choices. runs: length of its training in full
    fine-tunes; tune_share: length of a finalist's fine-tune in the same unit; teaches: what it trains is the whole
    adapter itself, whose answers a finalist may learn.
    """

    nested = True
    bilevel = False
    second_order = False
    traces = False
    switches_modules = False
    draws_zero = True
    runs: float = SUPERNET_RUNS
    tune_share: float = 1.0
    teaches = False

    def __init__(
        self, modules: Mapping[str, tuple[int, int]], r_max: int, seed: int = 0, ranks: Sequence[int] | None = None
    ) -> None:
        if r_max < 1:
            raise ValueError(f"r_max {r_max} must be at least 1")
        self.modules, self.r_max, self.seed = dict(modules), r_max, seed
        powers = [2**i for i in range(r_max.bit_length()) if 2**i < r_max]
        self.ranks = np.asarray(sorted(set(ranks)) if ranks is not None else [0, *powers, r_max])
        if self.ranks.min() < 0 or self.ranks.max() > r_max:
            raise ValueError(f"ranks {self.ranks.tolist()} must lie between 0 and r_max = {r_max}")
        self.limits = np.asarray([min(r_max, *shape) for shape in self.modules.values()])
        self.prices = torch.tensor([float(sum(shape)) for shape in self.modules.values()])
        self.steps = 0

    @abstractmethod
    def spectrum(self, step: int, samples: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """C `(samples, modules, r_max)`, fp32, a function of (seed, step, sample index) and of the gates alone."""

    def gradient_mask(self, step: int, samples: Sequence[int] | NDArray[np.int64]) -> Tensor | None:
        """W `(samples, modules, r_max)` of 0 and 1: components whose A and B take the sample's gradient; None: all."""
        return None

    def prepare(self, net: Elastic, steps: int) -> None:
        """Before step 0 of a training of `steps`: sets the horizon of schedules."""
        self.steps = steps

    def state(self) -> dict[str, Tensor]:
        """Gates, moments, masks: changed in place alone, saved and restored with a checkpoint."""
        return {}

    def learnt(self) -> Sequence[Tensor]:
        """Gates whose gradient the training loss gives."""
        return ()

    def penalty(self, net: Elastic, step: int) -> Tensor | None:
        """What is added to the training loss."""
        return None

    def observe(self, net: Elastic, batches: Sequence[Mapping[str, Tensor]]) -> None:  # noqa: B027  # most need none
        """Looks at some batches after training, before the support is chosen."""

    @property
    def collapsed(self) -> int | None:
        """Steps done when its gates would all have become 0; None where they never would, or there are none."""
        return None

    @classmethod
    def trains_prefixes(cls) -> bool:
        """Whether it draws ranks and nothing else: then any family of adapters serves it."""
        return cls.nested and not cls.traces

    @property
    def passes(self) -> int:
        """Forward and backward passes of a training step: the training batch, of a bilevel policy the validation batch,
        to second order the training batch twice more.
        """
        return 1 + self.bilevel + 2 * self.second_order

    def gate_gradients(self, loss: Tensor, step: int, store: Sequence[Tensor] = ()) -> Sequence[Tensor | None]:
        """Of a validation loss, for a bilevel policy: kept with the gates; those of `store` are returned."""
        return [None] * len(store)

    def after_step(self, net: Elastic, step: int, lr: float) -> None:  # noqa: B027  # most need nothing
        """After the optimizer's step, while the gradients are still there."""

    def support(self, net: Elastic, budget: float | None = None) -> Tensor:
        """`(modules, r_max)`: the spectrum that is kept, of at most `budget` adapter parameters.

        Default: all components; under a budget those with the largest ‖b_j‖ ‖a_j‖ for their price, each module's a
        prefix.
        """
        held = self.held()
        if budget is None:
            return held
        sizes = sizes_of(net, self.r_max)
        falling = sizes.flip(1).cummax(1).values.flip(1)  # a component counts at least as much as those behind it
        return held * within_budget(falling / self.prices[:, None], held, self.prices, budget)

    def factors(self, net: Elastic, budget: float | None = None) -> dict[str, tuple[Tensor, Tensor]]:
        """{module: (A (r, in), B (out, r))} of the support, gates and scale folded into B: what goes home."""
        return net.gathered(self.support(net, budget))

    def traced(self, net: Elastic, step: int) -> dict[str, tuple[Tensor, Tensor]]:
        """The point of a traced front after a step: `factors` under that step's budget."""
        return self.factors(net, self.budget(step))

    def budget(self, step: int) -> float:
        """Adapter parameters that a tracing policy leaves at a step."""
        return falling_budget(step, self.steps, self.full, self.least)

    @property
    def least(self) -> float:
        """Adapter parameters that a chain ends with."""
        return LEAST * self.full

    def held(self) -> Tensor:
        """`(modules, r_max)`: ones up to each module's limit."""
        return (torch.arange(self.r_max) < torch.from_numpy(self.limits)[:, None]).float()

    @property
    def full(self) -> float:
        """Adapter parameters of the whole store."""
        return float((self.held().sum(1) * self.prices).sum())

    def prefixes(self, ranks: NDArray[np.int64]) -> Tensor:
        """Ones up to each rank of `ranks` `(samples, modules)`, each cut to its module's limit."""
        r = torch.from_numpy(np.minimum(ranks, self.limits))
        return (torch.arange(self.r_max) < r[..., None]).float()


def sizes_of(net: Elastic, r_max: int) -> Tensor:
    """`(modules, r_max)` of ‖b_j‖ ‖a_j‖, 0 beyond a module's rank."""
    found = torch.zeros(len(net.names), r_max)
    for i, (_, adapter) in enumerate(net.items()):
        A, B = adapter.lora_factors()
        found[i, : len(A)] = (A.norm(dim=1) * B.norm(dim=0)).cpu()
    return found


def within_budget(scores: Tensor, held: Tensor, prices: Tensor, budget: float) -> Tensor:
    """0 and 1 `(modules, R)`: the components of `held` with the highest scores whose prices fit into `budget`.

    What does not fit is passed over; equal scores go in the order of modules and components.
    """
    kept, left = torch.zeros_like(scores), budget
    order = torch.sort(scores.flatten(), descending=True, stable=True).indices
    width = scores.shape[1]
    for place in order.tolist():
        i, j = divmod(place, width)
        if held[i, j] != 0 and float(prices[i]) <= left:
            kept[i, j] = 1
            left -= float(prices[i])
    return kept
