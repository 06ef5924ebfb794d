"""Made-up runs for the report's tests, and what reads a page."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from archrank.search.report import Constant, ReportData, render
from archrank.search.report.findings import Band, Feature, Findings, Importance, Lineage, Step

KINDS = (
    "attention.attention.query",
    "attention.attention.key",
    "attention.attention.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
MODULES = tuple(f"vit.encoder.layer.{i}.{kind}" for i in range(3) for kind in KINDS)
WIDTH = 32
EVIL = """<script>document.title='owned'</script><img src=x onerror="document.title='owned'">&"</script><!--"""


def _params(name: str, rank: int) -> int:
    return rank * (3 * WIDTH if "intermediate" in name or name.endswith("r.output.dense") else 2 * WIDTH)


def _candidate(rng: random.Random) -> dict[str, int]:
    bound = rng.choice((1, 2, 4, 8, 16))
    return {m: r for m in MODULES if (r := rng.choice((0, 1, 2, 4, 8, 16))) <= bound and r}


def _loss(ranks: dict[str, int]) -> float:
    weight = {m: (3.0 if "value" in m else 1.0) * (1 + int(m.split(".")[3])) for m in MODULES}
    gain = sum(weight[m] * (1 - math.exp(-r / 3)) for m, r in ranks.items())
    return 0.18 + 2.0 * math.exp(-gain / 12)


def _text(ranks: dict[str, int]) -> str:
    return " ".join(f"{m.removeprefix('vit.encoder.')} rank {ranks.get(m, 0)}" for m in MODULES)


def _front(trials: list[dict[str, Any]], x: str, y: str) -> list[int]:
    best, found = math.inf, []
    for t in sorted(trials, key=lambda t: (t["values"][x], t["values"][y])):
        if t["values"][y] < best:
            best = t["values"][y]
            found.append(t["id"])
    return found


class _Made:
    """Trials as a run writes them: inherited, of those the best re-ranked, of those the best final."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.trials: list[dict[str, Any]] = []
        self.ranks: dict[int, dict[str, int]] = {}

    def add(self, ranks: dict[str, int], stage: str, loss: float, parent: int | None) -> dict[str, Any]:
        values = {"loss": loss, "adapter_params": float(sum(_params(m, r) for m, r in ranks.items()))}
        new: dict[str, Any] = {"id": len(self.trials) + 1, "text": _text(ranks), "values": values}
        new |= {"stage": stage, "state": "done"}
        new |= {"seconds": 0.05, "key": str(tuple(ranks.items())), "parent": parent}
        self.trials.append(new)
        self.ranks[new["id"]] = ranks
        return new

    def fail(self, state: str, reason: str) -> None:
        self.add(_candidate(self.rng), "inherited", math.nan, None).update(state=state, reason=reason, values={})


def _rank_feature(made: _Made, module: str) -> Feature:
    return Feature(f"rank of {module}", {i: float(ranks.get(module, 0)) for i, ranks in made.ranks.items()})


def _lineage(final: dict[str, Any], reranked: list[dict[str, Any]], inherited: list[dict[str, Any]]) -> Lineage:
    """A finalist through its stages, and one candidate before it."""
    second = next(t for t in reranked if t["id"] == final["parent"])
    first = next(t for t in inherited if t["id"] == second["parent"])
    before = next(t for t in reversed(inherited) if t["id"] < first["id"])
    steps = [
        Step(final["id"], ""),
        Step(second["id"], "the same candidate, trained further"),
        Step(first["id"], "the same candidate, trained further"),
        Step(before["id"], "2 of 18 decisions differ", ["layer.0 key: 4 → 8", "layer.2 value: none → 1"], 3),
    ]
    return Lineage(steps, "the first candidate of the run")


@pytest.fixture(scope="session")
def realistic() -> ReportData:
    """A run of a rank search with every section: 200 inherited trials, 16 re-ranked, 8 final."""
    made, rng = _Made(3), random.Random(4)
    inherited = []
    for n in range(200):
        if n % 37 == 20:
            made.fail("failed", "loss is nan after step 12 of the head")
        if n % 70 == 30:
            made.fail("infeasible", "adapter_params 21,504 is above the bound 20,480")
        ranks = {} if n == 5 else _candidate(made.rng)
        inherited.append(made.add(ranks, "inherited", _loss(ranks) + abs(rng.gauss(0.12, 0.06)), None))
    reranked = []
    for t in _spread(inherited, 16):
        ranks = made.ranks[t["id"]]
        reranked.append(made.add(ranks, "reranked", _loss(ranks) + rng.gauss(0.05, 0.025), t["id"]))
    final = []
    for t in _spread(reranked, 8):
        ranks = made.ranks[t["id"]]
        final.append(made.add(ranks, "final", _loss(ranks) + rng.gauss(0, 0.01), t["id"]))
    for t in final:
        t["values"]["accuracy"] = round(1 - t["values"]["loss"] / 4, 4)
        t["test"] = {"loss": t["values"]["loss"] + 0.02, "accuracy": t["values"]["accuracy"] - 0.006}
    front = _front(final, "adapter_params", "loss")
    best = min(final, key=lambda t: t["values"]["loss"])["id"]
    return ReportData(
        title="lora_ranks",
        task="image-classification",
        base="digits-vit (embedded)",
        data="scikit-learn digits, rotated by 90°",
        device="a100",
        verdict="The knee reaches 93 % of the best accuracy with 19 % of its adapter parameters.",
        objectives=[("loss", "min", ""), ("adapter_params", "min", "")],
        trials=made.trials,
        front=front,
        chosen={"knee": front[len(front) // 2], "best:loss": best, "best:adapter_params": front[0]},
        hypervolume=[(n, 9.4 - 4 * math.exp(-n / 40) - (0.3 if n < 120 else 0)) for n in range(1, 201)],
        reference={"loss": 2.4, "adapter_params": 18432},
        findings=Findings(
            Band([(n, 8 + n / 200, 9 + n / 200, 9.5 + n / 200) for n in (1, 40, 200)], "The band is made up."),
            [_rank_feature(made, MODULES[0]), _rank_feature(made, MODULES[9])],
            [
                Importance(
                    "loss", "decision", MODULES[:3], [0.4, 0.2, 0.0], [0.3, 0.1, -0.1], [0.5, 0.3, 0.1], 0.8, 200
                ),
                Importance("loss", "production", refused="The trials do not differ in any of these."),
            ],
            [_lineage(final[3], reranked, inherited)],
        ),
        ranks={i: made.ranks[i] for i in front},
        modules=MODULES,
        constants=[Constant("latency_ms", 0.1231, "ms", "merged, on a100: the same for every rank, no objective")],
        warnings=["The validation split has 360 rows: differences in accuracy below 0.008 are noise."],
        phases=[
            ("head", 4.2),
            ("supernet", 51.7),
            ("search", 12.9),
            ("re-rank", 21.4),
            ("finalists", 33.0),
            ("test", 0.9),
        ],
        command="search run spaces/lora_ranks.lark --hw a100 --trials 200 --seed 0",
        config='space = "lora_ranks"\nseed = 0\ntrials = 200\n',
        seed=0,
        versions={"archrank": "0.1.0", "torch": "2.9.0", "peft": "0.18.0", "python": "3.11.7"},
        machine="2 × Xeon, Linux x86_64",
    )


def _spread(trials: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """The best of each of n strata by size."""
    ordered = sorted(trials, key=lambda t: t["values"]["adapter_params"])
    strata = [ordered[len(ordered) * i // n : len(ordered) * (i + 1) // n] for i in range(n)]
    return [min(s, key=lambda t: t["values"]["loss"]) for s in strata]


@pytest.fixture(scope="session")
def evil(realistic: ReportData) -> ReportData:
    """The same run, with markup in every text that a user, a model or a data set can name."""
    data, found = realistic, realistic.findings
    name = "loss" + EVIL
    trials = [dict(t, text=EVIL + t["text"]) for t in data.trials]
    for t in trials:
        t["reason"] = EVIL
        t["values"] = {k.replace("loss", name): v for k, v in t["values"].items()}
        t["test"] = {EVIL: 1.5}
    return ReportData(
        title=EVIL,
        task=EVIL,
        base=EVIL,
        data=EVIL,
        device=EVIL,
        verdict=EVIL,
        objectives=[(name, "min", EVIL), ("adapter_params", "min", "")],
        trials=trials,
        front=data.front,
        chosen={EVIL: data.front[0]},
        hypervolume=data.hypervolume,
        reference={name: 2.0},
        ranks={i: {m + EVIL: r for m, r in ranks.items()} for i, ranks in data.ranks.items()},
        modules=[m + EVIL for m in MODULES],
        constants=[Constant(EVIL, 1.0, EVIL, EVIL)],
        warnings=[EVIL],
        phases=[(EVIL, 1.0)],
        command=EVIL,
        config=EVIL,
        seed=1,
        versions={EVIL: EVIL},
        machine=EVIL,
        findings=Findings(
            Band(found.band.points, EVIL),
            [Feature(EVIL + f.name, f.values) for f in found.features],
            [
                Importance(EVIL, EVIL, [EVIL], [0.5], [0.4], [0.6], 0.5, 50),
                Importance(name, EVIL, refused=EVIL),
            ],
            [Lineage([Step(s.trial, EVIL, [EVIL], 1) for s in lineage.steps], EVIL) for lineage in found.lineages],
        ),
    )


@pytest.fixture(scope="session")
def page(realistic: ReportData) -> str:
    """The realistic run's page."""
    return render(realistic)


@pytest.fixture(scope="session")
def figures() -> Callable[[str], dict[str, Any]]:
    """What reads {name: figure} out of a page."""

    def read(page: str) -> dict[str, Any]:
        found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
        assert found
        read: dict[str, Any] = json.loads(found[1])
        return read

    return read
