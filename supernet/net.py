"""The supernet of a rank space: one adapter of r_max components beside each bound module of a frozen base.

    y_l = base_l(x) + s B_l (c_{i,l} ∘ (A_l x))

The base module's own forward is called, never its weight, so any linear layer (quantised ones too) can carry an
adapter; nothing is left on the base between two calls. Three verbs, as whittle has them: `select` a sub-network,
`reset` to the whole, `extract` a stand-alone one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal, overload

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from archrank import grammar
from archrank.supernet import adapters
from archrank.supernet.adapters.base import AdapterFamily
from archrank.supernet.states import StateCache
from archrank.supernet.subnetwork import SubNetwork

if TYPE_CHECKING:
    from archrank.supernet.chain import Chain, NoChain
    from archrank.supernet.elastic_encoder import ElasticEncoder
    from archrank.supernet.racing import Race

__all__ = ["Config", "ConfigurationError", "Elastic", "elastic"]

KEPT_BYTES = 1 << 28
"""Hidden states that a net keeps between two evaluations."""

Config = Mapping[str, int] | grammar.Derivation
"""A sub-network: {module: rank} (rank 0 or absent: left alone) or a derivation of the net's space."""


class ConfigurationError(ValueError):
    """A sub-network that this supernet does not hold, or a base that it cannot be built on."""


@overload
def elastic(  # type: ignore[overload-overlap]  # a name typed as plain str gives the wider type
    base_model: nn.Module,
    space: Literal["elastic_encoder"],
    *,
    r_max: int | None = None,
    alpha: float | None = None,
    data: Sequence[Mapping[str, Tensor]] | None = None,
    seed: int = 0,
) -> ElasticEncoder: ...


@overload
def elastic(
    base_model: nn.Module,
    space: str | grammar.Space = "lora_ranks",
    *,
    r_max: int | None = None,
    alpha: float | None = None,
    target_modules: str | None = None,
    data: Sequence[Mapping[str, Tensor]] | None = None,
    seed: int = 0,
) -> Elastic: ...


def elastic(
    base_model: nn.Module,
    space: str | grammar.Space = "lora_ranks",
    *,
    r_max: int | None = None,
    alpha: float | None = None,
    target_modules: str | None = None,
    data: Sequence[Mapping[str, Tensor]] | None = None,
    seed: int = 0,
) -> Elastic | ElasticEncoder:
    """A rank supernet over `base_model`, which stays untouched.

    A space over layers (`elastic_encoder`) gives an ElasticEncoder, with importances from `data`: elastic_encoder.py;
    a typed call for other files of that kind than the shipped one is `elastic_encoder(…)`.

    space: a site space, bound or not, or its name or path; `r_max`: components a module (default: the space's largest
    rank); `alpha`: the branch is scaled by alpha / r_max (default r_max: scale 1). Errors: SpaceError for a space that
    adapts no base or a pattern that matches nothing.
    """
    from archrank.supernet.modules import effective_weight
    from archrank.supernet.modules import target_modules as find_modules

    if isinstance(space, str):
        space = grammar.load(space)
    if space.is_layer_space:
        from archrank.supernet.elastic_encoder import elastic_encoder

        if target_modules is not None:
            raise ConfigurationError("target_modules: a space over layers adapts all linear layers of every layer")
        return elastic_encoder(base_model, space, r_max=r_max, alpha=alpha, data=data, seed=seed)
    if not space.is_site_space:
        raise ConfigurationError(
            f"the space {space.name!r} adapts no base: only a file with //@ target_modules has sites to adapt"
        )
    if not space.sites:
        space = space.bind(
            find_modules(base_model, target_modules or space.target_modules or "all-linear"), max_rank=r_max
        )
    top = r_max or max(space.ranks)
    ranks = {site.name: min(top, site.out_features, site.in_features) for site in space.sites}
    scale = 1.0 if alpha is None else alpha / top
    generator = torch.Generator().manual_seed(seed)
    shapes = {site.name: (site.out_features, site.in_features) for site in space.sites}
    families = [f for f in space.families if f != "none"]
    if len(families) != 1:
        raise ConfigurationError(
            f"the space {space.name!r} has {' and '.join(families) or 'no adapter'} at one site: a store holds one "
            "family; write a space for each"
        )
    family = adapters.load(families[0])
    store = {name: family(*shapes[name], rank, scale=scale, generator=generator) for name, rank in ranks.items()}
    if family.needs_weight:
        for name, adapter in store.items():
            adapter.bind(effective_weight(base_model.get_submodule(name), *shapes[name]))
    return Elastic(base_model, store, space)


class Elastic(nn.Module):
    """A base with adapters that are switched on for the length of one forward.

    base: the frozen model; store: {module name: adapter}; space: the bound space whose derivations `select` takes
    (None: dicts only).
    """

    def __init__(self, base: nn.Module, store: Mapping[str, AdapterFamily], space: grammar.Space | None = None) -> None:
        super().__init__()
        self.base = base
        self.space = space
        self.names = tuple(store)
        self.adapters = nn.ModuleList(store.values())
        self._places = {name: i for i, name in enumerate(self.names)}
        self._targets = [base.get_submodule(name) for name in self.names]
        self.r_max = max((a.rank for a in store.values()), default=1)
        self._selected: Tensor | None = None
        self.states = StateCache(KEPT_BYTES)
        self._chain: tuple[Chain, bool] | NoChain | None = None
        self.narrow: tuple[int, Elastic] | None = None
        # shared with slices: the net and spectrum of the last forward, which a checkpointed layer is recomputed under
        self._live: list[tuple[Elastic, Tensor | None, Tensor | None]] = [(self, None, None)]
        device = next(base.parameters()).device
        self.adapters.to(device)

    # -- which components are on ------------------------------------------------------------------------------------

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """{module: (out_features, in_features)} in model order."""
        return {n: (a.out_features, a.in_features) for n, a in self.items()}

    @property
    def largest(self) -> dict[str, int]:
        """{module: rank} of all that the store holds."""
        return {name: adapter.rank for name, adapter in self.items()}

    def items(self) -> Iterator[tuple[str, AdapterFamily]]:
        """(module name, adapter), in model order."""
        for name, module in zip(self.names, self.adapters, strict=True):
            assert isinstance(module, AdapterFamily)
            yield name, module

    def ranks(self, config: Config) -> dict[str, int]:
        """{module: rank ≥ 1} of a configuration; ConfigurationError for a module or a rank that the net does not
        hold.
        """
        if isinstance(config, grammar.Derivation):
            if self.space is None:
                raise ConfigurationError("this net has no space: select it by {module: rank}")
            config = {name: adapter.rank for name, adapter in self.space.adapters(config).items()}
        for name, rank in config.items():
            if name not in self._places:
                near = grammar.nearest(name, self.names)
                raise ConfigurationError(
                    f"no adapted module {name!r}; did you mean {', '.join(near) or 'one of net.names'}?"
                )
            held = self._adapter(name).rank
            if not 0 <= rank <= held:
                raise ConfigurationError(f"rank {rank} of {name} is outside 0 … {held}, what this supernet holds")
        return {name: config[name] for name in self.names if config.get(name, 0) > 0}

    def _adapter(self, name: str) -> AdapterFamily:
        adapter = self.adapters[self._places[name]]
        assert isinstance(adapter, AdapterFamily)
        return adapter

    def spectrum_of(self, ranks: Mapping[str, int]) -> Tensor:
        """C `(1, modules, r_max)`: ones up to each module's rank."""
        r = torch.tensor([ranks.get(name, 0) for name in self.names])
        return (torch.arange(self.r_max) < r[:, None]).float()[None]

    def select(self, config: Config) -> None:
        """From now on `net(**inputs)` is the sub-network `config`."""
        device = next(self.base.parameters()).device
        self._selected = self.spectrum_of(self.ranks(config)).to(device)

    def reset(self) -> None:
        """From now on `net(**inputs)` is the whole supernet: every component of every module."""
        self._selected = None

    # -- forward ----------------------------------------------------------------------------------------------------

    def forward(self, *, spectrum: Tensor | None = None, mask: Tensor | None = None, **inputs: Tensor) -> object:
        """The base's own output with the adapters added; `spectrum` `(samples | 1, modules, r_max)` goes before what
        `select` set, `mask` of the same shape says which components the gradient reaches.
        """
        spectrum = self._selected if spectrum is None else spectrum
        self._live[0] = (self, spectrum, mask)
        with self.attached(spectrum, mask):
            answer: object = self.base(**inputs)
        return answer

    @contextmanager
    def attached(self, spectrum: Tensor | None, mask: Tensor | None = None) -> Iterator[None]:
        """The adapters hang on the base's modules inside this block and nowhere else."""
        handles: list[RemovableHandle] = []
        try:
            for i, (target, adapter) in enumerate(zip(self._targets, self.adapters, strict=True)):
                assert isinstance(adapter, AdapterFamily)
                c, w = (None if t is None else t[:, i, : adapter.rank] for t in (spectrum, mask))
                handles.append(target.register_forward_hook(_branch(adapter, c, w)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def enable_gradient_checkpointing(self) -> None:
        """Recomputes layer activations in the backward pass, under the spectrum of the forward that they belong to.

        A layer that is recomputed after the ranks were drawn anew would see other ranks (the defect of property-based
        elastic layers): each checkpointed call therefore carries its own spectrum.
        """
        enable = getattr(self.base, "gradient_checkpointing_enable", None)
        if enable is None:
            raise ConfigurationError(
                f"{type(self.base).__name__} has no gradient checkpointing; drop --gradient-checkpointing"
            )

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            net, spectrum, mask = self._live[0]
            return nullcontext(), net.attached(spectrum, mask)

        enable(gradient_checkpointing_kwargs={"use_reentrant": False, "context_fn": contexts})

    # -- sub-networks -----------------------------------------------------------------------------------------------

    def sliced(self, config: Config) -> Elastic:
        """A stand-alone net of the sub-network's components over the same base: what a fine-tune trains."""
        small = Elastic(self.base, {n: self._adapter(n).sliced(r) for n, r in self.ranks(config).items()}, self.space)
        small._live = self._live
        return small

    def gathered(self, support: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """{module: (A (r, in), B (out, r))} of the components with c_j ≠ 0 of a spectrum `(modules, r_max)`, c folded
        into B: the same function, for any support. Modules without a component are absent.
        """
        found: dict[str, tuple[Tensor, Tensor]] = {}
        if not all(adapter.components_add for _, adapter in self.items()):
            raise ConfigurationError("a full core has no components to pick from: choose a policy that draws prefixes")
        for c, (name, adapter) in zip(support, self.items(), strict=True):
            A, B = adapter.lora_factors()
            weights = c[: len(A)].to(A.device)
            kept = weights.nonzero().flatten()
            if len(kept):
                found[name] = A[kept], B[:, kept] * weights[kept]
        return found

    def extract(self, config: Config) -> SubNetwork:
        """The sub-network to take home: `.module`, `.save_pretrained`, `.save_merged`."""
        factors = {name: adapter.lora_factors() for name, adapter in self.sliced(config).items()}
        return SubNetwork(self.base, factors)

    def evaluate(
        self,
        configs: Sequence[Config],
        data: Sequence[Mapping[str, Tensor]],
        method: str = "auto",
        race: Race | None = None,
        compute_dtype: str = "fp32",
    ) -> Tensor:
        """`(n,)` mean losses over the rows of `data` (batches with labels), one for each configuration; fp64.

        Methods: `evaluation_methods()`; `auto` picks one. `race`: stops hopeless candidates early, whose entries are
        inf. `compute_dtype`: fp32 for the base as it is, bf16 for a copy of it in bf16, auto for that where the CPU has
        AMX (narrow.py). The selection and the training mode are left as they were.
        """
        from archrank.supernet.evaluation import evaluate

        return evaluate(self, configs, data, method, race, compute_dtype)

    @property
    def targets(self) -> Sequence[nn.Module]:
        """The base's bound modules, in model order."""
        return self._targets

    def chain(self, batch: Mapping[str, Tensor]) -> tuple[Chain, bool]:
        """The base as a chain of layers, and whether candidates may be stacked along the rows; found and checked once.

        NoChain where it is none, or where running it layer by layer does not repeat its own forward to the bit.
        """
        if self._chain is None:
            from archrank.supernet.chain import NoChain, checked_chain

            try:
                self._chain = checked_chain(self, batch)
            except NoChain as reason:
                self._chain = reason
        if isinstance(self._chain, tuple):
            return self._chain
        raise self._chain


def _branch(
    adapter: AdapterFamily, c: Tensor | None, w: Tensor | None
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        added: Tensor = output + adapter(args[0], c, w).to(output.dtype)
        return added

    return add
