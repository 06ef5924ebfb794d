"""Mutated space files: whatever stands in one, the answer is a space or a SpaceError with a place, within a second and
within 200 MB, and nothing in it is evaluated. 500 files in a normal run, 10,000 with the slow ones.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import lark
import numpy as np
import pytest

from archrank import grammar, spaces
from archrank.grammar import ops

CHUNK, CHUNKS = 500, 20
SENTINEL = "ARCHRANK_FUZZ_WAS_HERE"
EVIL = f"__import__('os').environ.setdefault('{SENTINEL}','1')"
MEGABYTE = 2**20

OWN = """// a user's space with an input, values of one and of several, and a branch of each form
//@ input = 24x12
//@ max size = 60, max depth = 30
//@ max params = 1M, max flops = 100M, max activation_bytes = 1MiB
start: m
m: "seq" "(" m "," m ")"               -> seq      //@ p = 0.3
 | "two" "(" s "," m "," m "," j ")"   -> branch2  //@ p = 0.1
 | "six" "(" s "," m "," j ")"         -> branch6  //@ p = 0.1, copies(m) = 6
 | "way" "(" t "," m "," t ")"         -> route    //@ p = 0.1
 | one                                 -> leaf
one: "lin" "(" W ")"      -> linear
   | "conv" "(" K "," W ")" -> conv1d //@ p = 0.2
   | "norm"               -> norm
   | "id"                 -> id
s: "clone" -> clone
 | "cut" "(" A ")" -> group
j: "add" -> add
 | "mul" -> matmul
 | "cat" "(" A ")" -> concat
t: "id" -> id
 | "turn" "(" O ")" -> permute
A: "1" | "2"
K: "1" //@ p = 1/2
 | "3" | "5"
O: "21"
W: "4" | "12" | "24"
%ignore /\\s+/
"""

TOKENS = [
    "(", ")", "[", "]", "{", "}", "|", "?", "*", "+", "->", '"', "/", "\\", "~3", "~1..99999", ":", ",", "\0", "\r",
    "\t", "\ufeff", "\u2028", "\u202e", "é", "%import common.INT\n", "%import .m\n", "%ignore", "%declare X\n",
    "%override m: \"x\"\n", "%extend m: \"x\"\n", "/(a|a)*$/", "/(x+x+)+y/", "/[/", '"' * 3, "//", "//@", "//@ p",
    "//@ p =", "//@ = 1", "//@ p = 2", "//@ p = 1/0", "//@ p = 1e400", "//@ p = 0x10", "//@ p = 1_000",
    "//@ p = ((((1))))", "//@ p = 9**9**9", f"//@ p = {EVIL}", f"//@ max size = {EVIL}\n",
    f'//@ target_modules = "{EVIL}"\n', f'"{EVIL}" -> id\n | ', "//@ copies(m) = 65536", "//@ copies(m) = 99999999",
    "//@ copies(module) = 8", "//@ copies(zzz) = 2", "//@ bound", "//@ each = target_modules",
    "\n//@ input = 3x64x64\n", "\n//@ input = 1\n", "\n//@ input = 0x4\n", "\n//@ input = 99999x99999\n",
    "\n//@ input = 4x4x4x4x4x4\n", "\n//@ input = 2147483647x1\n", "\n//@ input = x\n", "\n//@ input = 3.5x2\n",
    "\n//@ max size = 5000\n", "\n//@ max size = 0\n", "\n//@ max depth = 2\n", "\n//@ max depth = 99999999\n",
    "\n//@ max params = 0\n", "\n//@ max flops = 1e308\n", "\n//@ max activation_bytes = 1\n",
    "\n//@ max adapter_params = 3\n", "\n//@ prior size = uniform\n", "\n//@ prior size = evil\n",
    '\n//@ target_modules = "(a+)+"\n', '\n//@ target_modules = "all-linear"\n', " -> branch999999999",
    " -> branch1024", " -> branch0", " -> im2col", " -> lora", " -> nonesuch", " -> leaf9", " -> _x", " -> seq\n",
]  # fmt: skip

VALUES = " | ".join(f'"{i}"' for i in range(1, 65))
DEFINED = "".join(f'o{i}: "v{i}" -> id\n' for i in range(20))
APPENDED = [
    "boom: " + " ".join(f'["o{i}"]' for i in range(20)) + ' "x" -> id\n',
    "boom: " + " ".join(f"o{i}?" for i in range(20)) + ' "x" -> id\n' + DEFINED,
    "".join(f'chain{i}: "c" "(" chain{i + 1} ")" -> seq\n' for i in range(450)) + 'chain450: "c" -> id\n',
    "".join(f'many{i}: "c" "(" BIG "," BIG ")" -> conv1d\n' for i in range(400)) + f"BIG: {VALUES}\n",
    'cube: "c" "(" BIG "," BIG "," BIG ")" -> im2col\n' + f"BIG: {VALUES}\n",
    "wide: " + "\n | ".join(f'"w{i}" -> leaf{i}\n' for i in range(300)),
    'grow: "g" "(" grow "," grow "," grow ")" -> seq //@ p = 0.99\n | "e" -> id\n',
    'fork: "f" "(" cut "," fork "," put ")" -> branch1024 //@ p = 0.9, copies(fork) = 1024\n | "e" -> id\n'
    'cut: "c" -> clone\nput: "p" -> add\n',
    "loop: loop -> leaf\n",
    'first: second "x" -> seq\nsecond: first "y" -> seq\n | "z" -> id\n',
    "LONG: " + " | ".join(f'"{i:06}"' for i in range(150)) + "\n",
    'deep: ' + '"(" ' * 400 + '"x"' + ' ")"' * 400 + " -> id\n",
]  # fmt: skip


def originals() -> list[bytes]:
    return [*(spaces.path(name).read_bytes() for name in spaces.available()), OWN.encode()]


def lines_changed(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        del lines[i]
    elif kind == 1:
        lines.insert(i, lines[j])
    elif kind == 2:
        lines[i], lines[j] = lines[j], lines[i]
    elif kind == 3:
        rng.shuffle(lines)
    else:
        lines[i] += lines[j]
    return b"\n".join(lines)


def words_changed(rng: random.Random, data: bytes) -> bytes:
    """One word of the file for another, or for the name of an op."""
    found = list(re.finditer(rb"[A-Za-z_]\w*", data))
    if not found:
        return data
    target, other = rng.choice(found), rng.choice(found).group()
    if rng.random() < 0.4:
        other = rng.choice(ops.available()).encode() + rng.choice([b"", b"2", b"4", b"33"])
    return data[: target.start()] + other + data[target.end() :]


def numbers_changed(rng: random.Random, data: bytes) -> bytes:
    choices = [b"0", b"1", b"3", b"7", b"1000", b"65537", b"9" * 9, b"9" * 10, b"9" * 400, b"1e9", b"-1", b"0.5"]
    return re.sub(rb"\d+", lambda m: rng.choice(choices) if rng.random() < 0.08 else m[0], data)


def bytes_changed(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(3)
        if kind == 0 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif kind == 1:
            changed[at:at] = bytes([rng.randrange(32, 127)])
        else:
            del changed[at : at + rng.randrange(1, 20)]
    return bytes(changed) or b"\n"


def inserted(rng: random.Random, data: bytes) -> bytes:
    at = rng.choice([rng.randrange(len(data) + 1), data.find(b"\n", rng.randrange(len(data) + 1))])
    return data[:at] + rng.choice(TOKENS).encode() + data[at:]


def nested(rng: random.Random, data: bytes) -> bytes:
    at, n = rng.randrange(len(data) + 1), rng.choice([40, 900, 30_000])
    left, right = rng.choice([(b"(", b")"), (b"[", b"]"), (b'"(" ', b""), (b"m ", b""), (b"| ", b""), (b"\n", b"")])
    return data[:at] + left * n + right * n + data[at:]


def cut(rng: random.Random, data: bytes) -> bytes:
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return rng.choice([data[:b], data[a:], data[:a] + data[b:], data + data[a:b], data * 2]) or b"\n"


def appended(rng: random.Random, data: bytes) -> bytes:
    rule = rng.choice(APPENDED)
    name = rule.split(":", 1)[0].strip()
    if rng.random() < 0.5 and name.islower():  # reachable, where the rule it is hung on allows it
        data = re.sub(rb"(\n +\| )", rb'\1"hook" "(" ' + name.encode() + rb' ")" -> seq\n | ', data, count=1)
    return data + b"\n" + rule.encode()


CHANGES: list[Callable[[random.Random, bytes], bytes]] = [
    lines_changed, words_changed, words_changed, numbers_changed, bytes_changed, inserted, inserted, nested, cut,
    appended,
]  # fmt: skip


def mutated(seed: int) -> bytes:
    rng = random.Random(seed)
    data = rng.choice(originals())
    for _ in range(rng.randint(1, 4)):
        data = rng.choice(CHANGES)(rng, data)
    return data


@contextlib.contextmanager
def limited(extra: int) -> Iterator[None]:
    """At most `extra` bytes of address space more than now, where the system can say so."""
    if not sys.platform.startswith("linux"):
        yield
        return
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + extra, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def answer(data: bytes, folder: Path) -> grammar.Space | grammar.SpaceError:
    """What reading gives; any other exception is the test's to see."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        file = folder / "mutated.lark"
        file.write_bytes(data)
        try:
            return grammar.load(file)
        except grammar.SpaceError as error:
            return error
    try:
        return grammar.loads(text)
    except grammar.SpaceError as error:
        return error


def attempted(run: Callable[[], list[grammar.Derivation]], *said: str) -> list[grammar.Derivation]:
    """What a call gives; [] where it refuses in one of these words."""
    try:
        return run()
    except ValueError as error:
        if any(words in str(error) for words in said):
            return []
        raise


def used(space: grammar.Space) -> None:
    """Sentences of an accepted file work: stock Lark reads it and them, they parse back and vary."""
    stock = lark.Lark(space.text, parser="lalr")
    if space.needs_binding:
        return
    rng = np.random.default_rng(0)
    drawn = attempted(lambda: space.sample(rng, 3), "hardly any sentence", "grew beyond")
    for d in drawn:
        assert space.parse(d.text) == d
        stock.parse(d.text)
        if space.is_architecture_space:
            assert space.elaborate(d).params >= 0
    for child in attempted(lambda: [space.mutate(drawn[0], rng)], "nothing to vary") if drawn else ():
        assert child.key != drawn[0].key


@pytest.mark.parametrize("chunk", [pytest.param(i, marks=[pytest.mark.slow] if i else []) for i in range(CHUNKS)])
def test_mutated_files(chunk: int, tmp_path: Path) -> None:
    assert SENTINEL not in os.environ
    refused = 0
    for text in originals():
        assert isinstance(answer(text, tmp_path), grammar.Space)
    with limited(200 * MEGABYTE):
        for seed in range(chunk * CHUNK, (chunk + 1) * CHUNK):
            data = mutated(seed)
            begun = time.process_time()
            found = answer(data, tmp_path)
            spent = time.process_time() - begun
            assert spent < 3, f"file {seed}: {spent:.2f} s"
            if isinstance(found, grammar.SpaceError):
                refused += 1
                assert 1 <= found.line <= data.count(b"\n") + data.count(b"\r") + 2, (seed, str(found))
                assert found.column >= 1, seed
                assert 0 < len(str(found)) < 2000, seed
            elif seed % 5 == 0:
                used(found)
    assert SENTINEL not in os.environ
    assert 0.5 * CHUNK < refused < CHUNK


def test_arithmetic_is_not_evaluated() -> None:
    for place in (f"p = {EVIL}", f"p = 1 if {EVIL} else 1", f"copies(a) = {EVIL}"):
        with pytest.raises(grammar.SpaceError):
            grammar.loads(f'start: a\na: "x" -> id //@ {place}\n')
    with pytest.raises(grammar.SpaceError):
        grammar.loads(f'//@ input = {EVIL}\nstart: a\na: "x" -> id\n')
    assert SENTINEL not in os.environ
