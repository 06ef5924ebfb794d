"""Progress lines and the table of the front, as a terminal or a log file gets them."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from typing import Any

import pytest

from archrank.search.progress import Plain, Progress, open_progress
from archrank.search.tables import front_table, write_front


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _run(p: Progress) -> None:
    p.phase("supernet", total=1800)
    p.update(900, best="loss 0.41")
    p.note("saved [adapters] at step 900")
    p.phase("search", total=200, unit="trials")
    p.update(200, best=0.312, hypervolume=9.3712, front=12)


def test_plain_lines_are_few() -> None:
    stream, clock = io.StringIO(), _Clock()
    plain = Plain(stream, every=5, clock=clock)
    plain.phase("supernet", total=1800)
    for step in range(1, 1801):
        clock.now += 0.01
        plain.update(step, best=1 / step)
    plain.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1 + 3 + 1
    assert lines[0] == "supernet: 1,800 steps"
    assert re.fullmatch(r"supernet: (499|500|501)/1,800 steps · best 0.002 · 13 s left", lines[1])
    assert lines[-1] == "supernet: 1,800/1,800 steps · best 0.000556 · took 18 s"


def test_the_time_left_counts_only_this_process() -> None:
    stream, clock = io.StringIO(), _Clock()
    plain = Plain(stream, every=5, clock=clock)
    plain.phase("supernet", total=2000, done=1000)
    clock.now = 10
    plain.update(1100)
    assert stream.getvalue().splitlines() == [
        "supernet: 1,000/2,000 steps",
        "supernet: 1,100/2,000 steps · 1 min 30 s left",
    ]


def test_plain_progress_says_every_fact_and_never_writes_to_stdout(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with open_progress(every=0) as p:
        _run(p)
    out, err = capsys.readouterr()
    assert out == ""
    assert "search: 200/200 trials · best 0.312 · hypervolume 9.371 · front 12 · took" in err
    assert "saved [adapters] at step 900" in err
    assert "\x1b" not in err


def test_an_error_inside_is_not_swallowed_and_the_phase_is_ended() -> None:
    stream = io.StringIO()

    def fail() -> None:
        with open_progress(stream=stream) as p:
            p.phase("search", total=10, unit="trials")
            p.update(4)
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail()
    assert "search: 4/10 trials · took" in stream.getvalue()


def test_quiet_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with open_progress(enabled=False) as p:
        _run(p)
    assert capsys.readouterr() == ("", "")


def test_a_phase_without_a_known_total() -> None:
    stream = io.StringIO()
    with open_progress(stream=stream, every=0) as p:
        p.update(3)  # before any phase: nothing to say
        p.phase("measuring", unit="rows")
        p.update(3)
    assert stream.getvalue().splitlines()[:2] == ["measuring", "measuring: 3 rows"]


def test_a_closed_stream_does_not_stop_a_run() -> None:
    stream = io.StringIO()
    with open_progress(stream=stream, every=0) as p:
        p.phase("search", total=2)
        stream.close()
        p.update(1)
        p.note("still here")


def test_a_terminal_gets_a_live_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "160")
    stream = _Terminal()
    with open_progress(stream=stream) as p:
        _run(p)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "200/200 trials" in text
    assert "best 0.312 · hypervolume 9.371 · front 12" in text
    assert "saved [adapters] at step 900" in text
    assert "took" in text
    assert capsys.readouterr().out == ""


def test_importing_loads_no_rich() -> None:
    code = (
        "import sys, archrank.search.progress, archrank.search.tables, archrank.search.report;"
        "print([m for m in ('rich', 'plotly', 'torch', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


OBJECTIVES = [("loss", "min", ""), ("adapter_params", "min", ""), ("latency_ms", "min", "ms")]


def _trials() -> list[dict[str, Any]]:
    values = {"loss": 0.31249, "adapter_params": 20480, "latency_ms": 1.2}
    sentence = "query rank 4 " * 30 + "END"
    return [
        {
            "id": 7,
            "text": sentence,
            "values": values,
            "stage": "final",
            "state": "done",
            "test": {"loss": 0.33},
        },
        {"id": 12, "text": "short", "values": {"loss": 0.5}, "stage": "inherited", "state": "done"},
        {"id": 13, "text": "[red]x", "values": {}, "stage": "inherited", "state": "failed"},
    ]


def test_the_table_is_aligned_text() -> None:
    table = front_table(_trials(), OBJECTIVES, chosen={"knee": 7}, width=120)
    lines = table.splitlines()
    assert lines[0].split()[:4] == ["id", "pick", "stage", "loss"]
    for words in ("knee", "final", "0.312", "20,480", "1.20 ms", "0.330"):
        assert words in lines[1]
    assert "…" in lines[1]
    assert lines[1].endswith("END")
    assert max(len(line) for line in lines) <= 120
    assert lines[0].index("adapter_params") + len("adapter_params") == lines[1].index("20,480") + len("20,480")
    assert "inherited" in lines[2]
    assert lines[2].count("–") == 3, "missing values are dashes"
    assert "failed" in lines[3]


def test_the_table_of_nothing() -> None:
    assert front_table([], OBJECTIVES) == "no trials"


def test_the_table_on_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "130")
    plain, terminal = io.StringIO(), _Terminal()
    write_front(plain, _trials(), OBJECTIVES)
    assert plain.getvalue() == front_table(_trials(), OBJECTIVES, width=100) + "\n"
    write_front(terminal, _trials(), OBJECTIVES, chosen={"knee": 7})
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    for words in ("knee", "20,480", "1.20 ms", "[red]x", "END"):
        assert words in text, text
    assert max(len(line) for line in text.splitlines()) <= 130
