"""A base as a prelude, a chain of layers and a tail, so that any layer can be run alone on any hidden state.

    h_0 = prelude(batch);  h_l = layer_l(h_{l-1}; arguments of the batch);  loss, logits = tail(h_L, batch)

Nothing is asked of the model's class: the layers are the ModuleList that holds the bound modules, and one watched
forward shows whether they really are a chain. A layer is then called with the arguments (masks, positions) that the
base itself gave it for this batch; the tail is the base's own forward with everything before it replayed, so the loss
is the base's own. A base that is no chain is told by a reason, and is evaluated by the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from archrank.supernet.wiring import Slot, stubbed, wired

if TYPE_CHECKING:
    from archrank.supernet.net import Elastic

__all__ = ["Chain", "NoChain", "Recorded", "checked_chain", "find_chain", "without_cache"]

_PLAIN = (bool, int, float, str, type(None), torch.dtype)


class NoChain(ValueError):
    """Why a base cannot be run layer by layer."""


class _Enough(Exception):
    """Ends a watched forward once the last layer was called."""


@dataclass(frozen=True)
class Recorded:
    """One batch as the layers see it: h_0, each layer's further arguments, and what the prelude's modules gave."""

    batch: Mapping[str, Tensor]
    first: Tensor
    calls: tuple[tuple[tuple[object, ...], Mapping[str, object]], ...]
    prelude: tuple[object, ...]

    @property
    def rows(self) -> int:
        """Rows of the batch."""
        return len(self.first)

    @property
    def square(self) -> bool:
        """Whether rows and tokens are as many: then an argument's first axis does not tell which of them it is, and
        candidates are not stacked.
        """
        return self.first.dim() > 2 and self.rows == self.first.shape[1] > 1


@dataclass(frozen=True, eq=False)
class Chain:
    """Layers of a base in order; `places[depth]`: the bound modules inside layer l, `tail`: those after the last one.

    `wrapped`: a layer answers with a tuple whose first item is the hidden state; `prelude`: the largest modules that
    are done before the first layer.
    """

    base: nn.Module
    layers: tuple[nn.Module, ...]
    wrapped: bool
    prelude: tuple[nn.Module, ...]
    places: tuple[tuple[int, ...], ...]
    tail: tuple[int, ...]

    def record(self, batch: Mapping[str, Tensor]) -> Recorded:
        """Runs the prelude alone and keeps what it hands to the layers. NoChain where that cannot be kept."""
        calls: list[tuple[tuple[object, ...], Mapping[str, object]]] = []
        first: list[Tensor] = []
        given: list[object] = [None] * len(self.prelude)

        def layer(*args: object, **kwargs: object) -> object:
            hidden = args[0]
            assert isinstance(hidden, Tensor)
            first[:] = first or [hidden]
            calls.append((args[1:], kwargs))
            if len(calls) == len(self.layers):
                raise _Enough
            return (hidden,) if self.wrapped else hidden

        def keep(place: int, own: Callable[..., object]) -> Callable[..., object]:
            def forward(*args: object, **kwargs: object) -> object:
                given[place] = own(*args, **kwargs)
                return given[place]

            return forward

        stubs = [(m, layer) for m in self.layers] + [(m, keep(i, m.forward)) for i, m in enumerate(self.prelude)]
        with without_cache(self.base), stubbed(stubs), suppress(_Enough):
            self.base(**batch)
        if len(calls) != len(self.layers) or not all(map(_replayable, calls)):
            raise NoChain("its layers take arguments that cannot be given to them again")
        return Recorded(batch, first[0], tuple(calls), tuple(given))

    def run(self, layer: int, hidden: Tensor, recorded: Recorded) -> Tensor:
        """h_l `(copies · rows, …)` from h_{l-1}: several candidates' rows may lie below each other."""
        args, kwargs = recorded.calls[layer]
        copies = len(hidden) // max(1, recorded.rows)
        if copies > 1:
            args = tuple(_tiled(a, recorded.rows, copies) for a in args)
            kwargs = {k: _tiled(v, recorded.rows, copies) for k, v in kwargs.items()}
        answer = self.layers[layer](hidden, *args, **kwargs)
        out = answer[0] if self.wrapped else answer
        assert isinstance(out, Tensor)
        return out

    def finish(self, hidden: Tensor, recorded: Recorded) -> object:
        """What the base answers to the batch when its last layer gives `hidden` `(rows, …)`."""

        def layer(given: Tensor, *args: object, **kwargs: object) -> object:
            return (hidden,) if self.wrapped else hidden

        def replay(place: int) -> Callable[..., object]:
            return lambda *args, **kwargs: recorded.prelude[place]

        stubs = [(m, layer) for m in self.layers] + [(m, replay(i)) for i, m in enumerate(self.prelude)]
        with without_cache(self.base), stubbed(stubs):
            answer: object = self.base(**recorded.batch)
        return answer


def find_chain(base: nn.Module, targets: Sequence[nn.Module], batch: Mapping[str, Tensor]) -> Chain:
    """The chain of a base whose bound modules are `targets`, found by one watched forward of two rows.

    NoChain says what is in the way.
    """
    layers = _layers(base, targets)
    inside = {id(m): depth for depth, layer in enumerate(layers) for m in layer.modules()}
    places = [[i for i, t in enumerate(targets) if inside.get(id(t)) == depth] for depth in range(len(layers))]
    outside = [i for i, t in enumerate(targets) if id(t) not in inside]
    watched = _watch(base, layers, targets, {k: v[:2] for k, v in batch.items()})
    early = {i for i in outside if id(targets[i]) in watched.before}
    if early:
        raise NoChain("a bound module lies before its first layer")
    return Chain(base, layers, watched.wrapped, watched.prelude, tuple(map(tuple, places)), tuple(outside))


def checked_chain(net: Elastic, batch: Mapping[str, Tensor]) -> tuple[Chain, bool]:
    """`find_chain`, tried on two rows: (the chain, whether stacked candidates give what single ones give).

    The whole supernet is run both ways, twice, since a layer that writes into its input would show the second time.
    NoChain where the answers differ.
    """
    # two rows even of a batch of one: with one, an argument without rows could pass for one with
    few = {k: torch.cat([v, v])[:2] for k, v in batch.items()}
    adapters = [a for _, a in net.items()]
    full = [torch.ones(1, a.rank, device=next(a.parameters()).device) for a in adapters]
    with torch.no_grad():
        chain = find_chain(net.base, net.targets, few)
        wanted = _tensors(net(spectrum=net.spectrum_of(net.largest).to(full[0].device), **few))
        recorded = chain.record(few)
        with wired(net.targets, adapters) as slots:
            slots[:] = full
            for _ in range(2):
                states = [recorded.first]
                for depth in range(len(chain.layers)):
                    states.append(chain.run(depth, states[-1], recorded))
                given = _tensors(chain.finish(states[-1], recorded))
                if len(given) != len(wanted) or not all(map(torch.equal, given, wanted)):
                    raise NoChain("run layer by layer it answers otherwise than in one piece")
            return chain, _stackable(chain, recorded, states, slots, full)


def _stackable(
    chain: Chain, recorded: Recorded, states: Sequence[Tensor], slots: list[Slot], full: Sequence[Tensor]
) -> bool:
    """Whether each layer gives two stacked copies of its rows what it gives one; a layer that folds the batch into
    another dimension, or takes arguments that do not, is told by its values or by the branch's error.
    """
    rows = recorded.rows
    slots[:] = [c.expand(2 * rows, -1) for c in full]
    for depth in range(len(chain.layers)):
        try:
            twice = chain.run(depth, torch.cat([states[depth], states[depth]]), recorded)
        except (ValueError, RuntimeError):
            return False
        if len(twice) != 2 * rows:
            return False
        for part in twice.chunk(2):
            if not torch.allclose(part, states[depth + 1], rtol=1e-3, atol=1e-4):
                return False
    return True


def _tensors(answer: object) -> list[Tensor]:
    """The loss and the logits of a base's answer."""
    found = [getattr(answer, name, None) for name in ("loss", "logits")]
    return [t for t in found if isinstance(t, Tensor)]


def _layers(base: nn.Module, targets: Sequence[nn.Module]) -> tuple[nn.Module, ...]:
    """The outermost ModuleList with the most bound modules inside."""
    wanted = {id(t) for t in targets}
    held = [
        (sum(id(m) in wanted for m in found.modules()), len(name), found)
        for name, found in base.named_modules()
        if isinstance(found, nn.ModuleList)
    ]
    best = max(held, key=lambda h: (h[0], -h[1]), default=None)
    if best is None or best[0] == 0:
        raise NoChain("no nn.ModuleList of it holds the bound modules")
    return tuple(best[2])


@dataclass(frozen=True)
class _Watched:
    wrapped: bool
    prelude: tuple[nn.Module, ...]
    before: frozenset[int]


def _watch(
    base: nn.Module, layers: Sequence[nn.Module], targets: Sequence[nn.Module], batch: Mapping[str, Tensor]
) -> _Watched:
    index = {id(m): i for i, m in enumerate(layers)}
    seen: list[int] = []
    done: list[nn.Module] = []
    before: set[int] = set()
    hidden: list[object] = []
    wrapped: set[bool] = set()
    broken: list[str] = []

    def enter(module: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        if id(module) in index:
            seen.append(index[id(module)])
            if not args or not isinstance(args[0], Tensor):
                broken.append("its layers do not take the hidden state as their first argument")
            elif hidden and args[0] is not hidden[-1]:
                broken.append("what one layer gives is not what the next one takes")
        elif not seen:
            before.add(id(module))

    def leave(module: nn.Module, args: tuple[object, ...], output: object) -> None:
        if id(module) in index:
            wrapped.add(isinstance(output, tuple))
            hidden.append(output[0] if isinstance(output, tuple) else output)
        elif not seen:
            done.append(module)

    handles = [m.register_forward_pre_hook(enter, with_kwargs=True) for m in base.modules()]
    handles += [m.register_forward_hook(leave) for m in base.modules()]
    try:
        with torch.no_grad(), without_cache(base):
            base(**batch)
    finally:
        for handle in handles:
            handle.remove()
    if seen != list(range(len(layers))):
        broken.append("its layers are not called once each, in order")
    if len(wrapped) != 1:
        broken.append("its layers answer in different forms")
    if broken:
        raise NoChain(broken[0])
    # a module called twice, or inside another that is done, is not replayed by itself
    inner = {id(c) for m in done for c in m.modules() if c is not m}
    whole = [m for m in done if id(m) not in inner and done.count(m) == 1]
    return _Watched(wrapped.pop(), tuple(whole), frozenset(before))


@contextmanager
def without_cache(base: nn.Module) -> Iterator[None]:
    """No key-value cache meanwhile: a decoder's would grow with each call of a layer."""
    config = getattr(base, "config", None)
    was = getattr(config, "use_cache", None)
    if not was:
        yield
        return
    config.use_cache = False  # type: ignore[union-attr]
    try:
        yield
    finally:
        config.use_cache = was  # type: ignore[union-attr]


def _replayable(call: tuple[tuple[object, ...], Mapping[str, object]]) -> bool:
    args, kwargs = call
    return all(map(_plain, [*args, *kwargs.values()]))


def _plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_plain, value))
    return isinstance(value, (Tensor, *_PLAIN))


def _tiled(value: object, rows: int, copies: int) -> object:
    if isinstance(value, tuple):
        return tuple(_tiled(v, rows, copies) for v in value)
    if isinstance(value, Tensor) and value.dim() > 1 and len(value) == rows and rows > 1:
        return value.repeat(copies, *[1] * (value.dim() - 1))
    return value
