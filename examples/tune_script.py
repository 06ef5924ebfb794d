"""A Ray Tune script of your own whose search is archrank's: `python examples/tune_script.py --out tune/`.

Run it again with the same --out after an interruption: it is restored, and nothing is trained twice.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import ray
from ray import tune

from archrank import grammar
from archrank.search.ray import Searcher

SPACE = r"""
start: layer layer layer
layer: "dense" "(" WIDTH ")" -> dense
     | "skip"                -> skip
WIDTH: "8" | "16" | "32" | "64"
%ignore /\s+/
"""


def train(config: dict[str, str]) -> None:
    """Stands for a training: `config["text"]` is the sentence of the candidate."""
    widths = [int(width) for width in re.findall(r"\d+", config["text"])]
    tune.report({"error": 1 / (1 + sum(w**0.5 for w in widths)), "weights": float(sum(w * w for w in widths))})


def main() -> None:
    """Searches, or goes on where it was."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=12)
    args = parser.parse_args()
    path = str((args.out / "layers").resolve())
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    searcher = Searcher(grammar.loads(SPACE), objectives=["error:min", "weights:min"], strategy="nsga2", seed=0)
    if tune.Tuner.can_restore(path):
        tuner = tune.Tuner.restore(path, trainable=train, resume_errored=True)
    else:
        tuner = tune.Tuner(
            train,
            tune_config=tune.TuneConfig(
                search_alg=searcher, num_samples=args.samples, max_concurrent_trials=2, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name="layers",
                storage_path=str(args.out.resolve()),
                failure_config=tune.FailureConfig(max_failures=2),
                verbose=0,
            ),
        )
    results = tuner.fit()
    print(f"{len(results)} candidates")
    for result in sorted(results, key=lambda r: r.metrics["error"]):
        print(f"{result.metrics['error']:.3f}  {result.metrics['weights']:6.0f}  {result.config['text']}")


if __name__ == "__main__":
    main()
