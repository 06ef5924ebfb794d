"""Other packages' optimisers on a benchmark's tasks: the same decisions, the same values, every call counted.

Each peer sees the space's flat encoding as categorical variables, at the better of the settings that were tried for it.
They repeat candidates; a repeated one costs an evaluation, as it does for a user of theirs.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable

import numpy as np

from archrank.search.bench.task import Task

__all__ = ["PEERS", "run_peer"]


class _Enough(Exception):
    """The budget is spent."""


class _Objective:
    """Counts calls and keeps values, minimised."""

    def __init__(self, task: Task, trials: int) -> None:
        self._task, self._trials = task, trials
        self.signs = np.array([o.sign for o in task.objectives], dtype=float)
        self.rows: list[np.ndarray] = []
        self.keys: list[str] = []

    def __call__(self, codes: list[int]) -> list[float]:
        if len(self.rows) >= self._trials:
            raise _Enough
        d = self._task.space.decode(codes)
        values = self.signs * np.asarray(self._task.values(d.text), dtype=float)
        self.rows.append(values)
        self.keys.append(d.key)
        return values.tolist()


def _optuna(make: Callable[[int], object]) -> Callable[[Task, int, _Objective], None]:
    def run(task: Task, seed: int, objective: _Objective) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore")
        slots = task.space.encoding()
        choices = [list(range(len(s.choices))) for s in slots]
        study = optuna.create_study(directions=["minimize"] * len(task.objectives), sampler=make(seed))

        def one(trial: optuna.Trial) -> list[float] | float:
            codes = [trial.suggest_categorical(s.name, c) for s, c in zip(slots, choices, strict=True)]
            told = objective(codes)
            return told if len(told) > 1 else told[0]

        study.optimize(one, n_trials=None, catch=())

    return run


def _tpe(seed: int) -> object:
    import optuna

    return optuna.samplers.TPESampler(seed=seed, multivariate=True)


def _nsga2(seed: int) -> object:
    import optuna

    return optuna.samplers.NSGAIISampler(seed=seed, population_size=20)


def _gp(seed: int) -> object:
    import optuna

    return optuna.samplers.GPSampler(seed=seed)


def _pymoo(task: Task, seed: int, objective: _Objective) -> None:
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import ElementwiseProblem
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.operators.mutation.rm import ChoiceRandomMutation
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    sizes = np.array([len(s.choices) for s in task.space.encoding()])

    rng = np.random.default_rng(seed)

    class Mutation(ChoiceRandomMutation):
        """Another value at each place with probability 1 / places."""

        def _do(self, problem: object, x: np.ndarray, *args: object, **kwargs: object) -> np.ndarray:
            change = rng.random(x.shape) < 1 / x.shape[1]
            return np.where(change, (rng.random(x.shape) * sizes).astype(int), x)

    class Problem(ElementwiseProblem):
        """The task's values."""

        def __init__(self) -> None:
            super().__init__(n_var=len(sizes), n_obj=len(task.objectives), xl=0, xu=sizes - 1, vtype=int)

        def _evaluate(self, x: np.ndarray, out: dict[str, object], *args: object, **kwargs: object) -> None:
            out["F"] = objective([int(v) for v in x])

    algorithm = NSGA2(
        pop_size=20, sampling=IntegerRandomSampling(), crossover=UniformCrossover(), mutation=Mutation(),
        eliminate_duplicates=True,
    )  # fmt: skip
    minimize(Problem(), algorithm, ("n_gen", 10_000), seed=seed, verbose=False)


def _smac(task: Task, seed: int, objective: _Objective) -> None:
    import tempfile

    from ConfigSpace import CategoricalHyperparameter, ConfigurationSpace
    from smac import HyperparameterOptimizationFacade, Scenario

    logging.disable(logging.CRITICAL)
    slots = task.space.encoding()
    space = ConfigurationSpace(seed=seed)
    space.add([CategoricalHyperparameter(f"s{i}", list(range(len(s.choices)))) for i, s in enumerate(slots)])
    names = [f"f{j}" for j in range(len(task.objectives))]

    def target(config: object, seed: int = 0) -> object:
        told = objective([int(config[f"s{i}"]) for i in range(len(slots))])  # type: ignore[index]
        return told[0] if len(told) == 1 else dict(zip(names, told, strict=True))

    with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(
            space, objectives=names if len(names) > 1 else "f0", deterministic=True, n_trials=objective._trials,
            seed=seed, output_directory=folder,
        )  # fmt: skip
        more = {}
        if len(names) > 1:
            more["multi_objective_algorithm"] = HyperparameterOptimizationFacade.get_multi_objective_algorithm(scenario)
        HyperparameterOptimizationFacade(scenario, target, overwrite=True, **more).optimize()


PEERS: dict[str, tuple[Callable[[Task, int, _Objective], None], int]] = {
    "optuna TPE multivariate": (_optuna(_tpe), 500),
    "optuna NSGA-II 20": (_optuna(_nsga2), 500),
    "optuna GP": (_optuna(_gp), 100),
    "pymoo NSGA-II 20": (_pymoo, 500),
    "smac": (_smac, 100),
}
"""Each with the evaluations that it is run to: some take seconds a proposal."""


def run_peer(name: str, task: Task, seed: int, trials: int, marks: list[int]) -> dict[str, object]:
    """{"scores": {evaluations: score}, "repeated": share of evaluations that were known}."""
    run, most = PEERS[name]
    objective = _Objective(task, min(trials, most))
    with contextlib.suppress(_Enough):
        run(task, seed, objective)
    rows = np.array(objective.rows)
    done = len(rows)
    scores = {str(n): task.score(rows[:n]) for n in marks if n <= done}
    return {"scores": scores, "repeated": 1 - len(set(objective.keys)) / done, "evaluations": done}
