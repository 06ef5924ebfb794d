"""The command line: help texts whose examples parse, one JSON document, and each refusal by its text and exit code."""

from __future__ import annotations

import json
import re
import shlex
import shutil
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
CLASSES = ["--task", "text-classification"]
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
    ([*RUN, "--hw", "a100", "--where", "latency_ms <= 0.0001"], 3, "is 0.2421 for every candidate"),
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
    (["check", "{ranks}"], 2, "ranks.lark:4:"),
    (["list", "planets"], 2, "no kind 'planets'"),
    (["sample", "lora_ranks", "-n", "-1"], 2, "-n -1: must be at least 0"),
    (["sample", "lora_ranks", "--seed", "-1"], 2, "--seed -1: must be at least 0"),
    (["sample", "lora_ranks", "--where", "adapter_parms <= 2k"], 2, "did you mean adapter_params?"),
    (["sample", "lora_ranks", "--where", "loss <= 2"], 2, "unknown name 'loss'"),
    (["sample", "{endless}", "--where", "adapter_params <= 2"], 2, "adapts no base, so it has no adapter_params"),
    (["sample", "{endless}", "--where", "adapter_params < 0"], 2, "adapts no base"),
    (["run", "{endless}", "--out", "{tmp}/never"], 2, "adapts no base"),
    (["run", "{ranks}", "--out", "{tmp}/never"], 2, "ranks.lark:4:"),
    (["run", "lora_ranks", "--out", "{tmp}/bad.toml"], 2, "bad.toml: is a file; choose a folder"),
    (["run", "lora_ranks", "--trials", "1", "--out", "{tmp}/bad.toml/never"], 2, "bad.toml/never: cannot be made"),
    (["run", "--config", "{tmp}"], 2, "cannot be read: Is a directory"),
    (["run", "--config", "{listed}"], 2, "listed.toml: hw = 3 must be a list of str"),
    (["run", "--config", "{small}"], 2, "--trials -3: must be at least 1"),
    ([*RUN, "--hw", "a100", "--hw", "h100", "--objective", "latency_ms"], 2, "did you mean latency_ms@a100?"),
    ([*RUN, "--hw", "a100", "--hw", "h100", "--where", "latency_ms <= 3"], 2, "did you mean latency_ms@a100?"),
    ([*RUN, "--hw", "a100", "--deploy", "vllm", "--where", "latency_ms <= .1"], 3, "bare base alone has latency_ms"),
    ([*RUN, "--hw", "a100", "--where", "latency_ms <= 0"], 3, "latency_ms <= 0 cannot hold: merged"),
    ([*RUN, "--where", "adapter_params >= 1G"], 3, "adapter_params"),
    ([*RUN, "--where", "latency_ms <= 3"], 2, "latency_ms needs a device: add --hw"),
    ([*RUN, "--seed", "99999999999999999999"], 2, "--seed 99999999999999999999: must be at most 9007199254740992"),
    ([*RUN, "--seed", "-1"], 2, "--seed -1: must be at least 0"),
    ([*RUN, "--save-minutes", "nan"], 2, "--save-minutes nan: must be above 0"),
    ([*RUN, "--max-hours", "-1"], 2, "--max-hours -1.0: must be at least 0"),
    ([*RUN, "--finalists", "-1"], 2, "--finalists -1: must be at least 0"),
    ([*RUN, "--target-modules", "zzz"], 2, "zzz"),
    ([*RUN, "--target-modules", "("], 2, "is not a regular expression"),
    ([*RUN, "--base", "{pickle}", "--data", "digits"], 2, "only pytorch_model.bin, a pickle, which can run code"),
    ([*RUN, "--base", "{tmp}/bad.toml", "--data", "digits"], 2, "is a file; give the folder that holds config.json"),
    ([*RUN, "--base", "{tmp}", "--data", "digits"], 2, "has no config.json"),
    ([*RUN, "--base", "{text}", "--data", "digits"], 2, "a bert model cannot do image-classification"),
    ([*RUN, "--base", "{text}", "--data", "{unlabelled}", *CLASSES], 2, "--columns"),
    ([*RUN, "--base", "{text}", "--data", "{table}", "--columns", "text=sentnce"], 2, "did you mean sentence?"),
    ([*RUN, "--base", "{text}", "--data", "{late}"], 2, "label 7 stands in the validation rows only"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "message"), REFUSALS, ids=lambda v: " ".join(v)[:60] if isinstance(v, list) else ""
)
def test_bad_input(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    text_base: Path,
    text_data: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from archrank.supernet.base import EMBEDDED

    (tmp_path / "bad.toml").write_text("trails = 3\n")
    (tmp_path / "typed.toml").write_text('trials = "many"\n')
    (tmp_path / "listed.toml").write_text("hw = 3\n")
    (tmp_path / "small.toml").write_text("trials = -3\n")
    (tmp_path / "endless.lark").write_text('start: "x" -> x\n     | "y" start -> y\n')
    (tmp_path / "pickle").mkdir()
    shutil.copy(EMBEDDED / "config.json", tmp_path / "pickle")
    (tmp_path / "pickle" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    for name, rows in {"unlabelled": "sentence,note\nba,x\n", "late": "sentence,label\nba,7\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.csv").write_text(rows.replace("7", "0") + "be,1\n")
        (tmp_path / name / "validation.csv").write_text(rows)
    (tmp_path / "ranks.lark").write_text(
        '//@ target_modules = "all-linear"\nstart: site+ //@ each = target_modules\nsite: MODULE ":" adapter\n'
        'adapter: "lora" "(" RANK ")" -> lora\nRANK: "4096"\nMODULE: /\\w[\\w.]*/ //@ bound\n%ignore /\\s+/\n'
    )
    places = {
        "{tmp}": str(tmp_path),
        "{toml}": str(tmp_path / "bad.toml"),
        "{typed}": str(tmp_path / "typed.toml"),
        "{ranks}": str(tmp_path / "ranks.lark"),
        "{listed}": str(tmp_path / "listed.toml"),
        "{small}": str(tmp_path / "small.toml"),
        "{endless}": str(tmp_path / "endless.lark"),
        "{pickle}": str(tmp_path / "pickle"),
        "{unlabelled}": str(tmp_path / "unlabelled"),
        "{late}": str(tmp_path / "late"),
        "{text}": str(text_base),
        "{table}": str(text_data),
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "lora_ranks", "--trails", "3"], "search run: unknown argument '--trails'; did you mean --trials?"),
        (["run", "lora_ranks", "extra"], "search run: unknown argument 'extra'"),
        (["run", "lora_ranks", "--trials", "many"], "argument --trials: invalid int value: 'many'"),
        (["extract", "runs/1"], "the following arguments are required: --out"),
        (["extract", "runs/1", "--as", "lora", "--out", "x"], "choose from 'peft', 'merged', 'uniform'"),
        (["rnu"], "invalid choice: 'rnu' (choose from 'run',"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    told = capsys.readouterr()
    assert message in told.err
    assert len(told.err.splitlines()) == 1
    assert "--help`" in told.err
    assert not told.out


SITES = """//@ target_modules = "all-linear"
start: site+ //@ each = target_modules
site: MODULE ":" adapter
adapter: "lora" "(" RANK ")" -> lora
RANK: "2" | "40"
MODULE: /\\w[\\w.]*/ //@ bound
%ignore /\\s+/
"""


def test_a_rank_too_large_for_a_module_is_dropped_with_a_lint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.lark").write_text(SITES)
    assert main(["check", str(tmp_path / "s.lark"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["size"] == 1
    assert any(lint["line"] == 5 and "40" in lint["message"] for lint in told["lints"])
    call = ["run", str(tmp_path / "s.lark"), "--trials", "3", "--train-steps", "2", "--finalists", "0"]
    assert main([*call, "--out", str(tmp_path / "r"), "--json"]) == 0
    run = capsys.readouterr()
    assert "s.lark:5:" in run.err
    [trial] = json.loads(run.out)["front"]
    assert set(re.findall(r"lora\((\d+)\)", trial["text"])) == {"2"}


def test_an_endless_space_has_no_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "e.lark").write_text('start: "x" -> x\n     | "y" start -> y\n%ignore " "\n')
    assert main(["check", str(tmp_path / "e.lark"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["size"] is None
    assert main(["check", str(tmp_path / "e.lark")]) == 0
    assert "e: infinitely many candidates" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "search list: interrupted"),
        (OSError(28, "No space left on device", "f.bin"), 1, "No space left on device: 'f.bin'"),
    ],
)
def test_what_may_end_any_command(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from archrank.search.cli import list as command

    def entries(kind: str) -> list[tuple[str, str]]:
        raise error

    monkeypatch.setattr(command, "entries", entries)
    assert main(["list", "spaces"]) == code
    assert message in capsys.readouterr().err


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from archrank.search.cli import list as command

    monkeypatch.setattr(command, "entries", lambda kind: {}["x"])
    with pytest.raises(KeyError):
        main(["list", "spaces"])
