"""How fast the space language is: valid samples, variation, parsing, reading a file, elaborating a network.

    python benchmarks/space_language.py --out benchmarks/results/space_language.json [--seed 0] [--seeds 5]

CPU seconds of one process on one thread, so that other load on the machine counts little. A rate is the mean over
seeds, each a block of at least --seconds CPU seconds; a time is the median over runs. Every sample is valid by
construction, and what is counted is a finished candidate: productions, text and key.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import lark
import numpy as np
from record import Cells, interval, write_result

from archrank import grammar, spaces
from archrank.grammar import Derivation, Space

USER = """// a user's space of einspace's size: sequence models of residual blocks, attention and convolutions
//@ input = 128x64
//@ max size = 200, max params = 20M, max activation_bytes = 16MiB

start: net
net: "chain" "(" block "," net ")"                                 -> seq      //@ p = 0.6
   | "fork"  "(" cut2 "," net "," net "," join2 ")"                -> branch2  //@ p = 0.1
   | block                                                         -> leaf     //@ p = 0.3

block: "residual" "(" copy "," inner "," skip "," sum ")"          -> branch2  //@ p = 0.3
     | "heads"    "(" cut4 "," head "," join4 ")"                  -> branch4  //@ p = 0.1, copies(head) = 4
     | "wide"     "(" cut8 "," head "," join8 ")"                  -> branch8  //@ p = 0.1, copies(head) = 8
     | "across"   "(" turn "," inner "," turn ")"                  -> route    //@ p = 0.2
     | layer                                                       -> leaf     //@ p = 0.3

head: "attend" "(" copy "," scores "," inner "," product ")"       -> branch2  //@ p = 0.5
    | "plain"  "(" layer ")"                                       -> leaf     //@ p = 0.5
scores: "dots" "(" copy "," layer "," keys "," product ")"         -> branch2  //@ p = 0.7
      | "just" "(" layer ")"                                       -> leaf     //@ p = 0.3
keys: "keys" "(" layer "," turn ")"                                -> seq
inner: "two"   "(" layer "," layer ")"                             -> seq      //@ p = 0.4
     | "three" "(" layer "," layer "," layer ")"                   -> route    //@ p = 0.3
     | "again" "(" block ")"                                       -> leaf     //@ p = 0.3

copy: "clone" -> clone
cut2: "clone" -> clone                          //@ p = 1/2
    | "group" "(" AXIS ")" -> group             //@ p = 1/2
cut4: "clone" -> clone                          //@ p = 1/2
    | "group" "(" AXIS ")" -> group             //@ p = 1/2
cut8: "clone" -> clone                          //@ p = 1/2
    | "group" "(" AXIS ")" -> group             //@ p = 1/2
sum: "add" -> add
join2: "add" -> add | "concat" "(" AXIS ")" -> concat
join4: "add" -> add | "concat" "(" AXIS ")" -> concat
join8: "add" -> add | "concat" "(" AXIS ")" -> concat
product: "matmul" -> matmul | "scaled" -> scaled_matmul | "plus" -> add
turn: "turn" "(" ORDER ")" -> permute | "stay" -> id
skip: "id" -> id | "project" "(" WIDTH ")" -> linear

layer: "id" -> id                               //@ p = 0.05
     | "linear" "(" WIDTH ")" -> linear         //@ p = 0.35
     | "conv" "(" KERNEL "," WIDTH ")" -> conv1d //@ p = 0.25
     | "norm" -> norm                           //@ p = 0.15
     | "relu" -> leaky_relu                     //@ p = 0.1
     | "softmax" -> softmax                     //@ p = 0.05
     | "positions" -> pos_enc                   //@ p = 0.05
AXIS: "1" | "2"
ORDER: "21" | "12"
KERNEL: "1" | "3" | "5" | "8"
WIDTH: "16" | "32" | "64" | "128" | "256" | "512" | "1024" | "2048"
%ignore /\\s+/
"""


def rate(make: Callable[[], int], seconds: float) -> float:
    """Candidates per CPU second."""
    make()
    count, begun = 0, time.process_time()
    while (spent := time.process_time() - begun) < seconds:
        count += make()
    return count / spent


def sampled(space: Space, seed: int, seconds: float) -> float:
    """Samples per second."""
    rng = np.random.default_rng(seed)
    return rate(lambda: len(space.sample(rng, 100)), seconds)


def varied(space: Space, seed: int, seconds: float, cross: bool) -> float:
    """Mutants, or children of two, per second, of parents drawn before."""
    rng = np.random.default_rng(seed)
    parents = itertools.cycle(itertools.pairwise(space.sample(rng, 2001)))

    def make() -> int:
        for a, b in itertools.islice(parents, 100):
            _ = space.crossover(a, b, rng) if cross else space.mutate(a, rng)
        return 100

    return rate(make, seconds)


def milliseconds(calls: Sequence[Callable[[], object]], repeat: int = 1) -> float:
    """Median CPU milliseconds of the calls."""
    found = []
    for call in calls:
        for _ in range(repeat):
            begun = time.process_time_ns()
            call()
            found.append((time.process_time_ns() - begun) / 1e6)
    return statistics.median(found)


def sentences(space: Space, seed: int, low: int, high: int, count: int) -> list[Derivation]:
    """Samples whose text has between `low` and `high` characters."""
    rng, found = np.random.default_rng(seed), list[Derivation]()
    while len(found) < count:
        found += [d for d in space.sample(rng, 50) if low <= len(d.text) <= high]
    return found[:count]


def large(low: int, high: int) -> Space:
    """The shipped space with all expanded sizes from `low` to `high` alike, so that long sentences are common."""
    text = spaces.path("einspace").read_text(encoding="utf-8")
    wider = re.sub(r"max size = \d+", f"max size = {high}", text)
    return grammar.loads("//@ prior size = uniform\n" + wider).within(size=(low, None))


def parsing(seed: int) -> dict[str, object]:
    """Milliseconds to parse a sentence of 1 kB: own reader, with the candidate made, and stock Lark."""
    space = large(400, 1200)
    found = sentences(space, seed, 950, 1050, 60)
    texts = [d.text for d in found]
    reader = space.trees().sentences
    lalr = lark.Lark(space.text, parser="lalr")
    cell: dict[str, object] = {"sentences": len(texts), "characters": statistics.median(map(len, texts))}
    for name, parse in {
        "own": reader.read_whole,
        "own_with_text_and_key": space.parse,
        "lark_lalr": lalr.parse,
    }.items():
        for text in texts[:5]:
            parse(text)
        cell[name] = milliseconds([lambda t=text, p=parse: p(t) for text in texts], 3)  # type: ignore[misc]
    earley = lark.Lark(space.text, parser="earley")
    cell["lark_earley"] = milliseconds([lambda t=text: earley.parse(t) for text in texts[:12]])  # type: ignore[misc]
    return cell


def reading() -> dict[str, object]:
    """Milliseconds to read einspace.lark with every lint, and again."""
    text = spaces.path("einspace").read_text(encoding="utf-8")
    grammar.loads(text)
    # a name of its own, since one text under one name is read once
    cold = milliseconds([lambda i=i: grammar.loads(text, f"<{i}>") for i in range(9)])  # type: ignore[misc]
    user = milliseconds([lambda i=i: grammar.loads(USER, f"<{i}>") for i in range(5)])  # type: ignore[misc]
    spaces.load("einspace")
    return {"text": cold, "shipped_again": milliseconds([lambda: spaces.load("einspace")], 9), "user": user}


def elaborating(seed: int) -> dict[str, object]:
    """Milliseconds for networks of 180 to 220 ops: each once, and each again."""
    space, rng = large(200, 400), np.random.default_rng(seed)
    networks = list[Derivation]()
    while len(networks) < 40:
        networks += [d for d in space.sample(rng, 50) if 180 <= len(space.elaborate(d).ops) <= 220]
    fresh = spaces.load("einspace")
    networks = [fresh.parse(d.text) for d in networks[:40]]
    first = milliseconds([lambda d=d: fresh.elaborate(d) for d in networks])  # type: ignore[misc]
    again = milliseconds([lambda d=d: fresh.elaborate(d) for d in networks], 5)  # type: ignore[misc]
    ops = statistics.median(len(fresh.elaborate(d).ops) for d in networks)
    costs = milliseconds([lambda d=d: fresh.elaborate(d).workload(1) for d in networks])  # type: ignore[misc]
    return {"ops": ops, "first": first, "again": again, "with_workload": costs}


def closings(seed: int, count: int) -> dict[str, float]:
    """Shares of two-way joins by how they were closed, over samples of expanded size up to 200."""
    space = spaces.load("einspace").within(size=(None, 200))
    space.sample(np.random.default_rng(seed), count)
    counts: dict[str, int] = space.trees().counts  # type: ignore[attr-defined]
    return {name: counts[name] / sum(counts.values()) for name in ("free", "goal", "fallback")}


def main() -> None:
    """Measures every cell that is not known yet and writes the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    small = spaces.load("einspace").within(size=(None, 200))
    uniform = large(100, 200)
    user = grammar.loads(USER)
    rates: dict[str, Callable[[int], float]] = {
        "samples": lambda seed: sampled(small, seed, args.seconds),
        "samples_uniform_100_200": lambda seed: sampled(uniform, seed, args.seconds),
        "samples_users_grammar": lambda seed: sampled(user, seed, args.seconds),
        "mutations": lambda seed: varied(small, seed, args.seconds, False),
        "mutations_uniform_100_200": lambda seed: varied(uniform, seed, args.seconds, False),
        "crossovers": lambda seed: varied(small, seed, args.seconds, True),
    }
    cells, seeds = Cells(args.out), [args.seed + i for i in range(args.seeds)]
    per_second: dict[str, object] = {}
    for name, measure in rates.items():
        values = [float(str(cells.get(f"{name} {s}", lambda s=s, m=measure: m(s)))) for s in seeds]  # type: ignore[misc]
        per_second[name] = {"mean": statistics.fmean(values), "ci": interval(values)}
        print(name, per_second[name], flush=True)
    times = {
        "parse_1kB": cells.get("parse", lambda: parsing(args.seed)),
        "read_file": cells.get("read", reading),
        "elaborate_200_ops": cells.get("elaborate", lambda: elaborating(args.seed)),
    }
    shares = cells.get("closings", lambda: closings(args.seed, 20_000))
    print(times, shares, flush=True)
    headline = per_second["samples"]
    assert isinstance(headline, dict)
    write_result(
        args.out,
        {
            "claim": "valid einspace networks of expanded size up to 200, input 3x64x64, per CPU second on one thread",
            "value": headline["mean"],
            "unit": "samples/s",
            "ci": headline["ci"],
            "seeds": seeds,
            "baselines": ["Lark LALR and Earley for parsing"],
            "per_second": per_second,
            "milliseconds": times,
            "two_way_joins_closed": shares,
            "load_average": list(os.getloadavg()),
        },
    )


if __name__ == "__main__":
    main()
