"""The engine of an architecture space: sentences of a PCFG whose ops all fit the input, under bounds on cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from archrank.grammar.analysis import Facts
from archrank.grammar.architecture import Architecture
from archrank.grammar.canonical import canonical
from archrank.grammar.derivation import Derivation, key_of
from archrank.grammar.elaborate import Elaboration, Misfit
from archrank.grammar.errors import EmptySpaceError
from archrank.grammar.fill import Fill, Limits
from archrank.grammar.model import Grammar
from archrank.grammar.program import Program
from archrank.grammar.sampling import Uniforms
from archrank.grammar.sentence import sentence_error
from archrank.grammar.signatures import Shape, Value, shown
from archrank.grammar.skeleton import Skeleton
from archrank.grammar.trees import Trees


class TypedTrees(Trees):
    """Trees whose sentences are filled for an input shape. `counts` says how branches were joined: free, goal,
    fallback.
    """

    def __init__(
        self, grammar: Grammar, facts: Facts, skeleton: Skeleton, sizes: tuple[int, int | None], uniform: bool,
        program: Program, shape: Shape, limits: Limits, literal: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(grammar, facts, skeleton, sizes[0], sizes[1], uniform)
        self.literal = literal
        self.program, self.shape, self.limits = program, shape, limits
        self.counts: Counter[str] = Counter()

    def derivation(self, choices: Sequence[int]) -> Derivation:
        """The candidate of these productions; its key is that of the canonical form (literal: of the sentence)."""
        if self.literal:
            return super().derivation(choices)
        return Derivation(self.sentences.write(choices), key_of(canonical(self.program, choices)), tuple(choices))

    def finished(self, choices: Sequence[int], uniform: Uniforms) -> list[int] | None:
        """The productions with every op made to fit; None where that cannot be."""
        return Fill(self.program, self.limits, choices, uniform, self.counts).run(Value(self.shape))

    def no_fit(self) -> EmptySpaceError:
        """The error where hardly any sentence can be made to fit."""
        shape = shown(self.shape)
        place = self.grammar.places[self.grammar.start]
        message = (
            f"hardly any sentence can be made to fit the input {shape} and the bounds: give each rule of ops one that "
            "always fits and costs nothing, such as `id`, or loosen the bounds"
        )
        return EmptySpaceError(self.grammar.file, place.line, place.column, message)

    def meets(self, d: Derivation) -> bool:
        """Whether the candidate keeps the bounds and its ops fit."""
        if not super().meets(d):
            return False
        try:
            found = Elaboration(self.program, d.choices).run(self.shape)
        except Misfit:
            return False
        return self._keeps(found)

    def _keeps(self, found: Architecture) -> bool:
        most = max((op.written for op in found.ops), default=0)
        return (
            found.params <= self.limits.params
            and found.flops <= self.limits.flops
            and most <= self.limits.elements
            and found.adapter_params <= self.limits.adapter_params
        )

    def enumerate(self) -> Iterator[Derivation]:
        """Every sentence within the bounds whose ops fit."""
        return (d for d in super().enumerate() if self.meets(d))

    def elaborate(self, d: Derivation, shape: Shape) -> Architecture:
        """The graph of a sentence; SpaceError at the op that does not fit."""
        try:
            return Elaboration(self.program, d.choices).run(shape)
        except Misfit as error:
            reading = self.sentences.read(d.text, self.grammar.start)
            at = reading.places[error.node] if d.choices == reading.choices else 0
            raise sentence_error(d.text, at, f"{error} (input {shown(shape)})") from None
