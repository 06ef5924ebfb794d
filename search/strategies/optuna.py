"""Any sampler of Optuna (optuna:TPESampler, optuna:NSGAIISampler, …) on the space's flat encoding.

Optuna's samplers model only what every trial decided, so a grammar's choices are shown to them as one fixed
list of slots, each always set; a slot that the sentence does not reach is ignored. Optuna asks for known
candidates again and again: such a proposal is mutated until it is new.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from archrank.grammar import nearest
from archrank.search.objective import Objective
from archrank.search.strategies.base import Factory, Fresh, Past, StrategyError, Taken, generator, violation
from archrank.search.trial import Trial

if TYPE_CHECKING:
    from archrank.grammar import Derivation, Space

__all__ = ["Optuna", "sampler", "samplers"]

POPULATION = 20
_JOINT = ("GPSampler", "NSGAIIISampler", "NSGAIISampler", "TPESampler")  # model all slots together


def samplers() -> list[str]:
    """The names of Optuna's samplers that need no argument."""
    import optuna

    classes = {name: getattr(optuna.samplers, name) for name in sorted(optuna.samplers.__all__)}
    return [
        name
        for name, cls in classes.items()
        if inspect.isclass(cls) and not inspect.isabstract(cls) and not _needed(cls)
    ]


def _needed(cls: type) -> list[str]:
    parameters = inspect.signature(cls).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]


def sampler(name: str) -> Factory:
    """The strategy of one sampler; StrategyError lists them."""
    names = samplers()
    if name not in names:
        near = nearest(name, names)
        hint = f"did you mean optuna:{near[0]}? " if near else ""
        raise StrategyError(f"no sampler optuna:{name}; {hint}There are: {', '.join(names)}")
    return partial(Optuna, name)


class Optuna:
    """A fold: finished trials are added to an Optuna study in memory, and each proposal comes from a new
    sampler seeded with (seed, trials seen).

    Infeasible trials with every objective are added with their violation as a constraint, failed ones not at
    all.
    """

    def __init__(self, name: str, space: Space, objectives: Sequence[Objective], seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._name, self._space, self._seed = name, space, seed
        self._fresh, self._past = Fresh(space), Past(objectives)
        try:
            slots = space.encoding()
        except ValueError as error:
            raise StrategyError(f"optuna:{name} needs a flat encoding: {error}") from None
        self._slots = [slot.name for slot in slots]
        self._space_of = {s.name: optuna.distributions.CategoricalDistribution(range(len(s.choices))) for s in slots}
        self._added: list[Trial] = []
        self._count = 0  # trials in the study
        self._study = self._new_study()

    def ask(self, history: Sequence[Trial], n: int) -> list[Derivation]:
        """At most `n` new candidates."""
        self._past.update(history)
        self._fold(self._past.measured, self._past.values())
        taken = Taken(self._past.keys)
        found: list[Derivation] = []
        for j in range(n):
            rng = generator(self._seed, len(history) + j)
            last = self._sampled(int(rng.integers(2**31)))
            candidate: Derivation | None = last
            if last.key in taken:
                candidate = self._fresh.find(rng, taken, _walk(self._space, last, rng))
            if candidate is None:
                break
            taken.add(candidate.key)
            found.append(candidate)
        return found

    def _new_study(self) -> Any:
        import optuna

        directions = ["minimize"] * len(self._past.objectives)
        self._storage = optuna.storages.InMemoryStorage()
        return optuna.create_study(
            storage=self._storage, directions=directions, sampler=optuna.samplers.RandomSampler(seed=0)
        )

    def _fold(self, measured: list[Trial], values: NDArray[np.float64]) -> None:
        k = len(self._added)
        if measured[:k] != self._added:
            self._study, self._added, self._count, k = self._new_study(), [], 0, 0
        for trial, row in zip(measured[k:], values[k:], strict=True):
            self._added.append(trial)
            self._add(trial, row)

    def _add(self, trial: Trial, row: NDArray[np.float64]) -> None:
        import optuna

        broken = violation(trial)
        if not (np.isfinite(row).all() and np.isfinite(broken)):
            return
        try:
            codes = self._space.encode(self._space.parse(trial.text))
        except ValueError:  # told from outside, not of this space
            return
        # the names under which Optuna keeps the generation of its genetic samplers and the constraints
        attributes = {f"{self._name}:generation": self._count // POPULATION, "constraints": [broken]}
        self._study.add_trial(
            optuna.trial.create_trial(
                values=row.tolist(),
                params=dict(zip(self._slots, codes, strict=True)),
                distributions=self._space_of,
                system_attrs=attributes,
            )
        )
        self._count += 1
        if self._count % POPULATION == 0:
            self._choose_parents(self._count // POPULATION)

    def _choose_parents(self, generation: int) -> None:
        """Genetic samplers choose a generation's parents at its first proposal; here at its first trial, a
        function of the history.
        """
        chooser = self._sampler(int(generator(self._seed, self._count).integers(2**31)))
        if hasattr(chooser, "get_parent_population"):
            import optuna

            # a study object keeps the trials it saw first, also when more are added: a new one sees them all
            study = optuna.load_study(study_name=self._study.study_name, storage=self._storage)
            chooser.get_parent_population(study, generation)

    def _sampled(self, seed: int) -> Derivation:
        """One proposal; the trial that asked for it is told as failed, which samplers overlook."""
        import optuna

        self._study.sampler = self._sampler(seed)
        with _quiet():
            trial = self._study.ask(self._space_of)
        self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return self._space.decode([int(trial.params[name]) for name in self._slots])

    def _sampler(self, seed: int) -> Any:
        import optuna

        cls = getattr(optuna.samplers, self._name)
        wanted = {"seed": seed, "multivariate": True, "population_size": POPULATION}
        if self._name != "TPESampler":  # deprecated there
            wanted["warn_independent_sampling"] = False
        known = inspect.signature(cls).parameters
        try:
            with _quiet():
                made = cls(**{k: v for k, v in wanted.items() if k in known})
        except ImportError as error:
            raise StrategyError(f"optuna:{self._name} needs another package: {error}") from None
        if self._name in _JOINT:
            made.infer_relative_search_space = self._joint_space
        return made

    def _joint_space(self, study: object, trial: object) -> dict[str, Any]:
        """What these samplers would infer by comparing the slots of all trials, 90 ms at 500 trials: here all
        trials have all slots.
        """
        return {n: d for n, d in self._space_of.items() if not d.single()} if self._count else {}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's remarks on experimental and deprecated parts."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _walk(space: Space, start: Derivation, rng: np.random.Generator) -> Any:
    """A random walk of mutations from `start`, a step a call."""
    at = [start]

    def step() -> Derivation:
        at[0] = space.mutate(at[0], rng)
        return at[0]

    return step
