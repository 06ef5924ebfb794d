"""A user's own op: usable in grammars read afterwards, checked, and every mistake told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import archrank as ar
from archrank import grammar, supernet
from archrank.grammar import ops

SPACE = """//@ input = 16x8
//@ max size = 12
start: m
m: "seq" "(" m "," m ")"   -> seq           //@ p = 0.5
 | "gate" "(" WIDTH ")"    -> NAME          //@ p = 0.4
 | "id"                    -> id
WIDTH: "4" | "8" | "32"
%ignore /\\s+/
"""
FILE = """import torch
import archrank as ar

@ar.op("NAME", shape=lambda s, w: s, params=lambda s, w: 3 * s[-1] * w, flops=lambda s, w: 6 * s[0] * s[-1] * w)
class Gated(torch.nn.Module):
    def __init__(self, shape, width):
        super().__init__()
        sizes = ((shape[-1], width), (shape[-1], width), (width, shape[-1]))
        self.a, self.b, self.c = (torch.nn.Linear(i, o, bias=False) for i, o in sizes)

    def forward(self, x):
        return self.c(self.a(x) * torch.sigmoid(self.b(x)))
"""


def written(path: Path, name: str, text: str = FILE) -> Path:
    path.write_text(text.replace("NAME", name))
    return path


def test_a_file_registers_an_op_that_grammars_then_know(tmp_path: Path) -> None:
    text = SPACE.replace("NAME", "gated_a")
    with pytest.raises(grammar.SpaceError, match=r"no op 'gated_a'.*define your own with ar.op"):
        grammar.loads(text)
    ops.load_file(written(tmp_path / "my_ops.py", "gated_a"))
    space = grammar.loads(text)
    for d in [*space.sample(np.random.default_rng(0), 20), space.parse("seq(gate(4),gate(32))")]:
        arch = space.elaborate(d)
        model = supernet.build(arch)
        with FlopCounterMode(display=False) as counter:
            assert model(torch.randn(1, 16, 8)).shape == (1, 16, 8)
        assert sum(p.numel() for p in model.parameters()) == arch.params
        assert counter.get_total_flops() == arch.flops == arch.workload().flops


def test_the_canonical_form_knows_own_ops(tmp_path: Path) -> None:
    ops.load_file(written(tmp_path / "my_ops.py", "gated_b"))
    space = grammar.loads(SPACE.replace("NAME", "gated_b"))
    same = ["seq(gate(4),seq(gate(8),id))", "seq(seq(gate(4),gate(8)),id)", "seq(id,seq(gate(4),gate(8)))"]
    assert len({space.parse(text).key for text in same}) == 1
    assert space.parse("seq(gate(8),gate(4))").key != space.parse(same[0]).key


def test_a_file_that_is_run_again_replaces_its_ops(tmp_path: Path) -> None:
    file = written(tmp_path / "my_ops.py", "gated_c")
    ops.load_file(file)
    before = grammar.loads(SPACE.replace("NAME", "gated_c"))
    file.write_text(file.read_text().replace("3 * s[-1] * w", "5 * s[-1] * w"))
    ops.load_file(file)
    after = grammar.loads(SPACE.replace("NAME", "gated_c"))
    assert [s.elaborate(s.parse("gate(4)")).params for s in (before, after)] == [96, 160]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("x = 1\n", 1, "registers no op: decorate a torch.nn.Module class with @ar.op"),
        ("x = 1\ny = = 2\n", 2, "not Python: invalid syntax"),
        ("import archrank as ar\n\nraise RuntimeError('no GPU')\n", 3, "RuntimeError: no GPU"),
        (FILE.replace("NAME", "linear"), 4, r"ar.op\('linear'\): an op of that name is built in; choose another"),
    ],
)
def test_a_file_that_does_not_work_is_told_with_its_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    file = tmp_path / "my_ops.py"
    file.write_text(text)
    with pytest.raises(grammar.SpaceError, match=message) as caught:
        ops.load_file(file)
    assert (caught.value.file, caught.value.line) == (str(file), line)


def test_a_missing_file() -> None:
    with pytest.raises(grammar.SpaceError, match="no such file; --ops takes a Python file that registers ops"):
        ops.load_file("nowhere/my_ops.py")


def test_functions_that_do_not_go_together_are_refused() -> None:
    def shape(s: tuple[int, ...]) -> tuple[int, ...]:
        return s

    with pytest.raises(ValueError, match=r"ar.op\('twice'\): .* but shape takes 0, params takes 1, flops takes 0"):
        ar.op("twice", shape=shape, params=lambda s, w: w, flops=lambda s: 0)
    with pytest.raises(ValueError, match=r"params takes the input's shape and the arguments by position"):
        ar.op("many", shape=shape, params=lambda *s: 0, flops=lambda s: 0)
    with pytest.raises(ValueError, match=r"a name is an alias: small letters, digits and _, as in gated_mlp"):
        ar.op("Gated MLP", shape=shape, params=lambda s: 0, flops=lambda s: 0)


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        ({"shape": lambda s: (0, 3)}, r"op odd: shape\(\(16, 8\)\) gives \(0, 3\); a tuple of whole numbers above 0"),
        ({"shape": lambda s: 5}, r"op odd: shape\(\(16, 8\)\) gives 5; a tuple of whole numbers"),
        ({"params": lambda s: 1.5}, r"op odd: params\(\(16, 8\)\) gives 1.5; a whole number from 0"),
        ({"flops": lambda s: -1}, r"op odd: flops\(\(16, 8\)\) gives -1; a whole number from 0"),
        ({"flops": lambda s: s[5]}, r"op odd: flops\(\(16, 8\)\) raises IndexError: tuple index out of range"),
    ],
)
def test_functions_that_give_nonsense_are_told_with_what_they_were_given(
    functions: dict[str, object], message: str
) -> None:
    usual: dict[str, object] = {"shape": lambda s: s, "params": lambda s: 0, "flops": lambda s: 0}
    ar.op("odd", **{**usual, **functions})(torch.nn.Identity)  # type: ignore[arg-type]
    space = grammar.loads('//@ input = 16x8\nstart: m\nm: "odd" -> odd\n')
    with pytest.raises(grammar.OpError, match=message):
        space.elaborate(space.parse("odd"))


def test_an_input_that_does_not_fit_an_own_op_is_avoided() -> None:
    ar.op("even", shape=lambda s: s if s[-1] % 2 == 0 else None, params=lambda s: 0, flops=lambda s: 0)(
        torch.nn.Identity
    )
    text = """//@ input = 6x4
start: "net" "(" a "," b ")" -> seq
a: "wide" -> linear7
b: "even" -> even   //@ p = 0.9
 | "id" -> id
"""
    space = grammar.loads(text)
    assert {d.text for d in space.sample(np.random.default_rng(0), 50)} == {"net(wide,id)"}
    with pytest.raises(grammar.SpaceError, match=r"<sentence>:1:10: even does not fit its input of shape 6x7"):
        space.elaborate(space.parse("net(wide,even)"))
