"""Tables of measured networks as sentences: a row of a benchmark's table is a sentence of the space that it is of."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Mapping
from pathlib import Path

from archrank import grammar

Row = Mapping[str, str]
_EDGES = ("~0", "~0", "~1", "~0", "~1", "~2")


def gpt2_elastic(row: Row) -> str:
    """HW-GPT-Bench: `embed_dim`, `n_layer`, `n_head` and `mlp_ratio` per layer (those of inactive layers are listed and
    not used), `bias`.
    """
    layers = int(row["n_layer"])
    heads, ratios = row["n_head"].split()[:layers], row["mlp_ratio"].split()[:layers]
    blocks = ",".join(f"block({h},{m})" for h, m in zip(heads, ratios, strict=True))
    kind = {"0": "plain", "false": "plain", "1": "biased", "true": "biased"}[row["bias"].strip().lower()]
    return f"gpt2(embed({row['embed_dim']}),{kind}(stack{layers}({blocks})),head)"


def nasbench201(row: Row) -> str:
    """NAS-Bench-201: `arch`, the benchmark's own string |op~0|+|op~0|op~1|+|op~0|op~1|op~2|."""
    edges = [edge for node in row["arch"].split("+") for edge in node.strip("|").split("|")]
    if tuple(edge[-2:] for edge in edges) != _EDGES:
        raise ValueError(f"arch {row['arch'][:80]!r} is not |op~0|+|op~0|op~1|+|op~0|op~1|op~2|")
    return f"cell({','.join(edge[:-2] for edge in edges)})"


TABLES: Mapping[str, tuple[Callable[[Row], str], tuple[str, ...]]] = {
    "gpt2_elastic": (gpt2_elastic, ("embed_dim", "n_layer", "n_head", "mlp_ratio", "bias")),
    "nasbench201": (nasbench201, ("arch",)),
}
"""For each space the sentence of a row, and the columns that it needs."""


def read_table(name: str, file: str | Path) -> list[str]:
    """The sentence of each row of a table (.csv or .csv.gz with a header), in order.

    name: `gpt2_elastic` or `nasbench201`. Raises ValueError for another name, a file that cannot be read, a missing
    column, and with file and line for a row that is no sentence of the space.
    """
    if name not in TABLES:
        raise ValueError(f"read_table({name!r}): tables are known for {', '.join(TABLES)}")
    sentence, columns = TABLES[name]
    space = grammar.load(name)
    rows = csv.DictReader(io.StringIO(_text(Path(file))))
    missing = [column for column in columns if column not in (rows.fieldnames or ())]
    if missing:
        raise ValueError(f"{file}: no column {', '.join(missing)}; a table of {name} has {', '.join(columns)}")
    found = []
    for row in rows:
        try:
            found.append(space.parse(sentence(row)).text)
        except (ValueError, KeyError, AttributeError) as error:
            raise ValueError(f"{file}:{rows.line_num}: no sentence of {name}: {error}") from None
    return found


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as a table: {error}") from None
