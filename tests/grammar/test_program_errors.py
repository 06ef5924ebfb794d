"""Every mistake that a file with `//@ input` can hold about its ops, and every sentence that does not fit its input:
what is said, and where.
"""

from __future__ import annotations

import numpy as np
import pytest

from archrank import grammar, spaces

HEAD = "//@ input = 3x8x8\n//@ max size = 20\nstart: m\n"
BRANCH = 'm: "b" "(" s "," m "," m "," j ")" -> branch2 //@ p = 0.1\n | "id" -> id\ns: "c" -> clone\nj: "a" -> add\n'
COPIED = BRANCH.replace('m "," m', "m").replace("branch2 //@ p = 0.1", "branch4 //@ p = 0.1, copies(m) = 4")
MANY = " | ".join(f'"{i}"' for i in range(1, 66))

# mistake: (text after the head, whose last line is 3; the line, what the message holds)
MISTAKES: dict[str, tuple[str, int, str]] = {
    "no op": ('m: "x" -> lineer\n', 4, "no op 'lineer': an alias of this file names an op with shapes and costs; did "
              "you mean linear? Known: "),
    "own ops": ('m: "x" -> gated\n', 4, "define your own with ar.op, in a file given by --ops"),
    "adapter": ('m: "x" -> lora\n', 4, "lora is an adapter: it belongs in a file with //@ target_modules. Ops: add, "),
    "adapter none": ('m: "x" -> none\n', 4, "none is an adapter"),
    "op with a rule": ('m: "n" "(" m ")" -> norm //@ p = 0.1\n | "id" -> id\n', 4,
                       "norm takes numbers from terminals and no rules of its own"),
    "structure with numbers": ('m: "s" "(" m "," W ")" -> seq //@ p = 0.1\n | "id" -> id\nW: "1" | "2"\n', 4,
                               "seq takes no numbers from terminals; they belong to its parts"),
    "branch without its number": (BRANCH.replace("branch2", "branch"), 4,
                                  "alias branch: branch wants a number at its end, as in `branch2`"),
    "seq with a number": ('m: "s" "(" m ")" -> seq2 //@ p = 0.1\n | "id" -> id\n', 4,
                          "alias seq2: seq takes no number at its end"),
    "branch of two parts": ('m: "b" "(" s "," j ")" -> branch2\ns: "c" -> clone\nj: "a" -> add\n', 4,
                            "alias branch2: branch has 2 parts here; it wants at least 3"),
    "too few modules": (BRANCH.replace("branch2", "branch3"), 4,
                        "branch3 is a split, one module or 3, and a join, not 4 parts"),
    "one way": (COPIED.replace("branch4", "branch1"), 4, "branch1 is a split, one module or 1, and a join, not"),
    "endless ways": (COPIED.replace("branch4", "branch999999999"), 4, "branch999999999: at most 1,024 ways"),
    "copies left out": (COPIED.replace(", copies(m) = 4", ""), 4,
                        "branch4 builds its module 4 times: add //@ copies(m) = 4"),
    "other copies": (COPIED.replace("copies(m) = 4", "copies(m) = 2"), 4,
                     "branch4 builds its module 4 times: add //@ copies(m) = 4"),
    "no split": (BRANCH.replace("-> clone", "-> norm"), 4,
                 "branch2 wants a rule of kind split where s stands, which is of kind op"),
    "no join": (BRANCH.replace("-> add", "-> norm"), 4,
                "branch2 wants a rule of kind join where j stands, which is of kind op"),
    "a split as a module": (BRANCH.replace('m "," m', 'm "," s'), 4,
                            "branch2 wants a rule of kind op where s stands, which is of kind split"),
    "a join in a seq": ('m: "s" "(" j ")" -> seq //@ p = 0.1\n | "id" -> id\nj: "a" -> add\n', 4,
                        "seq wants a rule of kind op where j stands, which is of kind join"),
    "start is a split": ('m: "c" -> clone\n', 3, "a rule without alias wants a rule of kind op where m stands"),
    "kinds in one rule": ('m: "id" -> id\n | "c" -> clone\n', 5, "the alternatives of m are of different kinds (op, "
                          "split): give each kind a rule of its own"),
    "too few arguments": ('m: "i" "(" W ")" -> im2col\nW: "3,1" | "1,1"\n', 4,
                          "im2col takes 3 arguments, this alternative gives 2 (3, 1)"),
    "no argument": ('m: "l" -> linear\n', 4, "linear takes 1 arguments, this alternative gives 0"),
    "too many arguments": ('m: "n" "(" W ")" -> norm\nW: "3" | "1"\n', 4,
                           "norm takes 0 arguments, this alternative gives 1 (3)"),
    "a word as an argument": ('m: "l" "(" W ")" -> linear\nW: "8" | "wide"\n', 4,
                              "'wide' is no argument of linear: it takes whole numbers"),
    "half a number": ('m: "l" "(" W ")" -> linear\nW: "8" | "1.5"\n', 4, "'1.5' is no argument of linear"),
    "a long number": ('m: "l" "(" W ")" -> linear\nW: "8" | "12345678901"\n', 4, "'12345678901' is no argument of"),
    "values by values": (f'm: "c" "(" W "," W ")" -> conv1d\nW: {MANY}\n', 4,
                         "more than 4,096 values for one op: leave some out"),
    "values without an alias": ('m: W\nW: "8" | "16"\n', 4, "values without an alias: add `-> name`, the op that"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_with_its_place(name: str) -> None:
    text, line, message = MISTAKES[name]
    with pytest.raises(grammar.SpaceError) as caught:
        grammar.loads(HEAD + text + "%ignore /\\s+/\n", "my.lark")
    assert message in caught.value.message
    assert (caught.value.file, caught.value.line) == ("my.lark", line)
    assert len(str(caught.value)) < 2000


def test_too_many_leaves_in_one_file() -> None:
    values = " | ".join(f'"{i}"' for i in range(1, 65))
    rules = "".join(f'r{i}: "c{i}" "(" W "," W ")" -> conv1d\n' for i in range(20))
    with pytest.raises(grammar.SpaceError, match="more than 20,000 ways to write this file's ops: leave some out"):
        grammar.loads(HEAD + 'm: "id" -> id\n' + rules + f"W: {values}\n")


def test_a_start_that_is_no_network() -> None:
    text = '//@ input = 3x8x8\nstart: "c" -> clone\n'
    with pytest.raises(grammar.SpaceError, match="start gives no architecture"):
        grammar.loads(text)


def test_punctuation_in_terminals_is_no_argument() -> None:
    space = grammar.loads(HEAD + 'm: "l" OPEN W CLOSE -> linear\nOPEN: "("\nCLOSE: ")"\nW: "16"\n')
    assert space.elaborate(space.parse("l(16)")).shape == (3, 8, 16)


# sentence: (input, column, message)
MISFITS = {
    "seq(route(im2col(16,16,0),id,id),norm)": (
        (3, 8, 8), 11, "im2col(16,16,0) does not fit its input of shape 3x8x8 (input 3x8x8)"),
    "seq(norm,route(permute(21),id,id))": ((3, 8, 8), 16, "permute(21) does not fit its input of shape 3x8x8"),
    "route(id,norm,col2im)": ((3, 8, 8), 15, "col2im does not fit its input of shape 3x8x8"),
    "seq(norm,branch8(group(1),norm,add))": ((3, 8, 8), 18, "group(1) cannot cut shape 3x8x8 into 8 equal pieces"),
    "branch2(group(3),norm,norm,add)": ((64, 16), 9, "group(3) cannot cut shape 64x16 into 2 equal pieces"),
    "branch2(clone,linear(16),norm,add)": (
        (3, 8, 8), 31, "add cannot join 2 values of shapes 3x8x16, 3x8x8 (input 3x8x8)"),
    "branch4(clone,norm,concat(3))": ((64, 16), 20, "concat(3) cannot join 4 values of shapes 64x16"),
    "branch2(clone,linear(16),norm,matmul)": ((3, 8, 16), 31, "matmul cannot join 2 values of shapes 3x8x16"),
    "branch2(clone,norm,norm,scaled_matmul)": ((8, 4), 25, "scaled_matmul cannot join 2 values of shapes 8x4"),
}  # fmt: skip


@pytest.mark.parametrize("text", MISFITS)
def test_what_does_not_fit_is_named_with_its_place(text: str) -> None:
    shape, column, message = MISFITS[text]
    space = spaces.load("einspace").with_input(shape)
    d = space.parse(text)
    assert not space.meets(d)
    with pytest.raises(grammar.SpaceError) as caught:
        space.elaborate(d)
    assert (caught.value.line, caught.value.column) == (1, column)
    assert message in caught.value.message


def test_too_many_ops() -> None:
    space = spaces.load("einspace")
    d = space.parse("branch8(clone," * 6 + "norm" + ",add)" * 6)
    with pytest.raises(grammar.SpaceError, match="the architecture has more than 200,000 ops with every copy built"):
        space.elaborate(d)
    assert not space.meets(d)
    assert space.meets(space.mutate(d, np_rng()))


def np_rng() -> np.random.Generator:
    return np.random.default_rng(0)


# sentence: (column, message)
WRONG = {
    "seq(norm,nrm)": (10, "found 'nrm' where module: "),
    "seq(norm)": (9, "found ')' where \",\" is expected"),
    "seq(linear(48),norm)": (12, 'found \'48\' where one of WIDTH: "16", "32"'),
    "seq(norm,norm) norm": (16, "found 'norm' where the end of the sentence is expected"),
    "branch2(clone,norm,add)": (20, "found 'add' where "),
    "branch4(clone,norm,matmul)": (20, "found 'matmul' where join4: "),
    "route(im2col(5,1,2),norm,id)": (14, "found '5' where one of WINDOW"),
    "linear(16)": (1, "found 'linear' where network: "),
    "seq(norm,\n seq(norm,\n  zzz))": (3, "found 'zzz' where "),
    "": (1, "found the end where network: "),
}


@pytest.mark.parametrize("text", WRONG)
def test_sentences_that_are_not_in_the_space(text: str) -> None:
    column, message = WRONG[text]
    with pytest.raises(grammar.SpaceError) as caught:
        spaces.load("einspace").parse(text)
    assert (caught.value.line, caught.value.column) == (1 + text.count("\n"), column)
    assert message in caught.value.message


def test_a_sampled_space_without_a_way_out_says_what_to_add() -> None:
    space = grammar.loads(HEAD + 'm: "l" "(" W ")" -> linear\nW: "8" | "16"\n').within(params=(None, 3))
    with pytest.raises(
        ValueError, match=r"hardly any sentence can be made to fit the input 3x8x8 and the bounds: give"
    ):
        space.sample(np_rng())


def test_an_argument_of_one_value_reaches_its_op() -> None:
    space = grammar.loads(HEAD + 'm: "l" "(" W ")" -> linear\n | "id" -> id\nW: "16"\n')
    assert space.elaborate(space.parse("l(16)")).shape == (3, 8, 16)
    assert [d.text for d in space.enumerate()] == ["l(16)", "id"]


def test_a_width_of_zero_never_fits() -> None:
    space = grammar.loads(HEAD + 'm: "l" "(" W ")" -> linear\n | "id" -> id\nW: "0" | "16"\n')
    assert {d.text for d in space.sample(np_rng(), 100)} == {"l(16)", "id"}
    with pytest.raises(grammar.SpaceError, match=r"linear\(0\) does not fit its input of shape 3x8x8"):
        space.elaborate(space.parse("l(0)"))
