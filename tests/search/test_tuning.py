"""A phase's candidates, fine-tuned in one pass, are what they would be alone."""

from __future__ import annotations

from pathlib import Path

import pytest

import archrank as ar
from archrank.search.job import Job


@pytest.mark.slow
def test_in_one_pass_and_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    for at_once in (True, False):
        monkeypatch.setattr(Job, "trains_together", at_once)
        out = tmp_path / str(at_once)
        run = ar.run("lora_ranks", out=out, trials=10, train_steps=24, finalists=2, seed=3)
        assert not list(out.glob("*-[01].safetensors"))
        told.append([(t.stage, t.text, t.values["loss"]) for t in run.trials])
    for one, other in zip(*told, strict=True):
        assert one[:2] == other[:2]
        assert one[2] == pytest.approx(other[2], abs=1e-3)


def test_which_bases_take_it() -> None:
    from archrank.search.config import RunConfig
    from archrank.search.job import prepare

    assert prepare(RunConfig(seed=0)).trains_together
    assert not prepare(RunConfig(seed=0, accumulate=2)).trains_together
    assert not prepare(RunConfig(seed=0, compute_dtype="bf16")).trains_together
