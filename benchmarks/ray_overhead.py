"""What the actor path costs, what two cores gain by it, and whether the driver keeps up with more workers than this
machine has.

Measured on Ray: `overhead` (milliseconds that an evaluation takes longer on one worker than in this process) and
`speedup` (of evaluations of 50 ms and more that only compute, two workers against this process and against one).
Simulated, with the rank space, pricing, strategy and synced log of a real run, only the evaluations replaced: `idle`
(the share of their time that 64 workers of 100 ms wait for the driver, in real time) and `study` (100,000 evaluations
on 256 workers in virtual time: the driver's milliseconds and bytes of each 10,000 trials).
"""

from __future__ import annotations

import heapq
import math
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Hashable, Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from record import Cells, arguments, interval, write_result

from archrank import grammar
from archrank.search import candidates
from archrank.search.config import RunConfig
from archrank.search.dispatch import Done, Here, Search
from archrank.search.job import Job
from archrank.search.ray.cluster import joined
from archrank.search.ray.evaluation import OnWorkers
from archrank.search.ray.pool import AHEAD, Pool
from archrank.search.run import prepared
from archrank.search.storage import Log
from archrank.search.strata import Strata
from archrank.search.study import Study

SPACE = "start: site site site site\nsite: RANK\nRANK: " + " | ".join(f'"{i}"' for i in range(10)) + "\n%ignore / /\n"
ROUNDS = 5
PROPOSED = 32


def value(text: str) -> dict[str, float]:
    """A function of the sentence that costs microseconds."""
    digits = [int(c) for c in text.split()]
    return {"error": 1 / (1 + sum((i + 1) * d for i, d in enumerate(digits))), "weights": float(sum(digits))}


def cheap() -> Callable[[str], dict[str, float]]:
    """On a worker: nothing but `value`."""
    return value


def computing(turns: int) -> Callable[[str], dict[str, float]]:
    """On a worker: so many turns of arithmetic in one thread."""

    def compute(text: str) -> dict[str, float]:
        x = 0.5
        for _ in range(turns):
            x = 3.9 * x * (1 - x)
        return value(text) | {"error": value(text)["error"] + 0 * x}

    return compute


def searched(evaluator: Any, trials: int, seed: int) -> float:
    """Seconds of a search."""
    study = Study(grammar.loads(SPACE), ["error:min", "weights:min"], strategy="random", seed=seed)
    began = time.perf_counter()
    Search(study, evaluator, lambda d: (d.text, {}, None, ()), (), trials, propose=PROPOSED).run()
    return time.perf_counter() - began


def overhead(seed: int) -> dict[str, Any]:
    """Milliseconds an evaluation, one worker and this process in turn."""
    trials, found = 1024, []
    with Pool(cheap, (), 1) as pool:
        evaluator = OnWorkers(pool)
        searched(evaluator, 64, seed)
        for r in range(ROUNDS):
            here = searched(Here(value), trials, seed + r)
            there = searched(evaluator, trials, seed + r)
            found.append({"here_ms": 1e3 * here / trials, "there_ms": 1e3 * there / trials})
    return {"rounds": found}


def forked(turns: int, count: int) -> float:
    """Seconds of two plain processes that share `count` evaluations: what the machine's second core is worth now."""
    began = time.perf_counter()
    halves = [get_context("fork").Process(target=repeated, args=(turns, count // 2)) for _ in range(2)]
    for process in halves:
        process.start()
    for process in halves:
        process.join()
    return time.perf_counter() - began


def repeated(turns: int, count: int) -> None:
    """So many evaluations."""
    compute = computing(turns)
    for _ in range(count):
        compute("0 0 0 0")


def speedup(seed: int) -> dict[str, Any]:
    """Seconds of 32 evaluations of about 60 ms: this process, two plain processes, one worker, two workers, in turn.

    The plain processes tell a slow path to the workers from a second core that another program uses.
    """
    compute = computing(100_000)
    began = time.perf_counter()
    compute("0 0 0 0")
    turns = int(100_000 * 0.06 / (time.perf_counter() - began))
    trials, found = 32, []
    with Pool(computing, (turns,), 1, cpus=0.5) as one, Pool(computing, (turns,), 2, cpus=0.5) as two:
        for pool in (one, two):
            searched(OnWorkers(pool), 8, seed)
        for r in range(ROUNDS):
            here = searched(Here(computing(turns)), trials, seed + r)
            plain = forked(turns, trials)
            alone, both = (searched(OnWorkers(pool), trials, seed + r) for pool in (one, two))
            row = {"here_s": here, "forked_s": plain, "one_s": alone, "two_s": both}
            found.append(row | {"each_ms": 1e3 * here / trials})
    return {"turns": turns, "rounds": found}


class Simulated:
    """`size` workers of `seconds` an evaluation; real: in real time, else as fast as the driver is."""

    def __init__(self, size: int, seconds: float, *, real: bool) -> None:
        self.size, self.seconds, self.real = size, seconds, real
        self.room = AHEAD * size
        self.idle = 0.0
        self._began = time.perf_counter()
        self._free = [0.0] * size
        self._running: list[tuple[float, int, Hashable, Mapping[str, float]]] = []
        self._count = 0

    @property
    def pending(self) -> int:
        return len(self._running)

    def _now(self) -> float:
        return time.perf_counter() - self._began if self.real else self._free[0]

    def submit(self, key: Hashable, item: Any) -> None:
        free, now = heapq.heappop(self._free), self._now() if self.real else 0.0
        start = max(free, now)
        self.idle += start - free
        heapq.heappush(self._free, start + self.seconds)
        self._count += 1
        heapq.heappush(self._running, (start + self.seconds, self._count, key, item))

    def collect(self) -> list[Done]:
        if self.real and self._running and (left := self._running[0][0] - self._now()) > 0:
            time.sleep(left)
        found = []
        while self._running and (not found or not self.real or self._running[0][0] <= self._now()):
            _, _, key, item = heapq.heappop(self._running)
            found.append(Done(key, item, self.seconds))
            if not self.real and len(found) >= self.size:
                break
        return found


def study_of(job: Job, log: Log, seed: int) -> Study:
    """The study of a rank run."""
    strata = Strata(job.space, candidates.budget_edges(job.space, job.net.shapes))
    return Study(job.space, job.objectives, strata.strategy("nsga2", job.objectives, seed), log=log)


def priced(job: Job) -> Callable[[grammar.Derivation], Any]:
    """As a run does it; the evaluation's values are a smooth function of the ranks with a little noise."""

    def price(d: grammar.Derivation) -> Any:
        cost = job.pricer.price(job.ranks(d))
        noise = zlib.crc32(d.key.encode()) / 2**32
        loss = 3 / (1 + math.log1p(cost["adapter_params"] / 100)) + 0.1 * noise
        return {"loss": loss, "accuracy": 0.5}, cost, None, ()

    return price


def idle(seed: int) -> dict[str, Any]:
    """The share of their time that 64 workers of 100 ms wait, in step and asynchronous, after the first round."""
    job, found = prepared(RunConfig(hw=("a100",))), {}
    assert isinstance(job, Job)
    for name, more in (("asynchronous", {"asynchronous": True}), ("in step, 128", {"propose": 128})):
        with tempfile.TemporaryDirectory() as folder, Log.open(Path(folder) / "log.jsonl", {}) as log:
            workers, trials = Simulated(64, 0.1, real=True), 6400
            began = time.perf_counter()
            search = Search(study_of(job, log, seed), workers, priced(job), (), trials, **more)  # type: ignore[arg-type]
            search.run()
            wall = time.perf_counter() - began
        found[name] = {"idle_share": workers.idle / (64 * wall), "seconds": wall, "asks_per_s": trials / wall}
    return found


def resident() -> int:
    """Bytes of this process in memory."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def study(seed: int) -> dict[str, Any]:
    """Driver's time and memory of each tenth of 100,000 evaluations on 256 workers."""
    job, rows = prepared(RunConfig(hw=("a100",))), []
    assert isinstance(job, Job)
    total, part = 100_000, 10_000
    with tempfile.TemporaryDirectory() as folder, Log.open(Path(folder) / "log.jsonl", {}) as log:
        before, clock, wall = resident(), time.process_time(), time.perf_counter()

        def each(told: int) -> None:
            nonlocal before, clock, wall
            if told % part == 0:
                now = (resident(), time.process_time(), time.perf_counter())
                rows.append(
                    {
                        "told": told,
                        "cpu_ms": 1e3 * (now[1] - clock) / part,
                        "wall_ms": 1e3 * (now[2] - wall) / part,
                        "bytes": (now[0] - before) / part,
                    }
                )
                print(rows[-1], flush=True)
                before, clock, wall = now

        workers = Simulated(256, 0.1, real=False)
        Search(study_of(job, log, seed), workers, priced(job), (), total, propose=512, each=each).run()
        size = (Path(folder) / "log.jsonl").stat().st_size
    return {"parts": rows, "resident_bytes": resident(), "log_bytes": size}


def main() -> None:
    """Measures what is missing and writes the result."""
    args = arguments(__doc__)
    cells = Cells(args.out)
    simulated = {"idle": lambda: idle(args.seed), "study": lambda: study(args.seed)}
    on_ray = {"overhead": lambda: overhead(args.seed), "speedup": lambda: speedup(args.seed)}
    if not all(name in cells.done for name in on_ray):
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        with joined("auto", None):
            cells.all(on_ray)
    found = {name: cells.done[name] for name in on_ray} | cells.all(simulated)
    write_result(args.out, result(found))


def result(found: Mapping[str, Any]) -> dict[str, object]:
    """The claims with their figures."""
    extra = [r["there_ms"] - r["here_ms"] for r in found["overhead"]["rounds"]]
    gains = [r["here_s"] / r["two_s"] for r in found["speedup"]["rounds"]]
    over_one = [r["one_s"] / r["two_s"] for r in found["speedup"]["rounds"]]
    forks = [r["here_s"] / r["forked_s"] for r in found["speedup"]["rounds"]]
    parts = found["study"]["parts"]
    return {
        "claim": "an evaluation on a worker costs at most 2 ms more than in this process; two workers on two cores are "
        "at least 1.7 times as fast as one process for evaluations of 50 ms and more; 64 workers of 100 ms wait at "
        "most 5 % of their time; the driver's time and memory a trial do not grow over 100,000 trials",
        "value": {
            "overhead_ms": float(np.median(extra)),
            "speedup_of_two_workers": float(np.median(gains)),
            "speedup_over_one_worker": float(np.median(over_one)),
            "idle_share_of_64": {name: row["idle_share"] for name, row in found["idle"].items()},
            "driver_cpu_ms_of_a_trial": [parts[0]["cpu_ms"], parts[-1]["cpu_ms"]],
            "driver_bytes_of_a_trial": [parts[0]["bytes"], parts[-1]["bytes"]],
        },
        "unit": "ms, ratio (medians over rounds), share, [first 10,000 trials, last 10,000]",
        "ci": {"overhead_ms": interval(extra), "speedup_of_two_workers": interval(gains)},
        "seeds": ROUNDS,
        "baselines": {
            "in_process_ms": float(np.median([r["here_ms"] for r in found["overhead"]["rounds"]])),
            "speedup_of_two_forked_processes": float(np.median(forks)),
        },
        "cells": dict(found),
    }


if __name__ == "__main__":
    main()
