"""Signals are noted and raised at safe points."""

import os
import signal
import threading

import pytest

from archrank.search.interrupt import Interrupted, Interrupts


@pytest.mark.parametrize(
    ("number", "code", "text"),
    [(signal.SIGTERM, 75, "stopped by SIGTERM"), (signal.SIGINT, 130, "interrupted")],
)
def test_signal_is_raised_at_the_check(number, code, text):
    before = signal.getsignal(number)
    with Interrupts() as stop:
        stop.check()
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted, match=text) as error:
            stop.check()
        assert error.value.code == code
    assert signal.getsignal(number) is before


def test_second_ctrl_c_is_immediate():
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), Interrupts():
        twice()
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_after_sigterm_asks_for_130():
    with Interrupts() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.code == 130


def test_other_threads_are_left_alone():
    seen = []

    def work():
        with Interrupts() as stop:
            stop.check()
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_own_message():
    error = Interrupted(75, "stopped after --max-hours 1")
    assert (str(error), error.code) == ("stopped after --max-hours 1", 75)
