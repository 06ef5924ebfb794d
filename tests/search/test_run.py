"""Whole runs on the embedded base: what they leave, what they promise, what they take home."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import archrank as ar
from archrank.search.cli import main
from archrank.search.config import ConfigError
from archrank.search.errors import NothingFeasible
from archrank.search.results import Run
from archrank.supernet.base import EMBEDDED
from archrank.supernet.data import digits

TINY = {"train_steps": 20, "trials": 24, "finalists": 2, "seed": 3}


def embedded_hash() -> str:
    return hashlib.sha256(b"".join(p.read_bytes() for p in sorted(EMBEDDED.iterdir()))).hexdigest()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One run that all tests of this file read."""
    before = embedded_hash()
    yield ar.run("lora_ranks", hw="a100", out=tmp_path_factory.mktemp("runs") / "1", **TINY)
    assert embedded_hash() == before, "the base was changed"


def stages(run: Run) -> dict[str, list[Any]]:
    return {s: [t for t in run.trials if t.stage == s] for s in ("inherited", "reranked", "final")}


def test_what_a_run_leaves(run: Run) -> None:
    names = {p.name for p in run.path.iterdir()}
    assert {"config.toml", "trials.jsonl", "space.lark", "supernet.safetensors", "report.html", "adapters"} <= names
    assert not {n for n in names if "checkpoint" in n or n.endswith(".new")}
    head, *lines = [json.loads(line) for line in (run.path / "trials.jsonl").read_text().splitlines()]
    assert head["schema"] == 1
    assert head["seed"] == 3
    assert {"torch", "peft", "transformers", "archrank"} <= set(head["versions"])
    trials = [line for line in lines if "text" in line]
    assert all({"id", "text", "values", "stage", "state", "seconds"} <= set(t) for t in trials)
    assert len({t["id"] for t in trials}) == len(trials)
    assert (run.path / "space.lark").read_text() == ar.spaces.path("lora_ranks").read_text()


def test_stages_and_their_parents(run: Run) -> None:
    found = stages(run)
    assert [len(found[s]) for s in found] == [24, 4, 2]
    assert len({t.text for t in found["inherited"]}) == 24
    by_id = {t.id: t for t in run.trials}
    for stage, before in (("reranked", "inherited"), ("final", "reranked")):
        for t in found[stage]:
            assert by_id[t.parent].stage == before
            assert by_id[t.parent].text == t.text
    assert all(len(t.extra["seeds"]) == 2 for t in found["reranked"])
    assert all("test" in t.extra for t in found["final"])
    assert not any("test" in t.extra for t in (*found["inherited"], *found["reranked"]))


def test_merged_latency_is_a_constant_and_told_once(run: Run) -> None:
    assert {t.values["latency_ms"] for t in run.trials} == {run.header["constants"]["latency_ms"]}
    assert [o.name for o in run.objectives] == ["loss", "adapter_params"]
    table = run.table(run.front())
    assert "the same for every candidate (merged, bf16): " in table
    assert "latency_ms" not in table.splitlines()[0]


def test_costs_are_the_closed_form(run: Run) -> None:
    for t in run.trials:
        ranks = run.ranks(t)
        assert t.values["adapter_params"] == sum(r * sum(run.header["sites"][n]) for n, r in ranks.items())


def test_the_front_is_not_dominated_and_can_be_asked(run: Run) -> None:
    front = run.front()
    assert len(front) >= 2
    points = [(t.values["loss"], t.values["adapter_params"]) for t in front]
    assert not any(a != b and a[0] <= b[0] and a[1] <= b[1] for a in points for b in points)
    best = front.best("accuracy", where="adapter_params <= 5k")
    assert best.values["adapter_params"] <= 5000
    assert front.best("adapter_params").values["adapter_params"] <= front.knee().values["adapter_params"]
    assert {"id", "stage", "loss"} <= set(front.to_pandas().columns)
    assert all(t.values["adapter_params"] <= 3000 for t in run.front(where="adapter_params <= 3k"))


@pytest.mark.parametrize("stage", ["inherited", "reranked", "final"])
def test_an_extracted_module_has_the_logged_loss(run: Run, stage: str) -> None:
    trial = stages(run)[stage][0]
    told = trial.extra["seeds"][0]["loss"] if stage == "reranked" else trial.values["loss"]
    rows = digits.load("digits-rotated")[0]["validation"]
    sub = run.extract(trial)
    with torch.no_grad():
        logits = sub.module(pixel_values=torch.from_numpy(rows["image"])).logits
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(rows["label"]))
    assert float(loss) == pytest.approx(told, abs=1e-4)
    assert sub.adapter_params == trial.values["adapter_params"]


@pytest.mark.parametrize("form", ["peft", "uniform", "merged"])
def test_extract_reloads_and_compares(run: Run, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / form
    assert main(["extract", str(run.path), "--pick", "best:loss", "--as", form, "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["as"] == form
    assert told["max_abs_diff"] <= 1e-4
    card = (out / "README.md").read_text()
    assert run.header["base"]["sha256"] in card
    assert run.header["data"]["sha256"] in card
    assert told["trial"]["text"] in card
    assert main(["extract", str(run.path), "--as", form, "--out", str(out)]) == 2
    assert "exists and is not an empty folder; nothing was written" in capsys.readouterr().err


def test_an_export_that_answers_otherwise_is_not_kept(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from archrank.supernet import export

    right = export.peft_config
    monkeypatch.setattr(export, "peft_config", lambda *a: {**right(*a), "lora_alpha": 64, "alpha_pattern": {}})
    assert main(["extract", str(run.path), "--pick", "best:loss", "--out", str(tmp_path / "x")]) == 4
    assert "differs from the supernet by" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_commands_on_a_run(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["front", str(run.path), "--json"]) == 0
    assert [t["id"] for t in json.loads(capsys.readouterr().out)] == [t.id for t in run.front()]
    assert main(["front", str(run.path), "--where", "adapter_params < 0"]) == 3
    assert "nothing meets the constraints" in capsys.readouterr().err
    assert main(["front", str(run.path), "--where", "adapter <= 2"]) == 2
    assert "adapter_params" in capsys.readouterr().err
    assert main(["report", str(run.path), "--out", str(tmp_path / "r.html"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(tmp_path / "r.html")}
    assert main(["extract", str(run.path), "--pick", "999", "--out", str(tmp_path / "a")]) == 2
    assert "no trial 999; ids run from 0 to" in capsys.readouterr().err
    assert main(["extract", str(run.path), "--pick", "middle", "--out", str(tmp_path / "a")]) == 2
    assert "cannot pick 'middle'" in capsys.readouterr().err
    assert main(["run", "lora_ranks", "--out", str(run.path)]) == 2
    assert f"holds a run already; go on with `search resume {run.path}`" in capsys.readouterr().err
    assert main(["resume", str(run.path), "--json"]) == 0
    assert {"run", "seconds", "verdict", "front"} == set(json.loads(capsys.readouterr().out))


def test_a_runs_own_config_repeats_it(run: Run, tmp_path: Path) -> None:
    assert main(["run", "--config", str(run.path / "config.toml"), "--out", str(tmp_path / "again"), "--json"]) == 0
    again = ar.open(tmp_path / "again")
    assert [(t.text, t.values, t.stage) for t in again.trials] == [(t.text, t.values, t.stage) for t in run.trials]


def test_damaged_and_future_lines_are_named_and_the_rest_is_kept(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run.path, tmp_path / "d")
    log = tmp_path / "d" / "trials.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines[:5], "{broken", '{"schema": 2, "id": 900}', *lines[5:]]) + '\n{"id": 99')
    assert main(["front", str(tmp_path / "d"), "--json"]) == 0
    told = capsys.readouterr()
    assert [t["id"] for t in json.loads(told.out)] == [t.id for t in run.front()]
    assert "line 6" in told.err
    assert "line 7" in told.err
    assert "schema 2" in told.err


@pytest.mark.parametrize("strategy", ["random", "optuna:TPESampler"])
def test_other_strategies_and_objectives(tmp_path: Path, strategy: str) -> None:
    run = ar.run(
        "lora_ranks", strategy=strategy, objective=["accuracy:max", "adapter_params"], out=tmp_path / "r",
        trials=8, train_steps=6, finalists=0,
    )  # fmt: skip
    assert len(run.trials) == 8
    best = run.front().best("accuracy")
    assert best.values["accuracy"] == max(t.values["accuracy"] for t in run.trials)
    assert run.front()[0].id == best.id


def test_vllm_pays_for_the_bucket_and_two_devices_are_two_objectives(tmp_path: Path) -> None:
    run = ar.run(
        "lora_ranks", hw=["a100", "h100"], deploy="vllm", out=tmp_path / "r", trials=12, train_steps=6, finalists=0
    )
    assert [o.name for o in run.objectives] == ["loss", "adapter_params", "latency_ms@a100", "latency_ms@h100"]
    kinds: dict[tuple[Any, ...], set[float]] = {}
    for t in run.trials:
        ranks = run.ranks(t)
        bucket = next(b for b in (1, 8, 16) if max(ranks.values(), default=0) <= b)
        kinds.setdefault((bucket, *sorted({n.rpartition(".")[2] for n in ranks})), set()).add(
            t.values["latency_ms@a100"]
        )
    assert all(len(times) == 1 for times in kinds.values())
    assert len(set().union(*kinds.values())) > 1


def test_constraints_bound_every_candidate(tmp_path: Path) -> None:
    run = ar.run(
        "lora_ranks", where="adapter_params <= 2k", hw="a100", out=tmp_path / "r", trials=8, train_steps=6, finalists=1
    )
    assert all(t.values["adapter_params"] <= 2000 for t in run.trials)
    with pytest.raises(NothingFeasible, match=r"no finished trial meets adapter_params <= 2k and loss <= 0\.0001"):
        ar.open(tmp_path / "r").pick("knee", where="loss <= 0.0001")


def test_a_loss_constraint_makes_trials_infeasible(tmp_path: Path) -> None:
    assert (
        main(
            [
                "run",
                "lora_ranks",
                "--where",
                "loss <= 0.001",
                "--trials",
                "4",
                "--train-steps",
                "4",
                "--out",
                str(tmp_path / "r"),
            ]
        )
        == 3
    )
    assert {t.state for t in ar.open(tmp_path / "r").trials} == {"infeasible"}


def test_a_bf16_base_with_checkpointing_and_accumulation(tmp_path: Path) -> None:
    run = ar.run(
        "lora_ranks", compute_dtype="bf16", gradient_checkpointing=True, accumulate=2, hw="cpu", deploy="unmerged",
        out=tmp_path / "r", trials=6, train_steps=6, finalists=1,
    )  # fmt: skip
    final = next(t for t in run.trials if t.stage == "final")
    assert run.extract(final).adapter_params == final.values["adapter_params"]
    assert len({t.values["latency_ms"] for t in run.trials}) > 1


def test_keywords_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"run\(\) has no keyword 'trails'; did you mean trials\?"):
        ar.run("lora_ranks", trails=3)


def test_threads_and_numbers_of_the_config_reach_the_run(run: Run) -> None:
    assert run.config.threads == 1
    assert run.config.lr == 0.01
    assert np.isfinite(run.seconds)


def copied(run: Run, folder: Path) -> Path:
    return Path(shutil.copytree(run.path, folder))


def test_extract_touches_nothing_of_the_user(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.new").mkdir()
    (tmp_path / "a.new" / "mine.txt").write_text("precious")
    assert main(["extract", str(run.path), "--pick", "best:loss", "--out", str(tmp_path / "a")]) == 0
    assert (tmp_path / "a.new" / "mine.txt").read_text() == "precious"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["extract", str(run.path), "--pick", "best:loss", "--out", "."]) == 0
    there = {p.name for p in (tmp_path / "here").iterdir()}
    assert there == {p.name for p in (tmp_path / "a").iterdir()} >= {"adapter_config.json", "README.md"}
    assert {p.name for p in tmp_path.iterdir()} == {"a", "a.new", "here"}
    capsys.readouterr()
    assert main(["extract", str(run.path), "--out", str(tmp_path / "a" / "README.md" / "x")]) == 2
    assert "cannot be made" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pick", "message"),
    [
        ("²", "cannot pick '²'"),
        ("1" * 30, "no feasible trial"),
        ("-1", "cannot pick '-1'"),
        ("bst:loss", "did you mean best?"),
        ("best:los", "did you mean loss?"),
        ("within:200%", "must be between 0% and 100%"),
        ("within:few", "within:few"),
    ],
)
def test_picks_that_cannot_be_read(
    run: Run, tmp_path: Path, pick: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["extract", str(run.path), "--pick", pick, "--out", str(tmp_path / "x")]) == 2
    assert message in capsys.readouterr().err


def test_a_base_or_data_that_changed_is_refused(
    tmp_path: Path, text_base: Path, text_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, data, out = (tmp_path / n for n in ("base", "data", "r"))
    shutil.copytree(text_base, base)
    shutil.copytree(text_data, data)
    flags = ["--base", str(base), "--data", str(data), "--task", "text-classification", "--trials", "4"]
    call = ["run", "lora_ranks", *flags, "--train-steps", "4", "--finalists", "1", "--out", str(out), "--json"]
    assert main(call) == 0
    told = json.loads(capsys.readouterr().out)
    final = next(t for t in told["front"] if t["stage"] == "final")
    sub = ar.open(out).extract(final["id"])
    assert sub.adapter_params == final["values"]["adapter_params"], "a new head is no adapter parameter"

    log = out / "trials.jsonl"
    log.write_text("".join(line for line in log.read_text().splitlines(True) if '"end"' not in line))
    (data / "train.csv").write_text((data / "train.csv").read_text() + "ba be bi,1\n")
    assert main(["resume", str(out)]) == 2
    assert f"--data {data} is not what this run began with" in capsys.readouterr().err
    from safetensors.torch import load_file, save_file

    weights = load_file(base / "model.safetensors")
    save_file({k: v + 1 for k, v in weights.items()}, base / "model.safetensors", metadata={"format": "pt"})
    assert main(["resume", str(out)]) == 2
    assert f"--base {base} is not what this run began with" in capsys.readouterr().err
    assert main(["extract", str(out), "--pick", str(final["id"]), "--out", str(tmp_path / "a")]) == 2
    assert "an adapter fits its own base only" in capsys.readouterr().err


def test_a_log_without_a_runs_header(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = copied(run, tmp_path / "d") / "trials.jsonl"
    lines = log.read_text().splitlines(True)
    for header, message in (
        ('{"schema": 1}\n', "the header lacks seed, versions"),
        ('{"schema": 2}\n', "a newer archrank wrote it: update this one"),
        ("nothing\n", "no header of a log"),
    ):
        log.write_text(header + "".join(lines[1:]))
        for command in ("front", "resume", "report"):
            assert main([command, str(tmp_path / "d")]) == 2
            told = capsys.readouterr().err
            assert "trials.jsonl:1: " in told
            assert message in told


def test_a_report_goes_to_a_file(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run.path), "--out", str(tmp_path)]) == 2
    assert "is a folder; name the file" in capsys.readouterr().err
    lost = copied(run, tmp_path / "d")
    (lost / "report.html").unlink()
    assert main(["resume", str(lost), "--json"]) == 0
    assert (lost / "report.html").exists(), "a run that ended between its last line and its report"


def test_where_may_name_what_the_first_trial_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A candidate that is too dear is priced and not evaluated: it has no loss."""
    tiny = ["--trials", "6", "--train-steps", "4", "--finalists", "1", "--out", str(tmp_path / "r")]
    call = ["run", "lora_ranks", "--hw", "a100", "--deploy", "vllm", "--where", "loss <= 50"]
    assert main([*call, "--where", "latency_ms <= 0.25", *tiny]) == 3
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    assert "No candidate meets the constraints: 6 evaluations" in told.out
    assert "does not meet latency_ms <= 0.25" in told.out
    assert "search extract" not in told.out
    assert main(["front", str(tmp_path / "r"), "--where", "loss <= 3", "--json"]) == 3
    assert json.loads(capsys.readouterr().out) == []


def test_a_run_whose_every_trial_fails_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from archrank.search.job import Job

    right = Job.score
    calls = iter(range(1000))

    def score(self: Job, net: Any, split: str, ranks: Any = None) -> dict[str, float]:
        values = right(self, net, split, ranks)
        return values if next(calls) < 2 else {**values, "loss": float("nan")}  # the reference point has numbers

    monkeypatch.setattr(Job, "score", score)
    out = tmp_path / "r"
    assert main(["run", "lora_ranks", "--trials", "3", "--train-steps", "4", "--out", str(out)]) == 1
    assert "search: Every one of 3 evaluations failed; the first: loss is nan." in capsys.readouterr().err


def test_one_objective(tmp_path: Path) -> None:
    run = ar.run("lora_ranks", objective="loss", out=tmp_path / "r", trials=5, train_steps=4, finalists=1)
    [only] = run.front()
    assert only.id == run.front().knee().id == run.front().best("loss").id


def test_a_space_file_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = ["--trials", "3", "--train-steps", "2", "--finalists", "0", "--json"]
    shutil.copy(ar.spaces.path("lora_ranks"), tmp_path / "mine.lark")
    monkeypatch.chdir(tmp_path)
    assert main(["run", "mine.lark", *tiny, "--out", "r"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["run", "--config", str(tmp_path / "r" / "config.toml"), "--out", "again", "--json"]) == 0
    first, again = ar.open(tmp_path / "r"), ar.open("again")
    assert [(t.text, t.values) for t in again.trials] == [(t.text, t.values) for t in first.trials]


def test_runs_without_out_take_the_next_free_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "7").mkdir(parents=True)
    run = ar.run("lora_ranks", trials=2, train_steps=2, finalists=0)
    assert run.path == Path("runs/8")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"trials": "8"}, r"run\(trials=…\): '8' must be int"),
        ({"trials": 2.5}, r"run\(trials=…\): 2\.5 must be int"),
        ({"where": 3}, r"run\(where=…\): 3 must be a list of str"),
        ({"lr": "x"}, r"run\(lr=…\): 'x' must be float"),
        ({"hw": Path("a.toml")}, "a.toml"),
        ({"gradient_checkpointing": 1}, r"run\(gradient_checkpointing=…\): 1 must be bool"),
    ],
)
def test_keywords_of_a_wrong_type(flags: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        ar.run("lora_ranks", out=tmp_path / "r", **flags)


def test_numpy_numbers_and_none_are_keywords_too(tmp_path: Path) -> None:
    run = ar.run(
        "lora_ranks", trials=np.int64(2), train_steps=np.int32(2), lr=np.float64(0.01), finalists=0, base=None,
        out=tmp_path / "r",
    )  # fmt: skip
    assert (run.config.trials, run.config.lr, run.config.base) == (2, 0.01, None)


def test_a_module_saved_from_python(run: Run, tmp_path: Path) -> None:
    import peft
    import transformers

    trial = run.front().best("loss")
    sub = run.extract(trial)
    sub.save_pretrained(tmp_path / "peft")
    sub.save_merged(tmp_path / "merged")
    rows = torch.from_numpy(digits.load("digits-rotated")[0]["validation"]["image"][:8])
    cls = transformers.AutoModelForImageClassification
    adapted = peft.PeftModel.from_pretrained(cls.from_pretrained(EMBEDDED), tmp_path / "peft").eval()
    with torch.no_grad():
        truth = sub.module(pixel_values=rows).logits
        for model in (adapted, cls.from_pretrained(tmp_path / "merged").eval()):
            assert torch.allclose(model(pixel_values=rows).logits, truth, atol=1e-5)
