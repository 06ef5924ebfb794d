"""Ensembles of sub-networks that share their shallow layers, as ordinary modules (NEAS: Chen et al., One-Shot Neural
Ensemble Architecture Search, CVPR 2021).

    logits = (1/K) Σ_k member_k(trunk(x))        loss = Σ_k CE(member_k, labels)        ∂loss/∂trunk divided by K

The trunk is the embeddings and the layers below `split` of the first member, held and run once; each member has its own
layers from `split` on and its own head. One member alone is that sub-network's module.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from torch import Tensor, nn, stack

from archrank.grammar import Derivation, EncoderLayer, EnsembleChoice, LayerChoice
from archrank.supernet.checkpoint import Checkpoint
from archrank.supernet.cut_network import AdaptedLinear
from archrank.supernet.elastic_encoder import ElasticEncoder, EncoderConfig
from archrank.supernet.ensemble_evaluator import PROJECTION, coinciding_message, entry_of, root_of
from archrank.supernet.export import Home
from archrank.supernet.net import ConfigurationError
from archrank.supernet.shared_trunk import divided, members_loss
from archrank.supernet.tasks import inputs_of
from archrank.supernet.training import Batches, Tick, TrainPlan, descend, only

__all__ = ["Ensemble", "ensemble", "fine_tune"]


class _Held:
    """The trunk's embeddings, and the hidden states at the split `(rows, tokens, hidden)` for the length of one
    forward; no module, so that nothing is registered twice.
    """

    def __init__(self, embeddings: nn.Module) -> None:
        self.embeddings = embeddings
        self.states: Tensor | None = None


class _Recall(nn.Module):
    """Stands for a member's embeddings: answers the trunk's hidden states, whatever it is given. Everything else that
    a model asks its embeddings (ViT: their dtype) the trunk's answer.
    """

    def __init__(self, held: _Held) -> None:
        super().__init__()
        self.held = held

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["held"].embeddings, name)

    def forward(self, *args: object, **inputs: object) -> Tensor:
        """The states that the trunk left."""
        assert self.held.states is not None
        return self.held.states


class Ensemble(nn.Module):
    """`members[0]` is whole; the others begin at the trunk's states, and hold neither embeddings nor trunk.

    blocks: the name of the list of layers in a member; layer: the sizes of one of the base, before it is cut; own: how
    many of the first member's layers belong to the trunk; coinciding: pairs of members with the same layers from the
    split on.
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        blocks: str,
        layer: EncoderLayer,
        own: int,
        coinciding: Sequence[tuple[int, int]] = (),
        home: Home | None = None,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.blocks, self.layer, self.own, self.coinciding = blocks, layer, own, tuple(coinciding)
        self.home = home or Home("")
        self._held = _Held(root_of(members[0]).embeddings)
        for member in members[1:]:
            root_of(member).embeddings = _Recall(self._held)
            if len(entry_of(member)) > 1:  # the trunk's states are projected already
                setattr(root_of(member), PROJECTION, nn.Identity())

    @property
    def config(self) -> Any:
        """The first member's transformers configuration."""
        return self.members[0].config

    @property
    def main_input_name(self) -> str:
        """`pixel_values` or `input_ids`."""
        return str(self.members[0].main_input_name)

    def member_logits(self, **inputs: Tensor) -> list[Tensor]:
        """`(rows, classes)` of each member, the trunk run once."""
        inputs = inputs_of(inputs)
        first, many = self.members[0], len(self.members)
        if many == 1:
            return [first(**inputs).logits]
        held, layers = self._held, first.get_submodule(self.blocks)
        assert isinstance(layers, nn.ModuleList)

        def keep(states: Tensor) -> Tensor:
            held.states = divided(states, many)
            return held.states

        def after(module: nn.Module, args: Any, output: Any) -> Any:
            return (keep(output[0]), *output[1:]) if isinstance(output, tuple) else keep(output)

        trunk = layers[self.own - 1] if self.own else entry_of(first)[-1]
        handle = trunk.register_forward_hook(after)
        try:
            return [member(**inputs).logits for member in self.members]
        finally:
            handle.remove()
            held.states = None

    def forward(self, **inputs: Tensor) -> Any:
        """A transformers output with the mean of the members' logits, and with `labels` the sum of their losses; a
        tuple with `return_dict=False`.
        """
        from transformers.modeling_outputs import SequenceClassifierOutput

        if len(self.members) == 1:
            return self.members[0](**inputs)
        as_dict = inputs.pop("return_dict", True)
        logits = self.member_logits(**inputs)
        loss = None
        if "labels" in inputs:
            loss = members_loss([y.float() for y in logits], inputs["labels"])
        told = SequenceClassifierOutput(loss=loss, logits=stack(logits).mean(0))
        return told if as_dict is not False else told.to_tuple()

    def adapters(self) -> list[nn.Parameter]:
        """A and B of the linear layers that carry an adapter beside them; [] once merged."""
        return [p for m in self.modules() if isinstance(m, AdaptedLinear) for p in (m.A, m.B)]

    def heads(self) -> list[nn.Parameter]:
        """The parameters of every member's classification head."""
        found = []
        for member in self.members:
            inner = {id(p) for p in root_of(member).parameters()}
            found += [p for p in member.parameters() if id(p) not in inner]
        return found

    def merged(self) -> Ensemble:
        """A copy with W + B A in the place of every adapted linear layer."""
        found = copy.deepcopy(self)
        for name, module in list(found.named_modules()):
            if isinstance(module, AdaptedLinear):
                parent, _, leaf = name.rpartition(".")
                setattr(found.get_submodule(parent), leaf, module.merged())
        return found

    def save(self, folder: str | Path) -> Path:
        """`ensemble.json` and `ensemble.safetensors`, the trunk once, for `load_ensemble`; see ensemble_export.py."""
        from archrank.supernet.ensemble_export import save_ensemble

        return save_ensemble(self, Path(folder))

    def export_onnx(self, path: str | Path, inputs: Mapping[str, Tensor] | None = None) -> Path:
        """The mean of the logits as ONNX, the trunk once, the batch size free; see `model_onnx.write_model_onnx`."""
        from archrank.supernet.model_onnx import write_model_onnx

        return write_model_onnx(self, Path(path), inputs)


def ensemble(
    net: ElasticEncoder,
    configs: Sequence[EncoderConfig] | EnsembleChoice | Derivation,
    *,
    split: int | None = None,
    merged: bool = True,
) -> Ensemble:
    """An ordinary module of K members over an elastic encoder; one member is that sub-network's own module, exactly.

    configs: the members, or a sentence of a space of ensembles (or its `ensemble_choices`), which says its own split;
    split: number of the base's layers that all members share, 0 … all, as the first member has them (its dropped layers
    are dropped for all); merged: False keeps the adapters beside their linear layers, to be trained. ConfigurationError
    for no member, or a split out of range or missing; members that coincide are named by a warning and in
    `.coinciding`.
    """
    if isinstance(configs, Derivation):
        configs = net.space.ensemble_choices(configs)
    if isinstance(configs, EnsembleChoice):
        split = configs.split if split is None else split
        configs = configs.members
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
        warnings.warn(coinciding_message(same, split), stacklevel=2)
    below = dict.fromkeys(names[:split], LayerChoice(False))
    cuts = [net.extract(choice if k == 0 else {**choice, **below}) for k, choice in enumerate(choices)]
    members = [copy.deepcopy(cut.module) if merged else cut.unmerged() for cut in cuts]
    own = sum(choices[0][name].kept for name in names[:split])
    return Ensemble(members, names[0].rpartition(".")[0], net.layers[names[0]].sizes, own, same, cuts[0].home)


def fine_tune(
    module: Ensemble,
    batches: Batches,
    plan: TrainPlan,
    *,
    parameters: Sequence[nn.Parameter] | None = None,
    checkpoint: Checkpoint | None = None,
    tick: Tick | None = None,
) -> float:
    """Trains an ensemble in place on the sum of its members' losses; returns the seconds spent, those before an
    interruption included.

    parameters: default the adapters and the members' heads; everything else is frozen meanwhile. Raises NonFiniteLoss;
    whatever `tick` raises passes through after a checkpoint was written.
    """
    trained = [*module.adapters(), *module.heads()] if parameters is None else list(parameters)
    device = next(module.parameters()).device

    def gradient(step: int) -> Tensor:
        batch = {key: value.to(device) for key, value in batches(step)[0].items()}
        loss = members_loss([y.float() for y in module.member_logits(**batch)], batch["labels"])
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    module.train()
    with only(module, trained):
        seconds = descend(trained, plan, gradient, checkpoint=checkpoint, tick=tick)
    module.eval()
    return seconds
