"""A file over layers written out for a base.

`layer+` becomes one site a layer, its name a keyword, its rules copies of the file's with the layer's own sizes behind
the ops that hang on it. An alternative with a split becomes one for each value that leaves a layer on both sides; its
rules below and above the split hold those layers. What comes out is a grammar of architectures like any other.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import replace

from archrank.grammar import ops
from archrank.grammar.layers import EncoderLayer, check_layers, up_to_rank
from archrank.grammar.model import Grammar, Production
from archrank.grammar.signatures import Op


def bound_grammar(
    grammar: Grammar, layers: Mapping[str, EncoderLayer], length: int, max_rank: int | None = None
) -> Grammar:
    """The grammar written out for a base's layers, in the given order. ValueError where every alternative of a rule
    needs a split and the base has too few layers.
    """
    check_layers(grammar, layers, length)
    if max_rank is not None:
        grammar = up_to_rank(grammar, max_rank)
    written = _Written(grammar, layers)
    by_head: list[list[int]] = [[] for _ in written.names]
    productions = sorted(written.productions, key=lambda production: production.head)
    for index, production in enumerate(productions):
        by_head[production.head].append(index)
    hidden = next(iter(layers.values())).hidden
    return replace(
        grammar,
        names=tuple(written.names),
        terminal=tuple(grammar.terminal[h] for h in written.origin),
        places=tuple(grammar.places[h] for h in written.origin),
        productions=tuple(productions),
        by_head=tuple(map(tuple, by_head)),
        start=0,
        settings=replace(grammar.settings, input=(length, hidden), target_modules=None),
        bound=None,
        bound_regex=None,
        site=None,
        apart=frozenset(layers),
        each=(),
        split=None,
    )


Key = tuple[int, int | None, str | None]
"""A rule of the file, the split above it, and the layer that it is written for."""


class _Written:
    """The rules written out so far: `names[i]` and the rule of the file that it comes from, `origin[i]`."""

    def __init__(self, grammar: Grammar, layers: Mapping[str, EncoderLayer]) -> None:
        self.grammar, self.layers, self.sides = grammar, layers, dict(grammar.each)
        self.names, self.origin = list[str](), list[int]()
        self.productions: list[Production] = []
        self._made: dict[Key, int] = {}
        self._todo: deque[tuple[Key, int]] = deque()
        self.index(grammar.start, None, None)
        while self._todo:
            (head, split, layer), index = self._todo.popleft()
            self._write(head, split, layer, index)

    def index(self, head: int, split: int | None, layer: str | None) -> int:
        """The number of a rule at a split and a layer. A layer has its own copies of the terminals too, so that a value
        can leave the space at one layer (`Space.without`).
        """
        if self.grammar.terminal[head] or layer is not None:
            split = None
        key = (head, split, layer)
        if key not in self._made:
            at = "" if key[2] is None else f"@{key[2]}"
            self._made[key] = self._new(head, at if split is None else f"{at}@{split}")
            self._todo.append((key, self._made[key]))
        return self._made[key]

    def _new(self, head: int, at: str) -> int:
        self.names.append(self.grammar.names[head] + at)
        self.origin.append(head)
        return len(self.names) - 1

    def _write(self, head: int, split: int | None, layer: str | None, index: int) -> None:
        if head in self.sides:
            self._repeat(head, split, index)
            return
        grammar = self.grammar
        found = [grammar.productions[i] for i in grammar.by_head[head]]
        split_at = grammar.split
        kept = [p for p in found if split_at not in p.children or self._values()]
        if not sum(p.p for p in kept):
            raise ValueError(
                f"{grammar.file}: every alternative of {grammar.names[head]} splits the layers, and the base has "
                f"{len(self.layers)} of them"
            )
        scale = sum(p.p for p in kept) if len(kept) < len(found) else 1.0
        for whole in kept:
            p = whole.p / scale
            production = replace(whole, p=p, log_p=_log(p))
            if split_at is not None and split_at in production.children:
                self._divide(production, split_at, index)
            else:
                self.productions.append(self._copy(production, split, layer, index))

    def _repeat(self, head: int, split: int | None, index: int) -> None:
        assert self.grammar.site is not None
        names = list(self.layers)
        side = self.sides[head]
        names = names[:split] if side == "below" else names[split:] if side == "above" else names
        sites = tuple(self.index(self.grammar.site, None, name) for name in names)
        production = self.grammar.productions[self.grammar.by_head[head][0]]
        self.productions.append(replace(production, head=index, items=sites, children=sites, copies=(1,) * len(sites)))

    def _values(self) -> dict[int, float]:
        """The splits that leave a layer on both sides, with their probabilities."""
        grammar = self.grammar
        assert grammar.split is not None
        values = {
            int(str(grammar.productions[i].items[0])): grammar.productions[i].p for i in grammar.by_head[grammar.split]
        }
        kept = {value: p for value, p in values.items() if value < len(self.layers) and p > 0}
        total = sum(kept.values())
        return {value: p / total for value, p in kept.items()}

    def _divide(self, production: Production, split_at: int, index: int) -> None:
        """What stands before the split and a rule for the rest, which has one alternative a value."""
        place = production.items.index(split_at)
        rest = self._new(production.head, "")
        self.names[rest] = f"{self.grammar.names[split_at]}@{production.label}"
        before = (*production.items[:place], rest)
        self.productions.append(
            replace(production, head=index, items=before, children=(rest,), copies=(1,), alias=None, size=0)
        )
        children = [i for i in production.items if isinstance(i, int)]
        copies = dict(zip(children, production.copies, strict=True))
        for value, p in self._values().items():
            items = tuple(
                self.index(item, value, None) if isinstance(item, int) else item
                for item in production.items[place + 1 :]
            )
            parts = tuple(item for item in items if isinstance(item, int))
            counts = tuple(copies[item] for item in production.items[place + 1 :] if isinstance(item, int))
            self.productions.append(
                replace(
                    production,
                    head=rest,
                    items=(str(value), *items),
                    children=parts,
                    copies=counts,
                    label=str(value),
                    p=p,
                    log_p=_log(p),
                )
            )

    def _copy(self, production: Production, split: int | None, layer: str | None, index: int) -> Production:
        bound = self.grammar.bound
        made = {i: self.index(i, split, layer) for i in production.children if i != bound}
        items = tuple((layer or "") if i == bound else made[i] if isinstance(i, int) else i for i in production.items)
        kept = [(c, m) for c, m in zip(production.children, production.copies, strict=True) if c != bound]
        found = ops.resolve(production.alias) if production.alias else None
        hosts = found is not None and isinstance(found.op, Op) and found.op.linears is not None
        sizes = self.layers[layer] if hosts and layer is not None else None
        return replace(
            production,
            head=index,
            items=items,
            children=tuple(made[c] for c, _ in kept),
            copies=tuple(m for _, m in kept),
            fixed=(sizes.heads, sizes.head, sizes.ffn) if sizes is not None else (),
        )


def _log(p: float) -> float:
    return math.log(p) if p > 0 else -math.inf
