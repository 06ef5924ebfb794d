"""`--write-space`: the space comes back with the probabilities that the best trials speak for."""

from __future__ import annotations

from pathlib import Path

import archrank as ar
from archrank import grammar
from archrank.search.cli import main


def test_the_learned_space_prefers_what_was_good(tmp_path: Path) -> None:
    out, learned = tmp_path / "r", tmp_path / "learned.lark"
    flags = (
        "--strategy cross_entropy --trials 60 --train-steps 10 --finalists 0 --seed 2 --objective adapter_params:min"
    )
    call = ["run", "lora_ranks", *flags.split(), "--out", str(out), "--write-space", str(learned)]
    assert main(call) == 0
    run = ar.open(out)
    space = grammar.load(learned).bind(dict.fromkeys(run.modules, (8, 8)))
    plain = grammar.load("lora_ranks").bind(dict.fromkeys(run.modules, (8, 8)))
    best = [t.text for t in sorted(run.trials, key=lambda t: t.values["adapter_params"])[:10]]
    gains = [space.log_prob(space.parse(text)) - plain.log_prob(plain.parse(text)) for text in best]
    assert min(gains) > 0
    assert main(["check", str(learned)]) == 0
