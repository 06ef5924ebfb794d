"""What a strategy is told of a history: changes alone, the same as a comparison of all trials would give."""

from __future__ import annotations

import numpy as np
import pytest

from archrank.search.history import Change, History, Reader
from archrank.search.trial import PENDING, Trial


def trial(number: int, key: str | None = None, state: str = "done") -> Trial:
    return Trial(number, f"t{number}", key or f"k{number}", {}, state=state)


def test_a_reader_hears_of_what_came_and_what_ended() -> None:
    history, reader = History(), Reader()
    history.put(trial(0))
    history.put(trial(2, state=PENDING))
    assert [(c.place, c.old, c.new) for c in reader.read(history)] == [(0, None, trial(0)), (1, None, history[1])]
    assert reader.read(history) == []
    ended = trial(2)
    history.put(ended)
    history.put(trial(3))
    changes = reader.read(history)
    assert [(c.place, c.new) for c in changes] == [(1, ended), (2, trial(3))]
    assert not any(c.replaced for c in changes)
    history.put(trial(1))  # told late
    assert [(c.place, c.replaced) for c in reader.read(history)] == [(1, True), (2, True), (3, False)]
    assert [t.id for t in history] == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(5))
def test_changes_are_those_of_a_comparison(seed: int) -> None:
    rng = np.random.default_rng(seed)
    history, reader, before = History(), Reader(), []
    for _ in range(200):
        for _ in range(int(rng.integers(4))):
            number = int(rng.integers(60))
            history.put(trial(number, state=PENDING if rng.random() < 0.5 else "done"))
        now = list(history)
        pairs = [(before[i] if i < len(before) else None, t) for i, t in enumerate(now)]
        expected = [Change(i, old, new) for i, (old, new) in enumerate(pairs) if old != new]
        assert reader.read(history) == expected
        before = now


def test_another_sequence_is_compared() -> None:
    history, reader = History(), Reader()
    for number in range(3):
        history.put(trial(number))
    reader.read(history)
    assert reader.read(history[:2]) == [Change(2, trial(2), None)]
    assert reader.read([trial(0), trial(1), trial(2)]) == [Change(2, None, trial(2))]
    assert reader.read(history) == []
