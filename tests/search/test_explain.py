"""`search check`, `sample`, `explain`, `draw` on architectures: numbers that agree, and each refusal by its text."""

from __future__ import annotations

import io
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import pytest

from archrank import spaces
from archrank.search.binding import tightened, within
from archrank.search.cli import main
from archrank.search.expression import ExpressionError

SENTENCE = "seq(linear(64),branch4(clone,seq(norm,linear(64)),add))"
PLAIN = 'start: m\nm: "two" "(" m "," m ")" -> two //@ p = 0.25\n | "end" -> end\n%ignore /\\s+/\n'
OPS = """
import torch
import archrank as ar

@ar.op("gated_test", shape=lambda s, w: s, params=lambda s, w: 3 * s[-1] * w, flops=lambda s, w: 6 * s[0] * s[-1] * w)
class Gated(torch.nn.Module):
    pass
"""
OWN = """//@ input = 16x8
//@ max size = 12
start: m
m: "seq" "(" m "," m ")"   -> seq           //@ p = 0.5
 | "gated" "(" WIDTH ")"   -> gated_test    //@ p = 0.4
 | "id"                    -> id
WIDTH: "4" | "8" | "32"
%ignore /\\s+/
"""


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    return Say(capsys)


class Say:
    """Runs a command that has to work."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: str) -> str:
        assert main(list(arguments)) == 0
        return self.capsys.readouterr().out

    def json(self, *arguments: str) -> object:
        return json.loads(self(*arguments, "--json"))


def test_explain_agrees_with_sample(say: Say) -> None:
    rows = say.json("sample", "einspace", "-n", "20", "--seed", "3")
    assert isinstance(rows, list)
    assert rows == say.json("sample", "einspace", "-n", "20", "--seed", "3")
    assert rows != say.json("sample", "einspace", "-n", "20", "--seed", "4")
    for row in rows:
        told = say.json("explain", "einspace", row["text"])
        assert isinstance(told, dict)
        assert set(told) == {"key", "log_prob", "params", "flops", "ops"}
        assert {k: v for k, v in row.items() if k != "text"} == {k: v for k, v in told.items() if k != "ops"}
        assert sum(op["params"] for op in told["ops"]) == row["params"]
        assert sum(op["flops"] for op in told["ops"]) == row["flops"]


def test_explain_lists_the_ops(say: Say) -> None:
    told = say.json("explain", "einspace", "seq(linear(64),branch2(group(3),norm,id,concat(3)))")
    assert isinstance(told, dict)
    assert [set(op) for op in told["ops"]] == [{"op", "arguments", "inputs", "shape", "params", "flops"}] * 5
    assert told["ops"][0] == {
        "op": "linear", "arguments": [64], "inputs": [-1], "shape": [3, 64, 64], "params": 4160, "flops": 1572864,
    }  # fmt: skip
    assert [op["inputs"] for op in told["ops"]] == [[-1], [0], [0], [1], [3, 2]]


def test_explain_for_people(say: Say) -> None:
    lines = say("explain", "einspace", SENTENCE).splitlines()
    assert lines[0] == SENTENCE
    assert " 0.333  network → seq" in lines
    assert " 0.076    module → branch4  (its part built × 4)" in lines
    assert " 0.125            WIDTH = 64" in lines
    assert "log-probability -19.0515: 1 in 10^8 by the file's own numbers, before any bound" in lines
    assert "linear 64  4  3×64×64       4,160   80 %  1,572,864  80 %" in lines
    assert "total                      20,824         7,864,320" in lines
    assert "a device runs 12 operators at batch 1 and holds 321 KiB in fp32; those with most work:" in lines
    assert lines[-3].split() == [
        "linear",
        "m=192",
        "n=64",
        "k=64",
        "5",
        "7,864,320",
        "100",
        "%",
        "560",
        "KiB",
        "41",
        "%",
    ]


def test_the_input_can_be_another(say: Say) -> None:
    told = say.json("explain", "einspace", SENTENCE, "--input", "3x32x32")
    assert isinstance(told, dict)
    assert told["ops"][-1]["shape"] == [3, 32, 64]
    rows = say.json("sample", "einspace", "-n", "5", "--input", "8x16")
    assert isinstance(rows, list)
    assert all(say.json("explain", "einspace", row["text"], "--input", "8×16") for row in rows)


def test_a_sentence_from_stdin_or_a_file(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s.txt").write_text(SENTENCE + "\n")
    one = say.json("explain", "einspace", f"@{tmp_path / 's.txt'}")
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(SENTENCE.encode())))
    assert one == say.json("explain", "einspace", "-") == say.json("explain", "einspace", SENTENCE)


def test_adapters_are_explained_and_drawn(say: Say, tmp_path: Path) -> None:
    rows = say.json("sample", "lora_ranks", "--seed", "1")
    assert isinstance(rows, list)
    text = rows[0]["text"]
    told = say.json("explain", "lora_ranks", text)
    assert isinstance(told, dict)
    assert {k: told[k] for k in ("key", "log_prob", "params", "flops")} == {
        k: v for k, v in rows[0].items() if k != "text"
    }
    assert sum(op["params"] for op in told["ops"]) == told["params"]
    assert [f"{op['module']}:lora({op['arguments'][0]})" for op in told["ops"]] == [
        word for word in text.split() if "lora" in word
    ]
    lines = say("explain", "lora_ranks", text).splitlines()
    assert lines[3].split() == ["p", "module", "adapter", "out", "×", "in", "parameters", "FLOPs", "a", "row"]
    assert "modules adapted" in lines[-2]
    assert say("draw", "lora_ranks", text, "--width", "80").count("█") > 18
    say("draw", "lora_ranks", text, "--out", str(tmp_path / "ranks.svg"))
    ElementTree.parse(tmp_path / "ranks.svg")


def test_a_space_over_layers(say: Say) -> None:
    rows = say.json("sample", "elastic_encoder", "--seed", "1", "--where", "adapter_params <= 2k")
    assert isinstance(rows, list)
    told = say.json("explain", "elastic_encoder", rows[0]["text"])
    assert isinstance(told, dict)
    assert {k: v for k, v in rows[0].items() if k != "text"} == {k: v for k, v in told.items() if k != "ops"}
    assert "○  output" in say("draw", "elastic_encoder", rows[0]["text"])


def test_sentences_that_are_no_networks(say: Say, tmp_path: Path) -> None:
    (tmp_path / "plain.lark").write_text(PLAIN)
    space = str(tmp_path / "plain.lark")
    rows = say.json("sample", space, "-n", "3")
    assert isinstance(rows, list)
    assert all(row["params"] is None and row["flops"] is None for row in rows)
    told = say.json("explain", space, "two(end,end)")
    assert isinstance(told, dict)
    assert told["log_prob"] == pytest.approx(math.log(0.25 * 0.75 * 0.75))
    assert (told["params"], told["flops"], told["ops"]) == (None, None, [])
    assert " 0.250  m → two" in say("explain", space, "two(end,end)").splitlines()


def test_own_ops(say: Say, tmp_path: Path) -> None:
    (tmp_path / "own.lark").write_text(OWN)
    (tmp_path / "my_ops.py").write_text(OPS)
    given = [str(tmp_path / "own.lark"), "--ops", str(tmp_path / "my_ops.py")]
    rows = say.json("sample", *given, "-n", "5")
    assert isinstance(rows, list)
    assert len(rows) == 5
    told = say.json("explain", *given, "seq(gated(4),gated(8))")
    assert isinstance(told, dict)
    assert (told["params"], told["flops"]) == (3 * 8 * 12, 6 * 16 * 8 * 12)
    assert "gated_test 4" in say("draw", *given, "seq(gated(4),gated(8))")
    assert "gated_test" in say("check", *given)


def test_draw_writes_what_is_asked(say: Say, tmp_path: Path) -> None:
    out = tmp_path / "one.svg"
    assert say("draw", "einspace", SENTENCE, "--out", str(out)) == f"{out}\n"
    ElementTree.parse(out)
    assert say("draw", "einspace", SENTENCE, "--format", "svg") == out.read_text(encoding="utf-8")
    text = say("draw", "einspace", SENTENCE, "--width", "50")
    assert text.startswith("einspace: seq(linear(64),branch4(")
    assert max(map(len, text.splitlines())) <= 50
    say("draw", "einspace", SENTENCE, "--width", "50", "--out", str(tmp_path / "one.txt"))
    assert (tmp_path / "one.txt").read_text(encoding="utf-8") == text
    say("draw", "einspace", SENTENCE, "--format", "svg", "--out", str(tmp_path / "picture"))
    ElementTree.parse(tmp_path / "picture")


@pytest.mark.parametrize(
    ("where", "most"),
    [
        ("params <= 12k and flops <= 1M", {"params": 12_000, "flops": 1_000_000}),
        ("params < 4161", {"params": 4160}),
        ("activation_bytes <= 64KiB", {"activation_bytes": 65_536}),
    ],
)
def test_where_holds(where: str, most: dict[str, int], say: Say) -> None:
    space = spaces.load("einspace")
    texts = say("sample", "einspace", "-n", "30", "--where", where).splitlines()
    assert len(texts) == 30
    for text in texts:
        architecture = space.elaborate(space.parse(text))
        assert all(getattr(architecture, name) <= value for name, value in most.items())


def test_both_ends_of_size_hold(say: Say) -> None:
    texts = say("sample", "einspace", "-n", "30", "--where", "size >= 30, size < 40").splitlines()
    space = spaces.load("einspace").within(size=(30, 39))
    assert all(space.meets(space.parse(text)) for text in texts)


def test_depth_is_bounded(say: Say) -> None:
    texts = say("sample", "einspace", "-n", "20", "--where", "depth <= 4").splitlines()
    assert max(text.count("(") for text in texts) < 12
    space = spaces.load("einspace").within(depth=(None, 4))
    assert all(space.meets(space.parse(text)) for text in texts)


def test_a_run_leaves_to_trials_what_a_space_cannot_keep() -> None:
    space = spaces.load("einspace")
    bound = tightened(space, ["params <= 12k and params >= 5k and loss <= 3"])
    assert bound.bounds["params"] == 12000
    with pytest.raises(ExpressionError, match="params >= 5000: einspace can be bounded in params from above alone"):
        within(space, ["params >= 5k"])


def test_check_of_an_architecture_space(say: Say) -> None:
    told = say.json("check", "einspace")
    assert isinstance(told, dict)
    assert set(told) == {"lints", "size"}
    assert told["size"] == spaces.load("einspace").size()
    lines = say("check", "einspace").splitlines()
    assert "branching: branching rate 0.982 of derivations, 1.74 with every copy counted" in lines[0]
    assert lines[1].startswith("einspace: about 10^")
    assert lines[1].endswith("candidates; those above the bounds on params and activation_bytes are counted as well")
    assert "input: 3×64×64" in lines
    bars = [line for line in lines if "█" in line]
    assert len(bars) == 12
    assert max(line.count("█") for line in bars) == 40
    assert any(line.startswith("  joins: ") and "as drawn" in line for line in lines)
    assert lines[-1].startswith("  ops, in how many samples: linear ")
    assert lines == say("check", "einspace").splitlines(), "seeded"


def test_check_counts_a_finite_space(say: Say) -> None:
    assert say.json("check", "nasbench201") == {"lints": [], "size": 15625}
    assert "nasbench201: 15,625 candidates" in say("check", "nasbench201").splitlines()


def test_check_of_an_endless_space(say: Say, tmp_path: Path) -> None:
    (tmp_path / "plain.lark").write_text(PLAIN)
    told = say.json("check", str(tmp_path / "plain.lark"))
    assert isinstance(told, dict)
    assert told["size"] is None
    lines = say("check", str(tmp_path / "plain.lark")).splitlines()
    assert lines[1:] == [
        "plain: infinitely many candidates",
        "branching: 0.5 a step, 0.5 with every copy counted (from 1 on sizes have no mean without a bound)",
    ]


def test_check_of_networks_without_a_bound(say: Say, tmp_path: Path) -> None:
    text = (Path(spaces.__file__).parent / "einspace.lark").read_text(encoding="utf-8")
    (tmp_path / "wide.lark").write_text(re.sub("//@ max .*", "", text), encoding="utf-8")
    assert "300 samples of size at most 1,000:" in say("check", str(tmp_path / "wide.lark"))


def test_check_says_when_nothing_fits(say: Say, tmp_path: Path) -> None:
    (tmp_path / "tight.lark").write_text('//@ input = 3x8x8\nstart: "fold" -> col2im\n')
    assert "hardly any sentence can be made to fit the input 3x8x8" in say("check", str(tmp_path / "tight.lark"))


CARET = "search explain: 1:16: found 'zzz' where module: "
REFUSALS: list[tuple[list[str], int, str]] = [
    (["explain", "einspace", "seq(linear(64),zzz)"], 2, CARET),
    (["explain", "einspace", "seq(linear(64),zzz)"], 2, "\n  seq(linear(64),zzz)\n                 ^\n"),
    (["draw", "einspace", f"seq({SENTENCE},{SENTENCE}"], 2, "…ch4(clone,seq(norm,linear(64)),add))\n"),
    (["draw", "einspace", "seq(\n linear(64),zzz)"], 2, "2:13: found 'zzz'"),
    (["explain", "einspace", "seq(linear(64),branch2(group(1),norm,id,add))"], 2, "group(1) cannot cut shape 3x64x64"),
    (["explain", "einspace", "seq(norm,norm) x"], 2, "the end of the sentence is expected"),
    (["explain", "einspace", ""], 2, "1:1: "),
    (["explain", "einspace", "@{tmp}/none.txt"], 2, "none.txt: cannot be read: No such file or directory"),
    (["explain", "einspace", "@{tmp}/empty.txt"], 2, "empty.txt is empty; give one sentence"),
    (["explain", "einspace", "@{tmp}/latin.txt"], 2, "latin.txt is not UTF-8 text (byte 5)"),
    (["explain", "einspace", "@{tmp}/nul.txt"], 2, "1:4: found"),
    (["explain", "lora_ranks", "a:none"], 2, "1:1: "),
    (["draw", "{tmp}/plain.lark", "end"], 2, "sentences of plain are no networks and no adapters"),
    (["draw", "einspace", SENTENCE, "--width", "3"], 2, "--width 3: must be at least 40"),
    (["draw", "einspace", SENTENCE, "--out", "{tmp}/none/x.svg"], 2, "cannot be written: No such file or directory"),
    (["sample", "einspace", "--where", "params >= 5k"], 2, "can be bounded in params from above alone"),
    (["sample", "einspace", "--where", "parms <= 5k"], 2, "sentences of einspace have no parms; did you mean params?"),
    (["sample", "lora_ranks", "--where", "loss <= 5"], 2, "sentences of lora_ranks have no loss; did you mean flops?"),
    (["sample", "einspace", "--where", "params < 0"], 3, "no candidate meets params < 0"),
    (["sample", "einspace", "--where", "size > 30 and size < 20"], 3, "no candidate meets size > 30 and size < 20"),
    (["sample", "einspace", "--where", "size <= 3"], 3, "no sentence meets size in [0, 3]; the smallest sent"),
    (["sample", "einspace", "--where", "depth <= 1"], 3, "no sentence has a depth of at most 1"),
    (["sample", "{tmp}/tight.lark"], 2, "hardly any sentence can be made to fit the input 3x8x8"),
    (["sample", "{tmp}/tight.lark", "--where", "params <= 3"], 3, "hardly any sentence can be made to fit"),
    (["sample", "einspace", "--input", "3x0x3"], 2, "--input 3x0x3: write channels x height x width, such as 3x32x32"),
    (["sample", "einspace", "--input", "big"], 2, "--input big: write channels x height x width"),
    (["check", "lora_ranks", "--input", "3x8x8"], 2, "sentences of lora_ranks are no architectures; leave --input out"),
    (["check", "einspace", "--ops", "{tmp}/none.py"], 2, "none.py"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "message"), REFUSALS, ids=lambda v: " ".join(v)[:60] if isinstance(v, list) else ""
)
def test_bad_input(
    arguments: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "latin.txt").write_bytes(b"seq(\xff)")
    (tmp_path / "nul.txt").write_bytes(b"seq\0(norm,norm)")
    (tmp_path / "plain.lark").write_text(PLAIN)
    (tmp_path / "tight.lark").write_text('//@ input = 3x8x8\nstart: "fold" -> col2im\n')
    assert main([a.replace("{tmp}", str(tmp_path)) for a in arguments]) == code
    told = capsys.readouterr()
    assert message in told.err
    assert not told.out
    assert "Traceback" not in told.err
    assert len(told.err.splitlines()) <= 4


def test_a_sentence_outside_the_bounds_is_explained_and_said_to_be_so(say: Say) -> None:
    wide = "seq(linear(2048),seq(linear(2048),norm))"
    for _ in range(4):
        wide = f"seq({wide},{wide})"
    lines = say("explain", "einspace", wide).splitlines()
    assert lines[2].startswith("outside the bounds of einspace, so never sampled: size <= ")
    assert "outside" not in say("explain", "einspace", SENTENCE)
