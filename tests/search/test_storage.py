"""What must survive anything: the log, the lock, whole files."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from archrank.search.storage import LockError, Log, LogError, RunLock, StorageError, read_log, write_atomic
from archrank.search.trial import Trial


def trial(i, **more):
    return Trial(i, f"s{i}", f"k{i}", {"loss": i / 7}, seconds=0.5, **more)


def filled(path, n=5):
    with Log.open(path, {"seed": 3}) as log:
        for i in range(n):
            log.append(trial(i))
    return path


def test_header_trials_and_events(tmp_path):
    path = tmp_path / "trials.jsonl"
    with Log.open(path, {"seed": 3, "versions": {"python": "3"}}) as log:
        log.append(trial(0, extra={"test": {"loss": 1.0}}))
        log.event({"event": "phase", "name": "supernet"})
        log.append(trial(1))
    first = json.loads(path.read_text().splitlines()[0])
    assert first == {"schema": 1, "seed": 3, "versions": {"python": "3"}}
    read = read_log(path)
    assert [t.id for t in read.trials] == [0, 1]
    assert read.trials[0] == trial(0, extra={"test": {"loss": 1.0}})
    assert read.events == ({"event": "phase", "name": "supernet"},)
    assert not read.damage
    with Log.open(path, {"seed": 99}) as again:
        assert again.header["seed"] == 3
        again.append(trial(2))
        assert [t.id for t in again.trials] == [0, 1, 2]


def test_an_event_needs_its_key(tmp_path):
    with (
        Log.open(tmp_path / "t.jsonl") as log,
        pytest.raises(ValueError, match="an event needs a key 'event', not only x"),
    ):
        log.event({"x": 1})


def test_closed(tmp_path):
    log = Log.open(tmp_path / "t.jsonl")
    log.close()
    log.close()
    with pytest.raises(StorageError, match="the log is closed"):
        log.append(trial(0))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{broken", "not JSON: "),
        (b"\xff\xfe", "not UTF-8 text"),
        (b"\x00" * 50, "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"[" * 100_000, ""),
        (b'{"id": 9}', "no 'text'"),
        (
            b'{"id": 9, "text": "a", "values": {"loss": NaN}, "stage": "final", "state": "done"}',
            "NaN is no JSON number",
        ),
        (
            b'{"id": 9, "text": "a", "values": {"loss": 1e999}, "stage": "final", "state": "done"}',
            "loss is inf",
        ),
        (b'{"schema": 2, "id": 9}', "schema 2; this program reads schema 1"),
        (
            b'{"id": 3, "text": "a", "values": {}, "stage": "final", "state": "done"}',
            "trial 3 stands in line 5 already",
        ),
    ],
)
def test_damaged_lines_are_named_and_the_rest_is_kept(tmp_path, line, reason):
    path = filled(tmp_path / "trials.jsonl")
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:6], line, *lines[6:]]))
    with Log.open(path) as log:
        log.append(trial(6))
    read = read_log(path)
    assert [t.id for t in read.trials] == [0, 1, 2, 3, 4, 6]
    assert [d.line for d in read.damage] == [7]
    assert str(read.damage[0]).startswith("line 7 of the log is left out: ")
    assert reason in read.damage[0].reason


@pytest.mark.parametrize("cut", [1, 2, 10, 40])
def test_append_after_a_torn_tail(tmp_path, cut):
    path = filled(tmp_path / "trials.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    kept = 5 if cut == 1 else 4  # without its newline alone, the last line is whole
    assert len(read_log(path).trials) == kept
    with Log.open(path) as log:
        assert len(log.damage) == 5 - kept
        log.append(trial(8))
        log.append(trial(9))
    assert [t.id for t in read_log(path).trials][-2:] == [8, 9]
    assert len(read_log(path).trials) == kept + 2


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "no header of a log"),
        (b"hello\n", "no header of a log (not JSON"),
        (b'{"seed": 1}\n', "the log has schema None, this program reads schema 1"),
        (b'{"schema": 2}\n', "schema 2, this program reads schema 1; a newer archrank wrote it"),
    ],
)
def test_wrong_headers(tmp_path, content, part):
    path = tmp_path / "trials.jsonl"
    path.write_bytes(content)
    with pytest.raises(LogError) as error:
        read_log(path)
    assert part in str(error.value)
    assert f"{path}:1:" in str(error.value)


def test_missing_log(tmp_path):
    with pytest.raises(LogError, match="cannot be read: No such file"):
        read_log(tmp_path / "none.jsonl")


def test_empty_file_is_a_new_log(tmp_path):
    path = tmp_path / "trials.jsonl"
    path.touch()
    Log.open(path, {"seed": 1}).close()
    assert read_log(path).header == {"schema": 1, "seed": 1}


def test_odd_text_survives(tmp_path):
    path = tmp_path / "trials.jsonl"
    text = 'a\u2028b\n"\ud800 \N{GRINNING FACE}'
    with Log.open(path) as log:
        log.append(Trial(0, text, "k", {}))
    assert read_log(path).trials[0].text == text


def test_disk_full_keeps_what_was_there(tmp_path, monkeypatch):
    path = filled(tmp_path / "trials.jsonl")
    before, write = path.read_bytes(), os.write

    def half_then_full(descriptor, data):
        if len(data) > 30:
            return write(descriptor, bytes(data[:20]))
        raise OSError(errno.ENOSPC, "No space left on device")

    with Log.open(path) as log:
        monkeypatch.setattr(os, "write", half_then_full)
        with pytest.raises(StorageError, match=r"no space left; 5 trials are kept.*search resume") as error:
            log.append(trial(5, extra={"test": {"x": 1.0}}))
        assert str(tmp_path) in str(error.value)
        assert path.read_bytes() == before
        monkeypatch.undo()
        log.append(trial(5))
    assert len(read_log(path).trials) == 6


def test_a_line_that_an_interrupt_cut_off_stays_alone(tmp_path, monkeypatch):
    path, write = filled(tmp_path / "trials.jsonl"), os.write

    def half_then_ctrl_c(descriptor, data):
        write(descriptor, bytes(data[:20]))
        raise KeyboardInterrupt

    with Log.open(path) as log:
        monkeypatch.setattr(os, "write", half_then_ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            log.append(trial(5))
        monkeypatch.undo()
        log.event({"event": "session"})
    read = read_log(path)
    assert (len(read.trials), len(read.events), [d.line for d in read.damage]) == (5, 1, [7])


KILLED = """
import sys
from archrank.search.storage import Log
from archrank.search.trial import Trial
log = Log.open(sys.argv[1], {"seed": 0})
n = len(log.trials) + len(log.damage)
print("ready", flush=True)
for i in range(n, n + 100000):
    log.append(Trial(i, "x" * 2000, f"k{i}", {"loss": 1.0}))
    print(i, flush=True)
"""


def test_kill_loses_no_finished_line(tmp_path):
    path, rng, finished = tmp_path / "trials.jsonl", random.Random(0), set()
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.01, 0.15))
        process.kill()
        said, _ = process.communicate()
        finished |= {int(line) for line in said.split("\n")[:-1]}
    assert len(finished) > 4
    assert finished <= {t.id for t in read_log(path).trials}


def test_one_process_at_a_time(tmp_path):
    code = "import sys, time; from archrank.search.storage import RunLock\n"
    code += "with RunLock(sys.argv[1]):\n print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(LockError, match=rf"process {process.pid} on \S+ is at work there; wait for it or end it"),
            RunLock(tmp_path),
        ):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with RunLock(tmp_path), pytest.raises(LockError, match=f"process {os.getpid()} "), RunLock(tmp_path):
        pass
    with RunLock(tmp_path):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()


def test_lock_of_a_missing_folder(tmp_path):
    with (
        pytest.raises(StorageError, match=r"lock: cannot be opened: No such file"),
        RunLock(tmp_path / "none"),
    ):
        pass


def test_write_atomic(tmp_path):
    path = tmp_path / "deep" / "config.toml"
    write_atomic(path, b"one")
    write_atomic(path, lambda p: p.write_text("two"))
    assert path.read_text() == "two"

    def breaks(p):
        p.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(
        StorageError,
        match="cannot be written: No space left on device; what was there",
    ):
        write_atomic(path, breaks)
    assert path.read_text() == "two"
    assert os.listdir(path.parent) == ["config.toml"]  # noqa: PTH208


def test_imports_stay_light():
    code = textwrap.dedent("""
        import sys
        import archrank.search.study, archrank.search.strata
        import archrank.search.strategies.nsga2, archrank.search.strategies.optuna
        heavy = ("torch", "optuna", "moocore", "pandas", "ray", "transformers")
        print([m for m in heavy if m in sys.modules])
    """)
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
