"""What is said when a run's folder, or a trial, has nothing to take home."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from archrank.search.config import ConfigError
from archrank.search.results import Run
from archrank.search.saved import done_trial, kept_file
from archrank.search.trial import Trial


@pytest.mark.parametrize("what", ["sub-network", "ensemble", "network"])
def test_a_lost_file_is_named_with_what_needs_it(what: str, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    with pytest.raises(ConfigError) as told:
        kept_file(file, what)
    assert str(told.value) == (
        f"{file}: is gone; without it the {what} cannot be extracted. `search resume` the run first if it is unfinished"
    )
    file.touch()
    assert kept_file(file, what) == file


class OneFailed:
    def trial(self, number: int) -> Trial:
        return Trial(number, "a", "k", state="failed", reason="loss is nan at step 3" if number else None)


@pytest.mark.parametrize(("number", "reason"), [(7, "loss is nan at step 3"), (0, "no reason told")])
def test_a_failed_trial_has_nothing_to_extract(number: int, reason: str) -> None:
    run = cast(Run, OneFailed())
    for asked in (number, run.trial(number)):
        with pytest.raises(ConfigError) as told:
            done_trial(run, asked)
        assert str(told.value) == f"trial {number} is failed ({reason}): there is nothing to extract"
    done = Trial(3, "a", "k")
    assert done_trial(run, done) is done
