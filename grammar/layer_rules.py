"""What a file over layers may say beyond `start: layer+`: several rules that repeat the layers of a base, all of them
or those below or above a split that the sentence states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from archrank.grammar.attach import Notes
from archrank.grammar.errors import Place, SpaceError, shortened
from archrank.grammar.meta import Alternative, Definition, Item

_FORM = (
    "a space over layers is `start: layer+   //@ each = target_modules`, or has rules of that form, such as `whole: "
    "layer+   //@ each = target_modules`, `trunk: layer+   //@ each(below) = SPLIT`, `member: layer+   //@ "
    "each(above) = SPLIT`"
)


class Reader(Protocol):
    """What is read of the builder of a grammar."""

    notes: Notes
    definitions: dict[str, Definition]

    def error(self, place: Place, message: str) -> SpaceError:
        """A SpaceError of the file."""


def check_layer_rules(reader: Reader, repeated: Sequence[tuple[Definition, Item]]) -> None:
    """SpaceError where a rule with `each` is no bare repetition, or where a split is not what one can be."""
    notes, definitions = reader.notes, reader.definitions
    sites = {item.text for _, item in repeated}
    for name, place in notes.each.items():
        alternatives = definitions[name].alternatives
        bare = len(alternatives) == 1 and not alternatives[0].alias and len(alternatives[0].items) == 1
        if not bare or not alternatives[0].items[0].repeated or len(sites) != 1:
            raise reader.error(place, f"{shortened(name)}: {_FORM}")
    terminals = {terminal for _, terminal in notes.sides.values()}
    for name, (side, terminal) in notes.sides.items():
        definition = definitions.get(terminal)
        if definition is None or not definition.is_terminal or terminal in notes.bound:
            raise reader.error(notes.each[name], f"each({side}) = {shortened(terminal)}: no such terminal; {_FORM}")
    if len(terminals) > 1:
        place = notes.each[list(notes.sides)[-1]]
        raise reader.error(place, f"a file has one split; these rules name {' and '.join(sorted(terminals))}")
    for terminal in terminals:
        _check_values(reader, definitions[terminal])
        _check_uses(reader, terminal, definitions)


def _check_values(reader: Reader, definition: Definition) -> None:
    for alternative in definition.alternatives:
        text = alternative.items[0].text
        if not (text.isascii() and text.isdigit() and 0 < int(text) < 10_000 and text == str(int(text))):
            raise reader.error(
                alternative.place,
                f"{definition.name} is a split: its values are numbers of layers from 1 on, not {shortened(text)!r}",
            )


def _check_uses(reader: Reader, terminal: str, definitions: Mapping[str, Definition]) -> None:
    """The split stands in the alternative that uses the rules below and above it, before them."""
    sided = set(reader.notes.sides)
    for definition in definitions.values():
        for alternative in definition.alternatives:
            if not _is_ordered(alternative, terminal, sided):
                raise reader.error(
                    alternative.place,
                    f"{shortened(definition.name)}: {terminal} stands once in the alternative that uses "
                    f"{', '.join(sorted(sided))}, before them",
                )


def _is_ordered(alternative: Alternative, terminal: str, sided: set[str]) -> bool:
    words = [item.text for item in alternative.items if item.kind in ("rule", "terminal")]
    if not sided & set(words):
        return terminal not in words
    return words.count(terminal) == 1 and all(words.index(terminal) < words.index(w) for w in sided & set(words))
