"""A grammar of architectures as a program: for each production what it does to the value that flows through it.

Made once per file with `//@ input`, and the place where its ops are checked: every alias names an op, every part is
of the kind that its structure wants, every leaf gets as many arguments as its op takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import NamedTuple

from archrank.grammar import ops
from archrank.grammar.errors import SpaceError, shortened
from archrank.grammar.model import Grammar, Production
from archrank.grammar.nearest import did_you_mean
from archrank.grammar.signatures import (
    AdapterOp,
    Argument,
    Join,
    Linear,
    Op,
    Shape,
    Split,
    Step,
    Structure,
    Value,
    Wiring,
    elements,
)

LEAF, CHAIN, BRANCH, GRAPH, VALUE, HOST, ADAPTER = range(7)
MOST_OPTIONS = 4096
MOST_LEAVES = 20_000
_MOST_MEMO = 4_000


Leafy = Op | Split | Join | AdapterOp
"""What a leaf of a derivation can be."""


class Result(NamedTuple):
    """An op at one input: its output, and what it costs there. `written`: elements of new memory."""

    out: Value
    params: int
    flops: int
    written: int


@dataclass(eq=False, slots=True)
class Leaf:
    """One way to write an op with its arguments: productions in preorder, the op, and what it gave at values seen
    before.
    """

    choices: tuple[int, ...]
    op: Leafy
    arguments: tuple[Argument, ...]
    weight: float
    memo: dict[object, Result | None] = field(default_factory=dict)
    word: str = ""

    def __post_init__(self) -> None:
        """The op as it is written: `linear(64)`."""
        self.word = f"{self.op.name}({','.join(map(str, self.arguments))})" if self.arguments else self.op.name

    def at(self, value: Value) -> Result | None:
        """What the op makes of a value; None where it does not fit."""
        try:
            return self.memo[value]
        except KeyError:
            return self._remember(value, _applied(self.op, value, self.arguments))

    def adapting(self, linear: Linear, rows: int) -> tuple[int, int] | None:
        """Parameters and FLOPs of an adapter at a linear layer that sees `rows` rows; None where it does not fit."""
        assert isinstance(self.op, AdapterOp)
        shape = (linear.outputs, linear.inputs)
        if self.op.limit is not None and self.arguments and int(self.arguments[0]) > self.op.limit(*shape):
            return None
        return self.op.params(*shape, *self.arguments), rows * self.op.flops(*shape, *self.arguments)

    def split(self, value: Value, ways: int) -> Value | None:
        """One piece of a value cut in `ways`; None where it cannot be."""
        assert isinstance(self.op, Split)
        found: Value | None = self.op.infer(value, ways, *self.arguments)
        return found

    def join(self, values: tuple[Value, ...]) -> Result | None:
        """What the op makes of several values; None where they do not fit."""
        try:
            return self.memo[values]
        except KeyError:
            return self._remember(values, _joined(self.op, values, self.arguments))

    def _remember(self, key: object, result: Result | None) -> Result | None:
        if len(self.memo) > _MOST_MEMO:
            self.memo.clear()
        self.memo[key] = result
        return result


def _invertible(op: Leafy) -> bool:
    return (op.inverse if isinstance(op, Op) else op.parts if isinstance(op, Join) else None) is not None


def _applied(op: Leafy, value: Value, arguments: tuple[Argument, ...]) -> Result | None:
    assert isinstance(op, Op)
    out = op.infer(value, *arguments)
    if out is None:
        return None
    params, flops = op.params(value.shape, *arguments), op.flops(value.shape, *arguments)
    return Result(out, params, flops, 0 if op.view else elements(out.shape))


def _joined(op: Leafy, values: tuple[Value, ...], arguments: tuple[Argument, ...]) -> Result | None:
    assert isinstance(op, Join)
    out = op.infer(values, *arguments)
    if out is None:
        return None
    flops = op.flops(tuple(value.shape for value in values), *arguments)
    return Result(out, 0, flops, elements(out.shape))


Fit = tuple[Leaf, Result]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one production does. `parts`: its children that are no arguments; `copies`: how often each is built."""

    kind: int
    terminals: int = 0
    parts: int = 0
    copies: tuple[int, ...] = ()
    structure: Structure | None = None
    wiring: Wiring | None = None
    arguments: tuple[Argument, ...] = ()


class Program:
    """`plans[production]`; `leaves[choices]` of every leaf as written; `options[head]` the leaves that a rule can
    give, those of probability 0 left out.
    """

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self._hosts = any(_is_host(production.alias) for production in grammar.productions)
        self.plans = tuple(self._plan(production) for production in grammar.productions)
        self.heads = tuple(production.head for production in grammar.productions)
        self.leaves: dict[tuple[int, ...], Leaf] = {}
        self.options: list[list[Leaf]] = [[] for _ in grammar.names]
        self._own: dict[tuple[str, tuple[Argument, ...]], Leaf] = {}
        self._fitting: dict[tuple[int, Value], list[Fit]] = {}
        self._giving: dict[tuple[int, Value, Shape], list[Fit]] = {}
        for index, production in enumerate(grammar.productions):
            if self.plans[index].kind in (LEAF, HOST, ADAPTER):
                self._expand(index, production)
        self._roles = self._all_roles()
        self._check_parts()
        self.invertible = [[leaf for leaf in leaves if _invertible(leaf.op)] for leaves in self.options]
        self.same_splits = self._words(lambda op: isinstance(op, Split) and op.same)
        self.commutative_joins = self._words(lambda op: isinstance(op, Join) and op.commutative)

    def _words(self, wanted: Callable[[Leafy], bool]) -> frozenset[str]:
        """The canonical words of the leaves whose op is such."""
        return frozenset(leaf.word for leaf in self.leaves.values() if wanted(leaf.op))

    def own(self, step: Step) -> Leaf:
        """The op that a structure runs of its own, with what it gave before."""
        assert not isinstance(step.part, int)
        key = (step.part.name, step.arguments)
        if key not in self._own:
            self._own[key] = Leaf((), step.part, step.arguments, 1.0)
        return self._own[key]

    def of_kind(self, kind: int, fits: list[Fit]) -> list[Fit]:
        """Those whose production is of a kind."""
        return [fit for fit in fits if self.plans[fit[0].choices[0]].kind == kind]

    def fitting(self, head: int, value: Value) -> list[Fit]:
        """The leaves of a rule of ops that fit a value, with what they give."""
        found = self._fitting.get((head, value))
        if found is None:
            found = [(leaf, result) for leaf in self.options[head] if (result := leaf.at(value)) is not None]
            if len(self._fitting) > _MOST_MEMO:
                self._fitting.clear()
            self._fitting[head, value] = found
        return found

    def giving(self, head: int, value: Value, shape: Shape) -> list[Fit]:
        """Those that give a shape."""
        found = self._giving.get((head, value, shape))
        if found is None:
            found = [fit for fit in self.fitting(head, value) if fit[1].out.shape == shape]
            if len(self._giving) > _MOST_MEMO:
                self._giving.clear()
            self._giving[head, value, shape] = found
        return found

    def op_names(self) -> tuple[str, ...]:
        """The ops that leave a node in an architecture, a structure's own among them."""
        found = [leaf.op for leaf in self.leaves.values()]
        steps = [step.part for plan in self.plans if plan.wiring is not None for step in plan.wiring.steps]
        found.extend(part for part in steps if not isinstance(part, int))
        silent = [op for op in found if (isinstance(op, Op) and op.identity) or (isinstance(op, Split) and op.same)]
        return tuple(dict.fromkeys(op.name for op in found if op not in silent and not isinstance(op, AdapterOp)))

    def role(self, rule: str) -> str:
        """What a rule gives: op, split, join or value."""
        return self._roles[self.grammar.names.index(rule)]

    def error(self, production: Production, message: str) -> SpaceError:
        """A SpaceError at an alternative."""
        return SpaceError(self.grammar.file, production.place.line, production.place.column, message)

    def _plan(self, production: Production) -> Plan:
        grammar = self.grammar
        if grammar.terminal[production.head]:
            return Plan(VALUE, arguments=arguments_of(production.label))
        terminals = [c for c in production.children if grammar.terminal[c]]
        parts = len(production.children) - len(terminals)
        if production.alias is None:
            if terminals:
                raise self.error(production, "values without an alias: add `-> name`, the op that takes them")
            return Plan(CHAIN, 0, parts, production.copies)
        found = ops.resolve(production.alias)
        if found is None or (isinstance(found.op, AdapterOp) and not self._hosts):
            raise self.error(production, self._unknown(production.alias, found is not None))
        op = found.op
        if isinstance(op, AdapterOp):
            return Plan(ADAPTER, len(terminals), arguments=found.number)
        if isinstance(op, Structure):
            return self._structured(production, op, found.number, terminals)
        if isinstance(op, Op) and op.linears is not None:
            if any(grammar.terminal[c] for c in production.children[len(terminals) :]):
                raise self.error(production, f"{op.name}: its numbers stand before its adapters")
            return Plan(HOST, len(terminals), parts, production.copies, arguments=(*found.number, *production.fixed))
        if parts:
            raise self.error(production, f"{op.name} takes numbers from terminals and no rules of its own")
        return Plan(LEAF, len(terminals), arguments=found.number)

    def _unknown(self, alias: str, adapter: bool) -> str:
        known = [name for name in ops.available() if not isinstance(ops.load(name), AdapterOp)]
        if adapter:
            return f"{alias} is an adapter: it belongs in a file with //@ target_modules. Ops: {', '.join(known)}"
        return (
            f"no op {shortened(alias)!r}: an alias of this file names an op with shapes and "
            f"costs{did_you_mean(alias, known)} Known: {', '.join(known)}; define your own with ar.op, in a file "
            "given by --ops"
        )

    def _structured(
        self, production: Production, op: Structure, number: tuple[Argument, ...], terminals: list[int]
    ) -> Plan:
        if terminals:
            raise self.error(production, f"{op.name} takes no numbers from terminals; they belong to its parts")
        parts = len(production.children)
        if len(number) != op.arguments:
            wanted = f"wants a number at its end, as in `{op.name}2`" if op.arguments else "takes no number at its end"
            raise self.error(production, f"alias {production.alias}: {op.name} {wanted}")
        if parts < op.least_parts:
            raise self.error(
                production,
                f"alias {production.alias}: {op.name} has {parts} parts here; it wants at least {op.least_parts}",
            )
        try:
            wiring = op.wiring(parts, *number)
        except ValueError as error:
            raise self.error(production, str(error)) from None
        kind = {"chain": CHAIN, "branch": BRANCH}.get(op.form, GRAPH)
        return Plan(kind, 0, parts, production.copies, op, wiring, number)

    def _expand(self, index: int, production: Production) -> None:
        """Every leaf that the alternative can write."""
        grammar, plan = self.grammar, self.plans[index]
        columns = [grammar.by_head[child] for child in production.children if grammar.terminal[child]]
        if math.prod(map(len, columns)) > MOST_OPTIONS:
            raise self.error(production, f"more than {MOST_OPTIONS:,} values for one op: leave some out")
        if len(self.leaves) + math.prod(map(len, columns)) > MOST_LEAVES:
            raise self.error(production, f"more than {MOST_LEAVES:,} ways to write this file's ops: leave some out")
        found = ops.resolve(production.alias or "")
        assert found is not None
        assert not isinstance(found.op, Structure)
        for values in product(*columns):
            arguments = (*plan.arguments, *(a for v in values for a in arguments_of(grammar.productions[v].label)))
            if len(arguments) != found.op.arguments:
                raise self.error(
                    production,
                    f"{found.op.name} takes {found.op.arguments} arguments, this alternative gives {len(arguments)}"
                    + (f" ({', '.join(map(str, arguments))})" if arguments else ""),
                )
            word = next((a for a in arguments if isinstance(a, str)), None)
            if word is not None and found.op.name in ops.shipped():
                raise self.error(
                    production, f"{shortened(word)!r} is no argument of {found.op.name}: it takes whole numbers"
                )
            weight = production.p * math.prod(grammar.productions[v].p for v in values)
            leaf = Leaf((index, *values), found.op, arguments, weight)
            self.leaves[leaf.choices] = leaf
            if weight > 0:
                self.options[production.head].append(leaf)

    def _all_roles(self) -> list[str]:
        """What each nonterminal gives: op, split, join or value; a rule gives one kind."""
        grammar = self.grammar
        roles = []
        for head, productions in enumerate(grammar.by_head):
            if grammar.terminal[head]:
                roles.append("value")
                continue
            found = {self._role(index): index for index in productions}
            if len(found) > 1:
                wrong = grammar.productions[max(found.values())]
                raise self.error(
                    wrong,
                    f"the alternatives of {shortened(grammar.names[head])} are of different kinds "
                    f"({', '.join(sorted(found))}): give each kind a rule of its own",
                )
            roles.append(next(iter(found)))
        return roles

    def _role(self, index: int) -> str:
        if self.plans[index].kind == ADAPTER:
            return "adapter"
        if self.plans[index].kind != LEAF:
            return "op"
        op = next(leaf.op for choices, leaf in self.leaves.items() if choices[0] == index)
        return "split" if isinstance(op, Split) else "join" if isinstance(op, Join) else "op"

    def _check_parts(self) -> None:
        """Each part is of the kind that its structure wants."""
        grammar = self.grammar
        if self._roles[grammar.start] != "op":
            raise self.error(grammar.productions[grammar.by_head[grammar.start][0]], "start gives no architecture")
        for production, plan in zip(grammar.productions, self.plans, strict=True):
            if plan.kind in (LEAF, VALUE, ADAPTER):
                continue
            children = [child for child in production.children if not grammar.terminal[child]]
            wanted = ["adapter" if plan.kind == HOST else "op"] * plan.parts
            if plan.kind == BRANCH:
                wanted[0], wanted[-1] = "split", "join"
                self._check_copies(production, plan)
            for child, kind in zip(children, wanted, strict=True):
                if self._roles[child] != kind:
                    name = production.alias or "a rule without alias"
                    raise self.error(
                        production,
                        f"{name} wants a rule of kind {kind} where {shortened(grammar.names[child])} stands, which is "
                        f"of kind {self._roles[child]}",
                    )

    def _check_copies(self, production: Production, plan: Plan) -> None:
        ways = plan.arguments[0]
        if plan.parts == 3 and production.copies[1] != ways:
            name = self.grammar.names[production.children[1]]
            raise self.error(
                production, f"{production.alias} builds its module {ways} times: add //@ copies({name}) = {ways}"
            )


def _is_host(alias: str | None) -> bool:
    found = ops.resolve(alias) if alias else None
    return found is not None and isinstance(found.op, Op) and found.op.linears is not None


def arguments_of(text: str) -> tuple[Argument, ...]:
    """The arguments in a terminal's value: "3,1,1" → (3, 1, 1), "25%" → (25,); a word stays a word."""
    parts = [part.strip().removesuffix("%") for part in text.split(",")]
    return tuple(int(part) if part.isascii() and part.isdigit() and len(part) <= 9 else part for part in parts if part)


def ends(plans: Sequence[Plan], choices: Sequence[int]) -> list[int]:
    """Where the subtree of each node ends, in preorder."""
    found, done = [0] * len(choices), list[int]()
    for i in range(len(choices) - 1, -1, -1):
        plan, end = plans[choices[i]], i + 1
        for _ in range(plan.parts + plan.terminals):
            end = found[done.pop()]
        found[i] = end
        done.append(i)
    return found
