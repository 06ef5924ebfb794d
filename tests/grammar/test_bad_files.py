"""Every mistake a file can hold: what is said, and where."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from archrank import grammar

X, Y = '"x" -> x', '"y" -> y'
CHAIN = "start: r0\n" + "".join(f'r{i}: "a" r{i + 1} -> a{i}\n' for i in range(3000))
MANY = "".join(f'"x{i}" -> x{i}\n | ' for i in range(2001))
OPTIONALS = " ".join(f'["o{i}"]' for i in range(18))
MAYBES = " ".join(f"m{i}?" for i in range(18))
SITES = (
    '//@ target_modules = "all-linear"\nstart: site+ //@ each = target_modules\nsite: M ":" a\n'
    'a: "none" -> none\n | "lora" "(" R ")" -> lora\nR: "4" | "8"\nM: /[a-z.]+/ //@ bound\n%ignore /\\s+/\n'
)

# mistake: (text, line, what the message holds)
MISTAKES: dict[str, tuple[str, int, str]] = {
    "p above one": (f"start: a\na: {X} //@ p = 1.7\n", 2, "p = 1.7 is 1.7; a probability lies in [0, 1]"),
    "p below zero": (f"start: a\na: {X} //@ p = -1\n", 2, "a probability lies in [0, 1]"),
    "p is no number": (f"start: a\na: {X} //@ p = "
                       "nan\n", 2, "'nan' is not a number; allowed is a number such as"),
    "p too large": (f"start: a\na: {X} //@ p = 1e999\n", 2, "is not a finite number"),
    "p by zero": (f"start: a\n\n// words\na: {X} //@ p = 1/0\n | {Y}\n", 4, "'1/0' divides by zero"),
    "p is code": (f"start: a\na: {X} //@ p = __import__('os').getpid()\n", 2, "is not a number"),
    "p is a power": (f"start: a\na: {X} //@ p = 9**9**9\n", 2, "is not a number"),
    "p twice": (f"start: a\na: {X} //@ p = 1, p = 1\n", 2, "a second p for this alternative"),
    "p of two": (f"start: a\na: {X} | {Y} //@ p = 1\n", 2, "2 stand on this line: one alternative a line"),
    "p of none": (f"start: a\na: {X}\n\n//@ p = 1\n", 4, "there is none on this line"),
    "sum": (f"start: a\na: {X} //@ p = 0.5\n | {Y} //@ p = "
            "0.4\n", 2, "the probabilities of a sum to 0.9, not to 1"),
    "nothing left": (f"start: a\na: {X} //@ p = 1\n | {Y}\n", 3, "nothing is left for this alternative"),
    "unknown pragma": (f'start: a\na: {X}\n\n//@ colour = "blue"\n', 4, "unknown pragma 'colour'"),
    "near pragma": (f"start: a\na: {X}\n//@ inpt = "
                    "3x4x4\n", 3, "did you mean input? Known: target_modules, input"),
    "weight": (f"start: a\na: {X} //@ weight = 1\n", 2, "unknown pragma 'weight'"),
    "no value": (f"start: a\na: {X} //@ p\n", 2, "pragma 'p' is written as //@ p = 0.68/3"),
    "no key": (f"start: a\na: {X} //@ = 3\n", 2, "cannot read the pragma at '= 3'"),
    "empty pragma": (f"start: a\na: {X} //@\n", 2, "cannot read the pragma"),
    "commas": (f"start: a\na: {X} //@ ,,,\n", 2, "cannot read the pragma"),
    "file pragma on an "
    "alternative": (f"start: a\na: {X} //@ max size = 3\n", 2, "put it on a line of its own"),
    "bound twice": ("//@ max size = 3\n//@ max size = 4\nstart: a\na: "
                    f"{X}\n", 2, "a second max size: keep one"),
    "unknown bound": (f"//@ max sizes = 3\nstart: a\na: {X}\n", 1, "no such bound; did you mean size?"),
    "negative bound": (f"//@ max size = -3\nstart: a\na: {X}\n", 1, "a bound is not negative"),
    "bound unmet": ('start: a\n//@ max size = 1\na: "x" "(" b ")" -> x\nb: '
                    f'{Y}\n', 2, "no sentence meets max size = 1: the smallest has size 2"),
    "depth unmet": ('//@ max depth = 1\nstart: a\na: "x" "(" b ")" -> x\nb: '
                    f'{Y}\n', 1, "no sentence has a depth of at most 1"),
    "bound without "
    "cost": (f"//@ max flops = 3\nstart: a\na: {X}\n", 1, "max flops: sentences of this file have no cost"),
    "bound too "
    "large": ('//@ max size = 99999999999\nstart: a\na: "(" a ")" -> b\n | "x" -> '
              'x\n', 1, "more than the counting tables"),
    "prior": ("//@ prior size = flat\nstart: a\na: "
              f"{X}\n", 1, "the one prior that can be stated is //@ prior size = uniform"),
    "prior without "
    "bound": ('//@ prior size = uniform\nstart: a\na: "(" a ")" -> b\n | "x" -> '
              'x\n', 1, "has no bound on its size"),
    "input": (f"//@ input = 0x0x0\nstart: a\na: {X}\n", 1, "input = 0x0x0: channels x height x width"),
    "large input": (f"//@ input = 9999999x9999999x9\nstart: a\na: {X}\n", 1, "2^31 values at most"),
    "no op": (f"//@ input = 3x4x4\nstart: a\na: {X}\n", 3, "no op 'x': an alias of this file names an op"),
    "copies of "
    "none": ('start: a\na: "x" "(" b ")" -> x //@ copies(c) = 4\nb: '
             f'{Y}\n', 2, "copies(c): the alternative has no such rule. Its rules: b"),
    "half a copy": ('start: a\na: "x" "(" b ")" -> x //@ copies(b) = 1.5\nb: '
                    f'{Y}\n', 2, "a whole number from 1 to 65,536 is needed"),
    "copies of one of "
    "two": ('start: a\na: "x" "(" b "," b ")" -> x //@ copies(b) = 2\nb: '
            f'{Y}\n', 2, "stands there more than once"),
    "alias twice": ('start: a\na: "x" -> x\n | "y" -> '
                    'x\n', 3, "alias 'x' stands twice in a, first on line 2"),
    "alias missing": (f'start: a\na: "x"\n | {Y}\n', 2, "an alternative of a has no alias: add `-> name`"),
    "alias clashes": ('start: a\na: "x" -> b\n | "(" b ")" -> c\nb: '
                      f'{Y}\n', 2, "alias 'b' is also the name of a rule, line 4"),
    "undefined": ('start: a\na: "x" bee -> x\n | "y" -> y\nbe: '
                  '"z"\n', 2, "bee is used and not defined; did you mean be? Defined: start, a, be"),
    "defined twice": (f"start: a\na: {X}\na: {Y}\n", 3, "a is defined twice, first on line 2"),
    "no start": (f"a: {X}\n", 1, "there is no rule `start`"),
    "empty": ("\n// words\n", 1, "there is no rule `start`"),
    "unproductive": ('start: a\na: "x" "(" a ")" -> '
                     'x\n', 2, "a never ends: each of its alternatives needs another"),
    "first overlap": ('start: a\na: "x" "1" -> one\n | "x" "2" -> '
                      'two\n', 3, 'two alternatives of a begin with "x", here and on line 2'),
    "left recursion": ('start: a\na: a "x" -> more\n | "y" -> '
                       'y\n', 2, "a can begin with itself (left recursion)"),
    "endless values": ("start: a\na: N -> n\nN: "
                       "/[0-9]+/\n", 3, "terminal N is a regular expression: its values cannot be counted"),
    "regex in a rule": ("start: a\na: /[0-9]+/ -> n\n", 2, "a regular expression in a rule"),
    "imported terminal": ("start: a\na: WORD -> n\n%import "
                          "common.WORD\n", 2, "WORD is imported, a regular expression"),
    "compound value": ('start: a\na: N -> n\nN: "a" "b" | '
                       '"c"\n', 3, "a value of terminal N is one quoted text"),
    "value twice": ('start: a\na: N -> n\nN: "1" | "2" | "1"\n', 3, 'the value "1" of N stands there twice'),
    "no case": ('start: a\na: "x"i -> x\n', 2, "ignores letter case"),
    "escape": ('start: a\na: "\\n" -> x\n', 2, "has an escape"),
    "blank literal": ('start: a\na: "x " -> x\n', 2, "white space at an end"),
    "inlined": (f"start: a\n?a: {X}\n", 2, "rule '?a' begins with '?', which hides choices"),
    "hidden": (f"start: _a\n_a: {X}\n", 2, "begins with '_'"),
    "optional": ('start: a\na: ["z"] "x" -> x\n', 2, "`[ … ]` is not read"),
    "group": ('start: a\na: ("z" | "y") "x" -> x\n', 2, "groups `( … )` are not read"),
    "times": ('start: a\na: "x"~2..4 -> x\n', 2, "the repetition `~2..4` is not read"),
    "star": (f"start: a*\na: {X}\n", 1, "the repetition `*` is not read"),
    "plus": (f"start: a+\na: {X}\n", 1, "`a+` repeats without saying how often"),
    "template": ('start: w{"x"}\nw{t}: t -> x\n', 1, "templates are not read"),
    "template rule": ('start: a\na: "x" -> x\nw{t}: t -> y\n', 3, "'w' is a template"),
    "range": ('start: a\na: N -> n\nN: "a".."z"\n', 3, "a range of characters is not read"),
    "priority": (f"start: a\na.3: {X}\n", 2, "has a priority"),
    "imported": (f"start: a\na: {X}\n | b -> y\n%import .other.b\n", 4, "%import is not read here"),
    "declared": (f"start: a\na: {X}\n%declare B\n", 3, "%declare is not read here"),
    "not Lark": (f"start: a\na: {X}\n) oops (\n", 3, "unexpected ') oops (': this is not a Lark grammar"),
    "empty alternative": (f"start: a\na: {X}\n | -> y\n", 3, "an empty alternative: give it a keyword"),
    "bad ignore": (f"start: a\na: {X}\n%ignore /((((/\n", 1, "Lark does not accept the grammar"),
    "NUL": (f"start: a\na: {X}\n\0", 3, "a NUL character"),
    "long line": (f"start: a\na: {X} //{'/' * 3000}\n", 2, "a line of 3,014 characters"),
    "long file": (f"start: a\na: {X}\n" + "// words\n" * 20_000, 1, "a space file has at most 131,072"),
    "many empty lines": ("start: a\n" + "\n" * 30_000 + f"a: {X}\n", 502, "more than 500 empty lines in a row"),
    "many rules": (CHAIN, 501, "more than 500 rules"),
    "many alternatives": (f"start: a\na: {MANY} {Y}\n", 2, "more than 2000 alternatives"),
    "18 optionals": (f"start: a\na: {OPTIONALS} {X}\n", 2, "`[ … ]` is not read"),
    "18 maybes": (f"start: a\na: {MAYBES} {X}\n", 2, "the repetition `?` is not read"),
    "backslashes": (f"start: a\na: {X}\nB: /" + "\\\\" * 40 + "\n", 3, "pairs of backslashes"),
    "site without file pragma": (SITES.split("\n", 1)[1], 1, "the file does not say what its sites are"),
    "unquoted modules": (SITES.replace('"all-linear"', "all"), 1, "target_modules is a quoted text"),
    "site without "
    "each": (SITES.replace(" //@ each = target_modules", ""), 2, "repeats without saying how often"),
    "each of what": (SITES.replace("each = target_modules", "each = layers"), 2, "only `each = "
                                                                                 "target_modules` is known"),
    "site without bound": (SITES.replace(" //@ bound", ""), 7, "or mark it `//@ bound`"),
    "bound rule": (SITES.replace('M ":" a', 'M ":" a //@ '
                                            'bound'), 3, "'bound' belongs on the line of a terminal"),
    "no adapter": (SITES.replace("-> lora", "-> lora_x"), 5, "no adapter 'lora_x': an alias of this file names "
                                             "a family with a known cost; did you mean lora_xs or lora?"),
    "rank zero": (SITES.replace('"4" |', '"0" |'), 6, '"0" is no argument of lora'),
    "rank a word": (SITES.replace('"4" |', '"big" |'), 6, '"big" is no argument of lora'),
    "no rank": (SITES.replace('"(" R ")"', '"(" ")"'), 5, "lora takes 1 numbers from terminals"),
    "site without white space": (SITES.replace("%ignore /\\s+/\n", ""), 2, "add `%ignore /\\s+/`"),
    "site with copies": (SITES.replace('":" a\n', '":" a //@ copies(a) = 2\n'), 3, "an adapter stands once"),
    "site with depth": ("//@ max depth = 3\n" + SITES, 1, "max depth: a space of sites has no such bound"),
    "site with a "
    "prior": ("//@ prior size = uniform\n" + SITES, 3, "all sentences of a space of sites have one size"),
    "site names that hang": (SITES.replace("/[a-z.]+/", "/([a-z.]+)+/"), 7, "could take exponential time"),
    "ignore that hangs": (f"start: a\na: {X}\n%ignore /(a+)+/\n", 1, "could take exponential time"),
    "site uses the name "
    "twice": (SITES.replace('M ":" a', 'M ":" M ":" a'), 3, "uses M there once and nowhere else"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_named_with_its_place(name: str) -> None:
    text, line, message = MISTAKES[name]
    start = time.process_time()
    with pytest.raises(grammar.SpaceError) as caught:
        grammar.loads(text, "my.lark")
    assert time.process_time() - start < 3
    error = caught.value
    assert message in error.message
    assert (error.file, error.line) == ("my.lark", line)
    assert str(error) == f"my.lark:{line}:{error.column}: {error.message}"
    assert error.column >= 1
    assert len(str(error)) < 2000
    assert not isinstance(error, grammar.EmptySpaceError)


def test_column_is_that_of_the_pragma() -> None:
    with pytest.raises(grammar.SpaceError) as caught:
        grammar.loads('start: a\na: "x" -> x   //@ p = 1.7\n')
    assert caught.value.column == 19


def test_comment_after_blank_lines_has_its_own_line() -> None:
    with pytest.raises(grammar.SpaceError) as caught:
        grammar.loads(f"start: a\na: {X}\n\n\n   //@ p = 1\n")
    assert (caught.value.line, caught.value.column) == (5, 8)


REMARKS = {
    "unreachable rule": (f"start: a\na: {X}\nb: {Y}\n", 3, "unreachable"),
    "unused terminal": (f'start: a\na: {X}\nN: "1" | "2"\n', 3, "unreachable"),
    "touching words": ('start: a\na: "x" b -> x\nb: "y" -> y\n', 2, "touching"),
    "supercritical": (
        'start: a\na: "(" a a ")" -> b //@ p = 0.9\n | "x" -> x\n%ignore " "\n',
        1,
        "branching",
    ),
}


@pytest.mark.parametrize("name", REMARKS)
def test_remarks(name: str) -> None:
    text, line, code = REMARKS[name]
    assert [(lint.line, lint.code) for lint in grammar.loads(text).lints] == [(line, code)]


def test_branching_counts_copies() -> None:
    text = 'start: a\na: "s" "(" a ")" -> s //@ p = 0.6, copies(a) = 4\n | "x" -> x\n'
    said = grammar.loads(text).lints[0].message
    assert "branching rate 0.6 of derivations, 2.4 with every copy counted" in said
    assert "add //@ max size = 200" in said
    bounded = grammar.loads("//@ max size = 20\n" + text).lints[0].message
    assert "half up to 1" in bounded


def test_missing_files_name_near_spaces(tmp_path: Path) -> None:
    with pytest.raises(
        grammar.SpaceError,
        match=r"no space 'lora_rank': no such file and no shipped "
        r"space; did you mean lora_ranks\? Shipped: "
        r".*lora_ranks",
    ):
        grammar.load("lora_rank")
    with pytest.raises(grammar.SpaceError, match=r"no_such_space\.lark"):
        grammar.load("no_such_space.lark")
    with pytest.raises(grammar.SpaceError, match="is a folder"):
        grammar.load(tmp_path)
    with pytest.raises(grammar.SpaceError, match="no space"):
        grammar.load("a\0b")


def test_files_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "bad.lark"
    file.write_bytes(b'start: a\na: "\xff" -> x\n')
    with pytest.raises(grammar.SpaceError, match="byte 0xff is not UTF-8") as caught:
        grammar.load(file)
    assert (caught.value.line, caught.value.column) == (2, 5)
    file.write_bytes(bytes(range(256)) * 40)
    with pytest.raises(grammar.SpaceError):
        grammar.load(file)
    file.write_bytes(b'huge: "y" -> y\n' + b' | "x" -> x\n' * 900_000)
    start = time.process_time()
    with pytest.raises(grammar.SpaceError, match="10,800,015 bytes"):
        grammar.load(file)
    assert time.process_time() - start < 1


TOKENS = ["[", "]", "(", ")", "|", "?", "*", "+", "->", "{", "}", '"', "~2..4", "~99999999", "%import .x\n",
          "%import common.WORD\n", "%ignore", "%declare A\n", "\x00", "\\", "/(a+)+$/", "/((((((",
          " //@ p = 1e999",
          " //@ p = 1/0", " //@ copies(module) = "
                          "99999999999", "\n//@ max size = 0\n", "\n//@ max depth = 1\n", "//@",
          "\n//@ max params = 99999999999999M\n", "//@ ,,,", "\u202e", "start: start\n", "_", "!",
          'x.999999999999: "x"\n', "(" * 40_000 + ")" * 40_000]  # fmt: skip


def refusal(text: str) -> grammar.SpaceError | None:
    try:
        grammar.loads(text)
    except grammar.SpaceError as error:
        return error
    return None


def test_hostile_files_give_errors_quickly() -> None:
    rng = random.Random(1)
    originals = [Path(grammar.load("lora_ranks").path or "").read_bytes(), TREE.encode()]
    refused = 0
    for round_ in range(400):
        data = bytearray(originals[round_ % 2])
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data) + 1)
            kind = rng.randrange(4)
            if kind == 0:
                data[at:at] = rng.choice(TOKENS).encode()
            elif kind == 1:
                del data[at : at + rng.randrange(30)]
            elif kind == 2 and data:
                data[rng.randrange(len(data))] = rng.randrange(256)
            else:
                lines = data.split(b"\n")
                lines.insert(rng.randrange(len(lines)), rng.choice(lines))
                data = bytearray(b"\n".join(lines))
        text = data.decode("utf-8", errors="replace")
        start = time.process_time()
        error = refusal(text)
        if error is not None:
            refused += 1
            assert 1 <= error.line <= text.count("\n") + 2
            assert 0 < len(str(error)) < 2000
        assert time.process_time() - start < 3
    assert refused > 100


TREE = """//@ max size = 30
start: m
m: "seq" "(" m "," m ")" -> seq //@ p = 0.6
 | "rep" "(" m ")" -> rep //@ copies(m) = 3
 | "lin" "(" W ")" -> lin
W: "16"
 | "32" //@ p = 0.75
%ignore /\\s+/
"""
