"""From what stands in a file to a Grammar: names resolved, probabilities filled in, aliases checked."""

from __future__ import annotations

import math
import re

from archrank.grammar.attach import Notes
from archrank.grammar.errors import Lint, Place, SpaceError, listed, shortened
from archrank.grammar.layer_rules import check_layer_rules
from archrank.grammar.meta import Alternative, Definition, Item, RawFile
from archrank.grammar.model import Grammar, Production
from archrank.grammar.modules import slow_reason
from archrank.grammar.nearest import did_you_mean

_SUM_TOLERANCE = 1e-6
_REMEDY = 'write the values out, such as "1" | "2" | "4"'


class Builder:
    """Collects a Grammar; raises SpaceError at the first thing that is wrong."""

    def __init__(self, file: str, raw: RawFile, notes: Notes) -> None:
        self.file, self.raw, self.notes = file, raw, notes
        self.definitions: dict[str, Definition] = {}
        self.lints: list[Lint] = []
        for definition in raw.definitions:
            if definition.name in self.definitions:
                first = self.definitions[definition.name].place.line
                raise self.error(
                    definition.place,
                    f"{shortened(definition.name)} is defined twice, first on line {first}: rename one or "
                    "join them with |",
                )
            self.definitions[definition.name] = definition
        if "start" not in self.definitions:
            place = raw.definitions[0].place if raw.definitions else Place(1, 1)
            raise self.error(place, "there is no rule `start`: a sentence begins there; add `start: RULE`")
        self.inlined: dict[str, str] = {}
        self.index: dict[str, int] = {}

    def error(self, place: Place, message: str) -> SpaceError:
        """A SpaceError of this file."""
        return SpaceError(self.file, place.line, place.column, message)

    def grammar(self) -> Grammar:
        """The checked grammar, still without what may stand between the tokens of a sentence."""
        kept = self._nonterminals()
        self.index = {definition.name: i for i, definition in enumerate(kept)}
        productions: list[Production] = []
        by_head: list[tuple[int, ...]] = []
        for head, definition in enumerate(kept):
            first = len(productions)
            if definition.name not in self.notes.bound:
                productions.extend(self._productions(head, definition))
            by_head.append(tuple(range(first, len(productions))))
        bound, regex, site = self._site()
        return Grammar(
            self.file, tuple(d.name for d in kept), tuple(d.is_terminal for d in kept),
            tuple(d.place for d in kept),
            tuple(productions), tuple(by_head), self.index["start"], self.notes.settings, None, False,
            bound, regex, site, frozenset(), tuple((self.index[n], self.side(n)) for n in self.notes.each),
            next((self.index[terminal] for _, terminal in self.notes.sides.values()), None),
        )  # fmt: skip

    def side(self, rule: str) -> str:
        """Which layers a rule with `each` repeats: all, or those below or above the split."""
        return self.notes.sides[rule][0] if rule in self.notes.sides else "all"

    def _nonterminals(self) -> list[Definition]:
        """Rules, and the terminals that a rule uses and that are a choice; a terminal of one value is
        written in place.
        """
        used: dict[str, Item] = {}
        for definition in self.definitions.values():
            if not definition.is_terminal:
                for alternative in definition.alternatives:
                    for item in alternative.items:
                        self._check_item(item)
                        used.setdefault(item.text if item.kind == "terminal" else "", item)
        kept = [d for d in self.definitions.values() if not d.is_terminal]
        for name, definition in self.definitions.items():
            if not definition.is_terminal:
                continue
            if name not in used:
                if name in self.notes.bound or name not in self.raw.ignored:
                    self.lints.append(
                        Lint(
                            definition.place.line,
                            definition.place.column,
                            "unreachable",
                            f"no rule uses {shortened(name)}: remove it",
                        )
                    )
                continue
            if name in self.notes.bound:
                kept.append(definition)
                continue
            values = self._values(definition)
            # the one value of an op's argument stays a choice of one, since the op is to get it; brackets do not
            settings = self.notes.settings
            takes = settings.input is not None or settings.target_modules == "all-layers"
            argument = (takes and any(map(str.isalnum, values[0]))) or self._is_only_number(name)
            if len(values) == 1 and (name, 0) not in self.notes.p and not argument:
                self.inlined[name] = values[0]
            else:
                kept.append(definition)
        return kept

    def _is_only_number(self, name: str) -> bool:
        """Whether a space of sites has an alternative whose adapter gets its number from this terminal alone."""

        def numbers(alternative: Alternative) -> list[str]:
            named = [self.definitions[i.text] for i in alternative.items if i.kind == "terminal"]
            return [d.name for d in named if all(i.text.isdigit() for a in d.alternatives for i in a.items)]

        rules = [d for d in self.definitions.values() if not d.is_terminal]
        on_sites = self.notes.settings.target_modules is not None
        return on_sites and any(numbers(a) == [name] for d in rules for a in d.alternatives)

    def _check_item(self, item: Item) -> None:
        if item.kind == "regex":
            raise self.error(item.place, f"a regular expression in a rule: its values cannot be counted; {_REMEDY}")
        if item.kind in ("rule", "terminal") and item.text not in self.definitions:
            if item.text in self.raw.imported:
                raise self.error(
                    item.place,
                    f"{item.text} is imported, a regular expression: its values cannot be counted; {_REMEDY}",
                )
            names = [d.name for d in self.definitions.values() if d.is_terminal == (item.kind == "terminal")]
            raise self.error(
                item.place,
                f"{shortened(item.text)} is used and not defined{did_you_mean(item.text, names)} Defined: "
                f"{listed(names)}",
            )

    def _values(self, definition: Definition) -> list[str]:
        """The texts of a terminal that is a finite choice."""
        values: dict[str, Place] = {}
        for alternative in definition.alternatives:
            item = alternative.items[0]
            if item.kind == "regex":
                message = (
                    f"terminal {definition.name} is a regular expression: its values cannot be "
                    f"counted; {_REMEDY}, or mark it `//@ bound` where the base gives them"
                )
                raise self.error(definition.place, message)
            if len(alternative.items) != 1 or item.kind != "literal":
                raise self.error(
                    alternative.place, f"a value of terminal {definition.name} is one quoted text; {_REMEDY}"
                )
            if item.text in values:
                raise self.error(
                    alternative.place,
                    f'the value "{shortened(item.text)}" of {definition.name} stands there twice: remove one',
                )
            values[item.text] = alternative.place
        return list(values)

    def _productions(self, head: int, definition: Definition) -> list[Production]:
        alternatives = definition.alternatives
        probabilities = self._probabilities(definition)
        if not definition.is_terminal:
            self._check_aliases(definition)
        found: list[Production] = []
        for index, (alternative, p) in enumerate(zip(alternatives, probabilities, strict=True)):
            items = tuple(self._symbol(item) for item in alternative.items)
            children = tuple(item for item in items if isinstance(item, int))
            copies = self._copies(definition, index, alternative)
            label = alternative.alias or (alternative.items[0].text if definition.is_terminal else definition.name)
            found.append(Production(
                head, items, children, copies, alternative.alias, label,
                p, math.log(p) if p > 0 else -math.inf,
                int(alternative.alias is not None), alternative.place,
            ))  # fmt: skip
        return found

    def _symbol(self, item: Item) -> int | str:
        if item.kind == "literal":
            return item.text
        return self.inlined[item.text] if item.text in self.inlined else self.index[item.text]

    def _copies(self, definition: Definition, index: int, alternative: Alternative) -> tuple[int, ...]:
        stated = self.notes.copies.get((definition.name, index), {})
        for child, (_, place) in stated.items():
            if sum(item.text == child for item in alternative.items) > 1:
                raise self.error(
                    place,
                    f"copies({child}): {child} stands there more than once; give each a rule of its own",
                )
        counts = [
            stated[item.text][0] if item.text in stated else 1
            for item in alternative.items
            if isinstance(self._symbol(item), int)
        ]
        return tuple(counts)

    def _check_aliases(self, definition: Definition) -> None:
        seen: dict[str, int] = {}
        for alternative in definition.alternatives:
            alias, place = alternative.alias, alternative.place
            if alias is None:
                if len(definition.alternatives) > 1:
                    raise self.error(
                        place,
                        f"an alternative of {definition.name} has no alias: add `-> name`, so that the choice has one",
                    )
                continue
            if alias in seen:
                raise self.error(
                    place,
                    f"alias {shortened(alias)!r} stands twice in {definition.name}, first on line "
                    f"{seen[alias]}: rename one",
                )
            if alias in self.definitions and alias != definition.name:
                line = self.definitions[alias].place.line
                raise self.error(
                    place,
                    f"alias {shortened(alias)!r} is also the name of a rule, line {line}: rename one of the two",
                )
            seen[alias] = place.line

    def _probabilities(self, definition: Definition) -> list[float]:
        stated = [self.notes.p.get((definition.name, i)) for i in range(len(definition.alternatives))]
        total = math.fsum(p for p in stated if p is not None)
        free = [i for i, p in enumerate(stated) if p is None]
        places = [alternative.place for alternative in definition.alternatives]
        if not free:
            if abs(total - 1) > _SUM_TOLERANCE:
                message = (
                    f"the probabilities of {definition.name} sum to {total:g}, not to 1: mend one, "
                    "or leave `p` out where the rest may go"
                )
                raise self.error(places[0], message)
            return [(p or 0.0) / total for p in stated]
        rest = 1 - total
        if total == 0 and len(free) == len(stated):
            return [1 / len(free)] * len(free)
        if rest <= 1e-12:
            message = (
                f"nothing is left for this alternative: those with `p` sum to {total:g}; lower one, "
                "or remove this alternative"
            )
            raise self.error(places[free[0]], message)
        return [rest / len(free) if p is None else p for p in stated]

    def _site(self) -> tuple[int | None, re.Pattern[str] | None, int | None]:
        """Checks the four things a site space is made of: target_modules, each, `site+`, one bound
        terminal.
        """
        notes, settings = self.notes, self.notes.settings
        repeated = [
            (d, item) for d in self.definitions.values() for a in d.alternatives for item in a.items if item.repeated
        ]
        for definition, item in repeated:
            if definition.name not in notes.each:
                message = (
                    f"`{item.text}+` repeats without saying how often: mark the rule `//@ each = "
                    "target_modules`, or write a list rule with keywords"
                )
                raise self.error(item.place, message)
        if not (notes.each or notes.bound or settings.target_modules is not None):
            return None, None, None
        if settings.target_modules is None:
            place = next(iter([*notes.each.values(), *notes.bound.values()]))
            raise self.error(place, 'the file does not say what its sites are: add //@ target_modules = "all-linear"')
        here = settings.target_place or Place(1, 1)
        if settings.target_modules == "all-layers" and "start" not in notes.each and repeated:
            check_layer_rules(self, repeated)
        else:
            self._check_start(here, len(repeated))
        if len(notes.bound) != 1 or next(iter(notes.bound)) not in self.index:
            raise self.error(
                here,
                "a space of sites has exactly one terminal marked `//@ bound`, and its site rule uses it",
            )
        return self._bound_terminal(repeated[0][1])

    def _check_start(self, here: Place, repeated: int) -> None:
        notes, start = self.notes, self.definitions["start"]
        if list(notes.each) != ["start"] or notes.sides or repeated != 1 or len(start.alternatives[0].items) != 1:
            place = next((p for name, p in notes.each.items() if name != "start"), here)
            raise self.error(place, "a space of sites begins with exactly `start: site+   //@ each = target_modules`")
        if len(start.alternatives) != 1 or start.alternatives[0].alias:
            raise self.error(start.place, "the rule with `each` has one alternative, without an alias")

    def _bound_terminal(self, site: Item) -> tuple[int, re.Pattern[str], int]:
        name, place = next(iter(self.notes.bound.items()))
        definition = self.definitions[name]
        items = [item for alternative in definition.alternatives for item in alternative.items]
        if len(items) != 1 or items[0].kind != "regex" or not items[0].text.endswith("/"):
            raise self.error(
                place,
                "a bound terminal is one regular expression without flags, what the names of the base look like",
            )
        uses = [
            d.name
            for d in self.definitions.values()
            for a in d.alternatives
            for item in a.items
            if item.text == name and item.kind == "terminal"
        ]
        rule = self.definitions[site.text]
        if uses != [site.text] or len(rule.alternatives) != 1:
            raise self.error(
                rule.place,
                f"the rule {shortened(site.text)} has one alternative, and uses {name} there once and nowhere else",
            )
        reason = slow_reason(items[0].text)
        if reason:
            raise self.error(items[0].place, f"the expression could take exponential time: {reason}")
        try:
            return (
                self.index[name],
                re.compile(items[0].text[1:-1].replace("\\/", "/")),
                self.index[site.text],
            )
        except (re.error, OverflowError, RecursionError) as error:
            raise self.error(items[0].place, f"not a regular expression: {error}") from None
