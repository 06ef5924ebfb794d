"""The supernet of `elastic_encoder`: a pretrained BERT- or ViT-like encoder itself, with an adapter beside each of the
six linear layers of its layers.

    y = W[out, in] x + b[out] + s B[out, :r] (A[:r, in] x)

`in`, `out`: the heads and FFN channels that stay, the most important ones on `data` (importance.py). A sub-network runs
at its own cost: for the length of one forward the layers that it drops leave their list, and the linear layers of the
others answer from slices. The base is the same before and after. `select`, `reset`, `extract` as in net.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archrank import grammar
from archrank.grammar import LayerChoice
from archrank.supernet import adapters
from archrank.supernet.adapters.lora import LoRA
from archrank.supernet.cut_network import CutNetwork
from archrank.supernet.cutting import LayerCut, kept_rows
from archrank.supernet.encoder_check import check_cuttable
from archrank.supernet.encoders import ROLES, LayerModules, find_layers
from archrank.supernet.evaluation import EvaluationError, rows_of
from archrank.supernet.importance import WANTED, ImportanceError, Order, measure
from archrank.supernet.net import ConfigurationError

__all__ = ["ElasticEncoder", "EncoderConfig", "elastic_encoder"]

EncoderConfig = Mapping[str, LayerChoice] | grammar.Derivation
"""A sub-network: {layer: LayerChoice} (a layer that is not named stays whole, without adapters) or a derivation of the
net's space.
"""


def elastic_encoder(
    base_model: nn.Module,
    space: str | grammar.Space = "elastic_encoder",
    *,
    r_max: int | None = None,
    alpha: float | None = None,
    data: Sequence[Mapping[str, Tensor]] | None = None,
    seed: int = 0,
) -> ElasticEncoder:
    """A supernet over an encoder, which stays untouched.

    space: a space over layers, bound or not, or its name or path; r_max: components an adapter (default: the space's
    largest rank; larger ranks leave the space); alpha: the branch is scaled by alpha / r_max (default r_max: scale 1);
    data: batches with labels for the importances of heads and channels (None: `net.measure` later, before anything is
    cut). Errors: EncoderError for a base that shows no heads and FFN or cannot do with fewer, ImportanceError for data
    that give none.
    """
    layers = find_layers(base_model)
    if any(getattr(module, "gradient_checkpointing", False) for module in base_model.modules()):
        raise ConfigurationError(
            "gradient checkpointing would recompute a cut layer whole: base.gradient_checkpointing_disable() first"
        )
    if r_max is not None and (isinstance(r_max, bool) or not isinstance(r_max, int) or r_max < 1):
        raise ConfigurationError(f"r_max {r_max!r}: components an adapter are a whole number of at least 1")
    if isinstance(space, str):
        space = grammar.load(space)
    check_cuttable(base_model, layers, space)
    order = None if data is None else measure(base_model, layers, data)
    if not space.layers:
        top = r_max or max(space.layer_ranks)
        sizes = {name: modules.sizes for name, modules in layers.items()}
        space = space.bind_layers(sizes, max_rank=top) if order is None else space.bind_layers(sizes, order.length, top)
    elif list(space.layers) != list(layers):
        raise ConfigurationError(
            f"the space {space.name!r} is bound to {', '.join(space.layers)}; the base's layers are {', '.join(layers)}"
        )
    top = r_max or max(space.layer_ranks)
    scale = 1.0 if alpha is None else alpha / top
    generator = torch.Generator().manual_seed(seed)
    family = adapters.load("lora")
    store = {}
    for modules in layers.values():
        for role in ROLES:
            linear = base_model.get_submodule(modules.names[role])
            assert isinstance(linear, nn.Linear)
            shape = (linear.out_features, linear.in_features)
            store[modules.names[role]] = family(*shape, min(top, *shape), scale=scale, generator=generator)
    return ElasticEncoder(base_model, store, space, layers, order, top)


class ElasticEncoder(nn.Module):
    """A base with its layers by name, one adapter a linear layer by full name, and the bound space.

    `order` is None until importances are measured.
    """

    def __init__(
        self,
        base: nn.Module,
        store: Mapping[str, nn.Module],
        space: grammar.Space,
        layers: Mapping[str, LayerModules],
        order: Order | None,
        r_max: int,
    ) -> None:
        super().__init__()
        self.base, self.space, self.layers, self.order, self.r_max = base, space, dict(layers), order, r_max
        self.names = tuple(store)
        self.adapters = nn.ModuleList(store.values())
        self._selected: dict[str, LayerChoice] | None = None
        self.adapters.to(next(base.parameters()).device)

    def items(self) -> Iterator[tuple[str, LoRA]]:
        """(linear layer, adapter), in model order."""
        for name, adapter in zip(self.names, self.adapters, strict=True):
            assert isinstance(adapter, LoRA)
            yield name, adapter

    @property
    def _held(self) -> dict[str, int]:
        return {name: adapter.rank for name, adapter in self.items()}

    def measure(self, data: Sequence[Mapping[str, Tensor]]) -> None:
        """Orders heads and channels by their importance on `data`, batches with labels."""
        self.order = measure(self.base, self.layers, data)

    # -- which part is on -------------------------------------------------------------------------------------------

    @property
    def largest(self) -> dict[str, LayerChoice]:
        """All layers, heads and channels; every adapter with all its components."""
        ranks = self._held
        return {
            name: LayerChoice(True, m.sizes.heads, m.sizes.ffn, tuple((role, ranks[m.names[role]]) for role in ROLES))
            for name, m in self.layers.items()
        }

    def smallest(self, share: int = 25, rank: int = 1) -> dict[str, LayerChoice]:
        """All layers at `share` percent of heads and channels, every adapter at `rank`: the sandwich's lower slice."""
        pairs = tuple((role, rank) for role in ROLES)
        return {
            name: LayerChoice(True, -(-m.sizes.heads * share // 100), -(-m.sizes.ffn * share // 100), pairs)
            for name, m in self.layers.items()
        }

    def choices(self, config: EncoderConfig) -> dict[str, LayerChoice]:
        """What a configuration does to each layer; ConfigurationError for what this net does not hold."""
        if isinstance(config, grammar.Derivation):
            config = self.space.layer_choices(config)
        if not isinstance(config, Mapping) or not all(isinstance(c, LayerChoice) for c in config.values()):
            raise TypeError(
                f"a sub-network is {{layer: LayerChoice}} or a derivation of net.space, not {config!r}; "
                "net.space.sample(rng) gives derivations"
            )
        for name in config:
            if name not in self.layers:
                near = grammar.nearest(name, list(self.layers))
                raise ConfigurationError(
                    f"no layer {name!r}; did you mean {', '.join(near) or 'one of ' + ', '.join(self.layers)}?"
                )
        found = {}
        for name, modules in self.layers.items():
            sizes = modules.sizes
            choice = config.get(name, LayerChoice(True, sizes.heads, sizes.ffn))
            if choice.kept:
                self._check(name, modules, choice)
            found[name] = choice
        return found

    def _check(self, name: str, modules: LayerModules, choice: LayerChoice) -> None:
        sizes = modules.sizes
        for what, given, held in (("heads", choice.heads, sizes.heads), ("FFN channels", choice.ffn, sizes.ffn)):
            if not 1 <= given <= held:
                raise ConfigurationError(f"{name}: {given} {what} are outside 1 … {held}; kept=False drops the layer")
        ranks = self._held
        for role, rank in choice.ranks:
            if role not in ROLES:
                raise ConfigurationError(f"{name} has no linear layer {role!r}; there are {', '.join(ROLES)}")
            if not 0 <= rank <= ranks[modules.names[role]]:
                raise ConfigurationError(
                    f"{name}: rank {rank} of {role} is outside 0 … {ranks[modules.names[role]]}, what this supernet "
                    "holds"
                )

    def cuts(self, choices: Mapping[str, LayerChoice]) -> dict[str, LayerCut]:
        """The heads and channels of each kept layer, ascending; ImportanceError where something is to be cut and
        nothing was measured.
        """
        found = {}
        for name, choice in choices.items():
            if not choice.kept:
                continue
            sizes = self.layers[name].sizes
            heads, channels = tuple(range(sizes.heads)), tuple(range(sizes.ffn))
            if choice.heads < sizes.heads or choice.ffn < sizes.ffn:
                if self.order is None:
                    raise ImportanceError(
                        f"{name} is to keep {choice.heads} of {sizes.heads} heads and {choice.ffn} of {sizes.ffn} FFN "
                        f"channels, and no importances were measured: {WANTED} to elastic(…), or to net.measure"
                    )
                order = self.order.layers[name]
                heads, channels = order.heads[: choice.heads], order.channels[: choice.ffn]
            found[name] = LayerCut(tuple(sorted(heads)), tuple(sorted(channels)))
        return found

    def select(self, config: EncoderConfig) -> None:
        """From now on `net(**inputs)` is the sub-network `config`."""
        choices = self.choices(config)
        self.cuts(choices)
        self._selected = choices

    def reset(self) -> None:
        """From now on `net(**inputs)` is the whole: all layers, heads, channels and components."""
        self._selected = None

    # -- forward ----------------------------------------------------------------------------------------------------

    def forward(self, **inputs: Tensor) -> object:
        """The output of the selected sub-network, in the base's own form."""
        with self.attached(self.largest if self._selected is None else self._selected):
            answer: object = self.base(**inputs)
        return answer

    @contextmanager
    def attached(self, choices: Mapping[str, LayerChoice]) -> Iterator[None]:
        """The base is the sub-network inside this block, and itself again after it."""
        cuts, store = self.cuts(choices), dict(self.items())
        blocks = self.base.get_submodule(next(iter(self.layers)).rpartition(".")[0])
        whole = vars(blocks)["_modules"]
        patched: list[tuple[nn.Module, object]] = []
        try:
            for name, cut in cuts.items():
                ranks = dict(choices[name].ranks)
                for role, full in self.layers[name].names.items():
                    linear = self.base.get_submodule(full)
                    patched.append((linear, vars(linear).get("forward")))
                    outputs, inputs = kept_rows(self.layers[name], cut, role)
                    vars(linear)["forward"] = _sliced(linear, outputs, inputs, store[full], ranks.get(role, 0))
            kept = [whole[name.rpartition(".")[2]] for name in cuts]
            vars(blocks)["_modules"] = {str(i): block for i, block in enumerate(kept)}
            yield
        finally:
            vars(blocks)["_modules"] = whole
            for linear, before in patched:
                if before is None:
                    del vars(linear)["forward"]
                else:
                    vars(linear)["forward"] = before

    def evaluate(
        self, configs: Sequence[EncoderConfig], data: Sequence[Mapping[str, Tensor]], method: str = "auto"
    ) -> Tensor:
        """`(n,)` mean losses over the rows of `data` (batches with labels), one for each configuration; fp64.

        One sub-network after the other (`loop`), which is what `auto` picks: cut layers cannot be stacked. The
        selection and the training mode are left as they were. Errors: EvaluationError for another method or data
        without labels or rows.
        """
        if method not in ("auto", "loop"):
            raise EvaluationError(f"method {method!r}: cut encoders are evaluated one after the other, by auto or loop")
        counts, modes = rows_of(data), [(module, module.training) for module in self.modules()]
        chosen = [self.choices(config) for config in configs]
        losses = torch.zeros(len(chosen), len(data), dtype=torch.float64)
        self.eval()
        try:
            with torch.no_grad():
                for i, choices in enumerate(chosen):
                    with self.attached(choices):
                        losses[i] = torch.stack([self.base(**batch).loss.double().cpu() for batch in data])
        finally:
            for module, mode in modes:
                module.training = mode
        return losses @ counts / counts.sum()

    # -- sub-networks -----------------------------------------------------------------------------------------------

    def extract(self, config: EncoderConfig) -> CutNetwork:
        """The sub-network to take home: `.module`, `.save_merged`, `.save_pretrained`, `.export_onnx`."""
        choices = self.choices(config)
        cuts, store = self.cuts(choices), dict(self.items())
        factors = {}
        for name, cut in cuts.items():
            modules = self.layers[name]
            for role, rank in choices[name].ranks:
                if rank:
                    A, B = store[modules.names[role]].sliced(rank).lora_factors()
                    outputs, inputs = kept_rows(modules, cut, role)
                    A = A if inputs is None else A[:, inputs.to(A.device)]
                    factors[modules.names[role]] = (A, B if outputs is None else B[outputs.to(B.device)])
        return CutNetwork(self.base, self.layers, cuts, factors)


def _sliced(
    linear: nn.Module, outputs: Tensor | None, inputs: Tensor | None, adapter: LoRA, rank: int
) -> Callable[[Tensor], Tensor]:
    """What a linear layer answers while it is cut; slices are taken when it runs, so that gradients reach the whole."""
    assert isinstance(linear, nn.Linear)
    where = linear.weight.device
    rows, columns = (None if i is None else i.to(where) for i in (outputs, inputs))

    def answer(x: Tensor) -> Tensor:
        weight: Tensor = linear.weight
        bias: Tensor | None = linear.bias
        if rows is not None:
            weight, bias = weight[rows], None if bias is None else bias[rows]
        if columns is not None:
            weight = weight[:, columns]
        y = F.linear(x, weight, bias)
        if not rank:
            return y
        A, B = adapter.A[:rank], adapter.B[:, :rank] * adapter.scale
        A, B = A if columns is None else A[:, columns], B if rows is None else B[rows]
        return y + F.linear(F.linear(x.to(A.dtype), A), B).to(y.dtype)

    return answer
