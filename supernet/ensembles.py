"""Ensembles of sub-networks that share their shallow layers (NEAS: Chen et al., One-Shot Neural Ensemble Architecture
Search, CVPR 2021).

    logits = mean over k of member_k(trunk(x))

The trunk is the embeddings and the layers below `split` of the first member, held and run once; each member has its own
layers from `split` on and its own head. Trained on the sum of the members' losses, the trunk would see K gradients:
it is divided by K where the members branch off.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from archrank.supernet.elastic_encoder import ElasticEncoder, EncoderConfig
from archrank.supernet.net import ConfigurationError
from archrank.supernet.shared_trunk import divided, members_loss

__all__ = ["Ensemble", "ensemble"]


class _Held:
    """The hidden states at the split `(rows, tokens, hidden)`, for the length of one forward."""

    def __init__(self) -> None:
        self.states: Tensor | None = None


class _Recall(nn.Module):
    """Stands for a member's embeddings: answers the trunk's hidden states, whatever it is given."""

    def __init__(self, held: _Held) -> None:
        super().__init__()
        self.held = held

    def forward(self, *args: object, **inputs: object) -> Tensor:
        """The states that the trunk left."""
        assert self.held.states is not None
        return self.held.states


class Ensemble(nn.Module):
    """`members[0]` is whole, the others begin at the trunk's states; `coinciding`: pairs of members with the same
    layers from the split on.
    """

    def __init__(
        self, members: Sequence[nn.Module], blocks: nn.ModuleList, own: int, coinciding: Sequence[tuple[int, int]]
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.coinciding = tuple(coinciding)
        self._blocks, self._own, self._held = [blocks], own, _Held()  # a list: the first member registers them already
        for member in members[1:]:
            _root(member).embeddings = _Recall(self._held)

    def member_logits(self, **inputs: Tensor) -> list[Tensor]:
        """`(rows, classes)` of each member, the trunk run once."""
        if len(self.members) == 1:
            return [self.members[0](**inputs).logits]
        inputs = {k: v for k, v in inputs.items() if k != "labels"}
        held, blocks, many = self._held, self._blocks[0], len(self.members)

        def keep(states: Tensor) -> Tensor:
            held.states = divided(states, many)
            return held.states

        def after(module: nn.Module, args: tuple[Tensor, ...], output: Any) -> Any:
            return (keep(output[0]), *output[1:]) if isinstance(output, tuple) else keep(output)

        trunk = blocks[self._own - 1] if self._own else _root(self.members[0]).embeddings
        handle = trunk.register_forward_hook(after)
        try:
            return [member(**inputs).logits for member in self.members]
        finally:
            handle.remove()
            held.states = None

    def forward(self, **inputs: Tensor) -> Any:
        """A transformers output with the mean of the members' logits, and with `labels` the sum of their losses."""
        from transformers.modeling_outputs import SequenceClassifierOutput

        if len(self.members) == 1:
            return self.members[0](**inputs)
        logits = self.member_logits(**inputs)
        loss = None
        if "labels" in inputs:
            loss = members_loss([y.float() for y in logits], inputs["labels"])
        return SequenceClassifierOutput(loss=loss, logits=torch.stack(logits).mean(0))


def ensemble(net: ElasticEncoder, configs: Sequence[EncoderConfig], *, split: int) -> Ensemble:
    """An ordinary module of K members over an elastic encoder; one member is that sub-network's own module, exactly.

    split: number of the base's layers that all members share, 0 … all, as the first member has them (its dropped layers
    are dropped for all). ConfigurationError for no member, or a split out of range; members that coincide are named by
    a warning and in `.coinciding`.
    """
    depth = len(net.layers)
    if not configs:
        raise ConfigurationError("ensemble needs at least one member: ensemble(net, [d1, d2], split=…)")
    if isinstance(split, bool) or not isinstance(split, int) or not 0 <= split <= depth:
        raise ConfigurationError(f"split {split!r} is outside 0 … {depth}, the number of the base's layers")
    names = list(net.layers)
    choices = [net.choices(config) for config in configs]
    tails = [tuple(choice[name] for name in names[split:]) for choice in choices]
    same = [(i, j) for i, j in combinations(range(len(tails)), 2) if tails[i] == tails[j]]
    if same:
        told = ", ".join(f"{i} and {j}" for i, j in same)
        warnings.warn(f"members of the ensemble coincide from layer {split} on: {told}", stacklevel=2)
    list_name = names[0].rpartition(".")[0]
    first = copy.deepcopy(net.extract(configs[0]).module)
    members = [first]
    for choice in choices[1:]:
        below = dict.fromkeys(names[:split], type(choice[names[0]])(False))
        members.append(copy.deepcopy(net.extract({**choice, **below}).module))
    blocks = first.get_submodule(list_name)
    assert isinstance(blocks, nn.ModuleList)
    own = sum(choices[0][name].kept for name in names[:split])
    return Ensemble(members, blocks, own, same)


def _root(member: nn.Module) -> Any:
    """The part of a transformers model with its embeddings."""
    root = getattr(member, "base_model", member)
    if not isinstance(getattr(root, "embeddings", None), nn.Module):
        raise ConfigurationError(f"{type(member).__name__} has no module `embeddings`, where a trunk begins")
    return root
