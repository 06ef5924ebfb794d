"""Search spaces as grammars: one sentence of a Lark file is one candidate. No torch; Lark loads with the
first file.
"""

from __future__ import annotations

from archrank.grammar.architecture import Architecture, OpNode
from archrank.grammar.arithmetic import number
from archrank.grammar.derivation import Derivation
from archrank.grammar.encoding import Slot
from archrank.grammar.errors import EmptySpaceError, Lint, OpError, SpaceError
from archrank.grammar.layers import EncoderLayer, EnsembleChoice, LayerChoice
from archrank.grammar.loading import load, loads
from archrank.grammar.modules import match_modules
from archrank.grammar.nearest import nearest
from archrank.grammar.reader import shipped
from archrank.grammar.sites import Adapter, Site
from archrank.grammar.space import Space
from archrank.grammar.space_sentences import Cost

__all__ = [
    "Adapter",
    "Architecture",
    "Cost",
    "Derivation",
    "EmptySpaceError",
    "EncoderLayer",
    "EnsembleChoice",
    "LayerChoice",
    "Lint",
    "OpError",
    "OpNode",
    "Site",
    "Slot",
    "Space",
    "SpaceError",
    "load",
    "loads",
    "match_modules",
    "nearest",
    "number",
    "shipped",
]
