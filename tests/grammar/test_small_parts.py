"""Numbers, near names, target modules, and that importing stays light."""

from __future__ import annotations

import math
import subprocess
import sys
import time

import pytest

from archrank import grammar

NUMBERS = {
    "8": 8, "2M": 2_000_000, "3.5k": 3500, "64MiB": 64 * 2**20, "1e-3": 1e-3, "0.68/3": 0.68 / 3,
    " 2 * (1 + 3) ": 8,
    "-1": -1, "10_000": 10_000, "5%": 0.05, ".5": 0.5, "7B": 7e9, "2--1": 3, "1e3k": 1e6,
}  # fmt: skip


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers(text: str) -> None:
    assert math.isclose(grammar.number(text), NUMBERS[text])


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "banana",
        "1/0",
        "9**9",
        "1e999",
        "nan",
        "inf",
        "2 M",
        "2Q",
        "(1",
        "1)",
        "1 2",
        "__import__('os')",
        "9" * 500,
        "(" * 150,
    ],
)
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match=r"allowed is a number such as 8, 0\.68/3, 1e-3, 2M, 3\.5k or 64MiB"):
        grammar.number(text)


def test_nearest() -> None:
    assert grammar.nearest("qurey", ["key", "query", "value"])[0] == "query"
    assert grammar.nearest("lora_rank", ["lora_ranks", "einspace"]) == ["lora_ranks"]
    assert grammar.nearest("nsga", ["random", "nsga2"]) == ["nsga2"]
    assert grammar.nearest("acuracy", ["accuracy", "loss"]) == ["accuracy"]
    assert grammar.nearest("xyz", ["accuracy", "loss"]) == []


NAMES = [f"encoder.layer.{i}.{n}" for i in range(12) for n in ("attention.query", "attention.value", "dense")]


def test_target_modules_as_peft_reads_them() -> None:
    match = grammar.match_modules
    assert match("all-linear", NAMES, NAMES[:5]) == NAMES[:5]
    assert match("query", NAMES, NAMES) == [n for n in NAMES if n.endswith(".query")]
    assert match("query, dense", NAMES, NAMES) == [n for n in NAMES if n.endswith((".query", ".dense"))]
    assert match("encoder.layer.1.dense", NAMES, NAMES) == ["encoder.layer.1.dense"]
    assert match(r".*\.(query|value)", NAMES, NAMES) == [n for n in NAMES if not n.endswith("dense")]
    assert match(r"encoder\.layer\.\d\.dense", NAMES, NAMES) == [f"encoder.layer.{i}.dense" for i in range(10)]


def test_target_modules_that_match_nothing() -> None:
    with pytest.raises(
        ValueError,
        match=r"'qurey' matches no module; did you mean query\? The modules end "
        r"in: query, value, dense",
    ):
        grammar.match_modules("qurey", NAMES, NAMES)
    with pytest.raises(ValueError, match="'vale' matches no module; did you mean value"):
        grammar.match_modules("query,vale", NAMES, NAMES)
    with pytest.raises(ValueError, match="matches no module"):
        grammar.match_modules("ery", NAMES, NAMES)
    with pytest.raises(ValueError, match=r"matches no module"):
        grammar.match_modules(".*query.", NAMES, NAMES)
    with pytest.raises(ValueError, match="is not a regular expression"):
        grammar.match_modules("((q", NAMES, NAMES)
    with pytest.raises(ValueError, match="1 to 1000 characters"):
        grammar.match_modules("", NAMES, NAMES)
    with pytest.raises(ValueError, match="'all-linear' matches nothing"):
        grammar.match_modules("all-linear", NAMES, [])


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(.*)*x", "((a|b)*c)*d", "(a|aa)+$", "(x{1,9}y?){1,99}", ".*.*.*.*.*.*.*.*x"]
)
def test_expressions_that_could_take_for_ever_are_refused(pattern: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ValueError, match="could take exponential time"):
        grammar.match_modules(pattern, ["a" * 60], [])
    assert time.perf_counter() - start < 0.5


def test_importing_is_light() -> None:
    code = (
        "import sys, archrank.grammar as g; print(sorted({'lark', 'torch', 'transformers', 'networkx'} "
        "& set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
