"""What is true of a grammar as a whole: productive, reachable, LL(1), recursive, and how fast it branches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from archrank.grammar.errors import Lint, SpaceError, listed, shortened
from archrank.grammar.model import Grammar

_MOST_FIRST = 200_000


@dataclass(frozen=True)
class Facts:
    """`first[nt]` gives the production that a text begins; sizes count aliased alternatives times their
    copies.

    `smallest[nt]` is the least expanded size; `recursive` are the nonterminals that can hold themselves.
    """

    first: tuple[dict[str, int], ...]
    smallest: tuple[int, ...]
    recursive: frozenset[int]


def analyse(grammar: Grammar) -> tuple[Facts, list[Lint]]:
    """The facts, and remarks; raises SpaceError where the file is no language of a search space."""
    smallest = _smallest(grammar)
    lints = _unreachable(grammar)
    first = _first(grammar)
    recursive = frozenset(_recursive(grammar))
    return Facts(first, smallest, recursive), lints


def _smallest(grammar: Grammar) -> tuple[int, ...]:
    """Least size of each nonterminal by relaxation; what stays infinite produces no sentence."""
    least: list[float] = [math.inf] * len(grammar.names)
    if grammar.bound is not None:
        least[grammar.bound] = 0
    changed = True
    while changed:
        changed = False
        for production in reversed(grammar.productions):
            if production.p > 0:
                value = production.size + sum(
                    m * least[c] for c, m in zip(production.children, production.copies, strict=True)
                )
                if value < least[production.head]:
                    least[production.head] = value
                    changed = True
    for head, value in enumerate(least):
        if math.isinf(value):
            culprit = _culprit(grammar, least, head)
            place, name = grammar.places[culprit], grammar.names[culprit]
            message = (
                f"{shortened(name)} never ends: each of its alternatives needs another rule without "
                "end; add one that is only keywords"
            )
            raise SpaceError(grammar.file, place.line, place.column, message)
    return tuple(int(value) for value in least)


def _culprit(grammar: Grammar, least: list[float], head: int) -> int:
    """From a rule that never ends along others that do not, to the first that comes back to itself."""
    seen: set[int] = set()
    while head not in seen:
        seen.add(head)
        head = next(
            (c for i in grammar.by_head[head] for c in grammar.productions[i].children if math.isinf(least[c])),
            head,
        )
    return head


def _unreachable(grammar: Grammar) -> list[Lint]:
    seen, todo = {grammar.start}, [grammar.start]
    while todo:
        for index in grammar.by_head[todo.pop()]:
            for child in grammar.productions[index].children:
                if child not in seen:
                    seen.add(child)
                    todo.append(child)
    lost = [head for head in range(len(grammar.names)) if head not in seen]
    return [
        Lint(
            grammar.places[h].line,
            grammar.places[h].column,
            "unreachable",
            f"{shortened(grammar.names[h])} is not reached from start: use it or remove it",
        )
        for h in lost
    ]


def _order(edges: list[list[int]]) -> tuple[list[int], list[int]]:
    """A depth-first order, children first, and the nodes that close a circle."""
    state, order, circle = [0] * len(edges), [], []
    for root in range(len(edges)):
        stack = [(root, 0)] if state[root] == 0 else []
        state[root] = state[root] or 1
        while stack:
            node, at = stack.pop()
            if at == len(edges[node]):
                state[node] = 2
                order.append(node)
                continue
            stack.append((node, at + 1))
            child = edges[node][at]
            if state[child] == 0:
                state[child] = 1
                stack.append((child, 0))
            elif state[child] == 1:
                circle.append(child)
    return order, circle


def _first(grammar: Grammar) -> tuple[dict[str, int], ...]:
    corners = [
        [item for i in productions if isinstance(item := grammar.productions[i].items[0], int)]
        for productions in grammar.by_head
    ]
    order, circle = _order(corners)
    if circle:
        place = grammar.places[circle[0]]
        message = (
            f"{shortened(grammar.names[circle[0]])} can begin with itself (left recursion): put a "
            "keyword before it, `seq(a, b)` instead of `a b`"
        )
        raise SpaceError(grammar.file, place.line, place.column, message)
    first: list[dict[str, int]] = [{} for _ in grammar.names]
    total = 0
    for head in order:
        for index in grammar.by_head[head]:
            item = grammar.productions[index].items[0]
            for text in [item] if isinstance(item, str) else first[item]:
                if text in first[head]:
                    raise _overlap(grammar, text, first[head][text], index)
                first[head][text] = index
                total += 1
        if total > _MOST_FIRST:
            place = grammar.places[head]
            raise SpaceError(
                grammar.file,
                place.line,
                place.column,
                "too many ways to begin a sentence: give rules keywords of their own",
            )
    return tuple(first)


def _overlap(grammar: Grammar, text: str, one: int, other: int) -> SpaceError:
    place, before = grammar.productions[other].place, grammar.productions[one]
    message = (
        f'two alternatives of {shortened(grammar.names[before.head])} begin with "{shortened(text)}", here '
        f"and on line {before.place.line}: "
        "a text would not say which was chosen; give each a keyword of its own"
    )
    return SpaceError(grammar.file, place.line, place.column, message)


def _recursive(grammar: Grammar) -> list[int]:
    """Nonterminals on a circle, by Kosaraju's two passes."""
    edges = [[c for i in productions for c in grammar.productions[i].children] for productions in grammar.by_head]
    order, _ = _order(edges)
    back: list[list[int]] = [[] for _ in edges]
    for node, children in enumerate(edges):
        for child in children:
            back[child].append(node)
    component: dict[int, int] = {}
    members: dict[int, list[int]] = {}
    for root in reversed(order):
        todo = [root] if root not in component else []
        while todo:
            node = todo.pop()
            if node not in component:
                component[node] = root
                members.setdefault(root, []).append(node)
                todo.extend(back[node])
    return [n for group in members.values() for n in group if len(group) > 1 or n in edges[n]]


def branching(grammar: Grammar, recursive: frozenset[int]) -> tuple[float, float]:
    """Spectral radii of the mean-offspring matrices: of the derivation, and with every copy counted.

    M[A, B] = sum over the alternatives of A of p × (times B stands there [× its copies]). At 1 or above,
    sentences drawn from the probabilities alone have no finite mean size (Harris, branching processes, 1963).
    """
    heads = sorted(recursive)
    if not heads:
        return 0.0, 0.0
    at = {head: i for i, head in enumerate(heads)}
    plain, copied = np.zeros((len(heads), len(heads))), np.zeros((len(heads), len(heads)))
    for head in heads:
        for index in grammar.by_head[head]:
            production = grammar.productions[index]
            for child, copies in zip(production.children, production.copies, strict=True):
                if child in at:
                    plain[at[head], at[child]] += production.p
                    copied[at[head], at[child]] += production.p * copies
    return float(np.abs(np.linalg.eigvals(plain)).max()), float(np.abs(np.linalg.eigvals(copied)).max())


def touching(grammar: Grammar) -> list[Lint]:
    """Where white space is not ignored, two words side by side could be read as one."""
    if grammar.spaced:
        return []
    begins = [False] * len(grammar.names)
    ends = [False] * len(grammar.names)
    for _ in grammar.names:
        before = (sum(begins), sum(ends))
        for production in grammar.productions:
            head, left, right = production.head, production.items[0], production.items[-1]
            begins[head] |= is_word(left[0]) if isinstance(left, str) else begins[left]
            ends[head] |= is_word(right[-1]) if isinstance(right, str) else ends[right]
        if (sum(begins), sum(ends)) == before:
            break
    for production in grammar.productions:
        for one, other in zip(production.items, production.items[1:], strict=False):
            left_word = is_word(one[-1]) if isinstance(one, str) else ends[one]
            right_word = is_word(other[0]) if isinstance(other, str) else begins[other]
            if left_word and right_word:
                message = (
                    r"two words side by side could be read as one: add `%ignore /\s+/` or put "
                    r"brackets or commas between them"
                )
                return [Lint(production.place.line, production.place.column, "touching", message)]
    return []


def is_word(character: str) -> bool:
    """Whether two such characters side by side would read as one word."""
    return character.isalnum() or character == "_"


def expected_text(first: dict[str, int]) -> str:
    """The texts that may stand at a place, for a message."""
    return listed([f'"{text}"' for text in first], 16)
