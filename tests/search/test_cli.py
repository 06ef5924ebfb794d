"""The command line: help texts whose examples parse, one JSON document, and each refusal by its text and exit code."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from archrank.search.cli import build_parser, commands, main

NAMES = list(commands())


@pytest.mark.parametrize("name", NAMES)
def test_help_ends_with_examples_that_parse(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert not stop.value.code
    text = capsys.readouterr().out
    examples = [line.strip() for line in text.partition("examples:")[2].strip().splitlines()]
    assert len(examples) == 2
    for line in examples:
        program, *arguments = shlex.split(line.replace("|", " "))
        assert program == "search"
        assert build_parser().parse_args(arguments).command == name


def test_exit_codes_stand_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    assert "0 done · 2 bad input" in told
    assert all(name in told for name in NAMES)


@pytest.mark.parametrize("kind", ["spaces", "devices", "strategies", "policies", "families", "objectives"])
def test_list(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", kind, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    assert all(set(row) == {"name", "summary"} and row["summary"] for row in rows)
    assert main(["list", kind]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(rows)


def test_check_and_sample(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "lora_ranks", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"lints": [], "size": 6**18}
    call = ["sample", "lora_ranks", "-n", "3", "--seed", "4", "--where", "adapter_params <= 1k"]
    assert main([*call, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(set(row) == {"text", "key", "log_prob", "params", "flops"} and row["params"] <= 1000 for row in rows)
    assert main(call) == 0
    assert capsys.readouterr().out.splitlines() == [row["text"] for row in rows]


RUN = ["run", "lora_ranks", "--out", "{tmp}/never"]
REFUSALS: list[tuple[list[str], int, str]] = [
    (["run"], 2, "no SPACE: give a .lark file or a shipped name"),
    (["run", "no_such.lark"], 2, "no space 'no_such.lark'"),
    (["run", "lora_rank"], 2, "did you mean lora_ranks?"),
    ([*RUN, "--hw", "a1000"], 2, "unknown device 'a1000': did you mean a100"),
    ([*RUN, "--hw", "a100", "--hw", "a100"], 2, "each device once"),
    ([*RUN, "--objective", "acuracy"], 2, "unknown objective 'acuracy'; did you mean accuracy?"),
    ([*RUN, "--objective", "loss", "--objective", "loss"], 2, "'loss' is given twice"),
    ([*RUN, "--objective", "latency_ms"], 2, "latency_ms needs a device: add --hw"),
    ([*RUN, "--hw", "a100", "--objective", "latency_ms"], 2, "a constant, not an objective"),
    ([*RUN, "--strategy", "nsga"], 2, "no strategy 'nsga'; did you mean nsga2?"),
    ([*RUN, "--strategy", "optuna:TPE"], 2, "TPESampler"),
    ([*RUN, "--policy", "mixt"], 2, "no policy 'mixt'; did you mean mixed?"),
    ([*RUN, "--where", "loss <= banana"], 2, "banana"),
    ([*RUN, "--where", "los <= 1"], 2, "loss"),
    ([*RUN, "--where", "adapter_params < 0"], 3, "adapter_params"),
    ([*RUN, "--hw", "a100", "--where", "latency_ms <= 0.0001"], 3, "for every candidate"),
    ([*RUN, "--trials", "-3"], 2, "--trials -3: must be at least 1"),
    ([*RUN, "--lr", "0"], 2, "--lr 0.0: must be above 0"),
    ([*RUN, "--deploy", "vlm"], 2, "--deploy vlm: must be one of merged, unmerged, vllm; did you mean vllm?"),
    ([*RUN, "--device", "tpu"], 2, "--device tpu: must be cpu, cuda or cuda:N"),
    ([*RUN, "--target-modules", "qurey"], 2, "did you mean query? This base calls it q_proj"),
    ([*RUN, "--base", "/nonexistent/model"], 2, "--base /nonexistent/model: no such folder"),
    ([*RUN, "--base", "{base}"], 2, "--base needs --data"),
    ([*RUN, "--data", "./nowhere.csv"], 2, "--data ./nowhere.csv: no such file or folder"),
    ([*RUN, "--data", "digts"], 2, "did you mean digits?"),
    ([*RUN, "--columns", "text"], 2, "--columns text: write ROLE=COLUMN"),
    ([*RUN, "--serve-dtype", "fp8", "--hw", "v100"], 2, "--serve-dtype fp8: v100 has peaks for"),
    (["run", "--config", "{tmp}/none.toml"], 2, "none.toml: cannot be read"),
    (["run", "--config", "{toml}"], 2, "bad.toml: unknown key 'trails'; did you mean trials?"),
    (["run", "--config", "{typed}"], 2, "typed.toml: trials = 'many' must be int"),
    (["resume", "/nonexistent/run"], 2, "/nonexistent/run: no run there"),
    (["front", "/nonexistent/run"], 2, "/nonexistent/run: no run there"),
    (["check", "{ranks}"], 2, "ranks.lark:5:1: no rank of lora (4096) fits"),
    (["list", "planets"], 2, "no kind 'planets'"),
    (["sample", "lora_ranks", "-n", "-1"], 2, "-n -1: must be at least 0"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "message"), REFUSALS, ids=lambda v: " ".join(v)[:60] if isinstance(v, list) else ""
)
def test_bad_input(
    arguments: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from archrank.supernet.base import EMBEDDED

    (tmp_path / "bad.toml").write_text("trails = 3\n")
    (tmp_path / "typed.toml").write_text('trials = "many"\n')
    (tmp_path / "ranks.lark").write_text(
        '//@ target_modules = "all-linear"\nstart: site+ //@ each = target_modules\nsite: MODULE ":" adapter\n'
        'adapter: "lora" "(" RANK ")" -> lora\nRANK: "4096"\nMODULE: /\\w[\\w.]*/ //@ bound\n%ignore /\\s+/\n'
    )
    places = {
        "{tmp}": str(tmp_path),
        "{toml}": str(tmp_path / "bad.toml"),
        "{typed}": str(tmp_path / "typed.toml"),
        "{ranks}": str(tmp_path / "ranks.lark"),
        "{base}": str(EMBEDDED),
    }
    for mark, place in places.items():
        arguments = [a.replace(mark, place) for a in arguments]
    assert main(arguments) == code
    told = capsys.readouterr()
    assert message in told.err
    assert "Traceback" not in told.err
    assert len(told.err.splitlines()) <= 6
    assert not told.out
    assert not (tmp_path / "never").exists(), "a refused run left a folder"
