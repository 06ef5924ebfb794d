"""Long-lived workers, and what becomes of an item when one of them dies, hangs or runs out of memory.

An item that was answered is never asked again. One whose worker was lost is asked again by itself on another worker,
so that its neighbours are not blamed, and fails after `TRIES`; each lost worker is replaced.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnschedulableError, GetTimeoutError, NodeDiedError, ObjectLostError, RayActorError

from archrank.search.errors import RunError
from archrank.search.ray.cluster import ClusterError
from archrank.search.ray.worker import Answer, EvaluationWorker, versions

__all__ = ["Outcome", "Pool", "check_versions"]

TRIES = 3
"""Workers that an item may lose, or times that it may run out of memory, before it counts as failed."""
AHEAD = 2
"""Batches at a worker: one in progress and one waiting, so that it need not wait for the next."""
BATCH_SECONDS = 0.05
"""A batch is made about this long: short items share a message, long ones go alone."""
BATCH_ITEMS = 32
LEAST_SECONDS, SLOWER = 60.0, 20.0
"""Where no limit is given, an item hangs after a minute or 20 times the slowest answer, whichever is longer."""
START_SECONDS = 300.0
"""Without a single worker that answers, the run ends after this long."""
FALSE_STARTS = 3
"""Workers in a row that may die before they answer."""
LOST = (RayActorError, NodeDiedError, ObjectLostError)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an item."""

    key: Hashable
    item: Any
    answer: Answer


@dataclass(slots=True)
class _Question:
    key: Hashable
    item: Any
    lost: int = 0  # workers, while it was alone with them
    alone: bool = False


@dataclass(slots=True)
class _Worker:
    actor: ActorHandle
    hello: Any
    node: str = ""
    batches: deque[tuple[Any, list[_Question]]] = field(default_factory=deque)
    since: float = 0.0  # when its first batch came to be the first

    @property
    def ready(self) -> bool:
        return bool(self.node)


class Pool:
    """`size` workers that answer items: `submit`, then `collect` until `pending` is 0.

    make, parts: `make(*parts)` is called once on each worker and gives the function that is asked; parts that are
    ray.ObjectRefs are fetched once a node. cpus, gpus: of each worker, fractions allowed. limit: seconds that an item
    may take (None: a rule by the slowest so far). note: is told of what went wrong. idle: is called about twice a
    second while nothing comes, and may raise.
    """

    def __init__(
        self,
        make: Callable[..., Callable[[Any], Any]],
        parts: Sequence[Any],
        size: int,
        *,
        cpus: float = 1.0,
        gpus: float = 0.0,
        limit: float | None = None,
        note: Callable[[str], None] = lambda text: None,
        idle: Callable[[], None] = lambda: None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._make, self._parts, self._size = make, tuple(parts), size
        # spread: a node that dies then takes few of them along
        options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "scheduling_strategy": "SPREAD"}
        if environment:
            options["runtime_env"] = {"env_vars": dict(environment)}
        self._class = ray.remote(EvaluationWorker).options(**options)
        self._limit, self._note, self._idle = limit, note, idle
        self._queue: deque[_Question] = deque()
        self._slowest = self._mean = 0.0
        self._false_starts = 0
        self._workers = [self._started() for _ in range(size)]
        self._alone_since = time.monotonic()
        self.lost = 0

    # -- what a caller sees -----------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Workers wanted."""
        return self._size

    @property
    def pending(self) -> int:
        """Items submitted and not collected."""
        return len(self._queue) + sum(len(b) for w in self._workers for _, b in w.batches)

    def submit(self, key: Hashable, item: Any) -> None:
        """Asks for an item; its outcome will carry the key."""
        self._queue.append(_Question(key, item))

    def collect(self) -> list[Outcome]:
        """The next outcomes, at least one where anything is pending; in no order."""
        while self.pending:
            self._fill()
            found = self._arrived()
            self._fill()
            if found:
                return found
        return []

    def close(self) -> None:
        """Ends the workers."""
        for worker in self._workers:
            ray.kill(worker.actor, no_restart=True)
        self._workers = []

    def __enter__(self) -> Pool:
        """The pool itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes."""
        self.close()

    # -- handing out ------------------------------------------------------------------------------------------------

    def _started(self) -> _Worker:
        actor = self._class.remote(self._make, *self._parts)
        return _Worker(actor, actor.hello.remote())

    def _fill(self) -> None:
        """Gives every worker its batches, those with the fewest first."""
        while self._queue:
            free = [w for w in self._workers if w.ready and len(w.batches) < AHEAD]
            if not free:
                return
            worker = min(free, key=lambda w: len(w.batches))
            batch = self._batch()
            if not worker.batches:
                worker.since = time.monotonic()
            worker.batches.append((worker.actor.answer.remote([q.item for q in batch]), batch))

    def _batch(self) -> list[_Question]:
        """The head of the queue; one that lost a worker goes alone."""
        share = -(-len(self._queue) // (AHEAD * self._size))
        fits = int(BATCH_SECONDS / self._mean) if self._mean else 1
        most = max(1, min(share, fits, BATCH_ITEMS))
        batch = [self._queue.popleft()]
        while self._queue and len(batch) < most and not batch[0].alone and not self._queue[0].alone:
            batch.append(self._queue.popleft())
        return batch

    # -- taking in --------------------------------------------------------------------------------------------------

    def _arrived(self) -> list[Outcome]:
        waited = [w.hello for w in self._workers if not w.ready]
        waited += [w.batches[0][0] for w in self._workers if w.batches]
        done, _ = ray.wait(waited, num_returns=1, timeout=0.5)
        if not done:
            self._idle()
        found: list[Outcome] = []
        for worker in list(self._workers):
            if not worker.ready:
                self._greet(worker)
            found += self._answers(worker)
        self._check_alone()
        return found

    def _greet(self, worker: _Worker) -> None:
        try:
            told = ray.get(worker.hello, timeout=0)
        except GetTimeoutError:
            return
        except ActorUnschedulableError as error:
            raise ClusterError(f"no node can take a worker: {error}") from None
        except LOST as error:
            self._false_start(worker, str(error))
            return
        self._false_starts = 0
        worker.node = check_versions(told)

    def _false_start(self, worker: _Worker, told: str) -> None:
        """A worker that died before it answered; the reason is the worker's own error where it has one."""
        self._false_starts += 1
        if "ModuleNotFoundError" in told or self._false_starts >= FALSE_STARTS:
            raise ClusterError(f"a worker cannot start: {_cause(told)}")
        self._workers[self._workers.index(worker)] = self._started()

    def _answers(self, worker: _Worker) -> list[Outcome]:
        found: list[Outcome] = []
        while worker.batches:
            answer, batch = worker.batches[0]
            try:
                told = ray.get(answer, timeout=0)
            except GetTimeoutError:
                if time.monotonic() - worker.since > self._patience(len(batch)):
                    found += self._give_up(worker, f"no answer within {self._patience(1):.0f} s")
                return found
            except LOST as error:
                return found + self._give_up(worker, _cause(str(error)))
            worker.batches.popleft()
            worker.since = time.monotonic()
            found += [o for q, a in zip(batch, told, strict=True) for o in self._one(q, a)]
        return found

    def _one(self, question: _Question, answer: Answer) -> list[Outcome]:
        if answer.again and question.lost + 1 < TRIES:
            question.lost, question.alone = question.lost + 1, True
            self._queue.appendleft(question)
            return []
        if answer.reason is None:
            self._slowest = max(self._slowest, answer.seconds)
            self._mean = answer.seconds if not self._mean else 0.9 * self._mean + 0.1 * answer.seconds
        return [Outcome(question.key, question.item, answer)]

    def _patience(self, items: int) -> float:
        return items * (self._limit or max(LEAST_SECONDS, SLOWER * self._slowest))

    def _give_up(self, worker: _Worker, reason: str) -> list[Outcome]:
        """Replaces a worker; its items go back to the queue, those of its first batch with one more loss."""
        self.lost += 1
        ray.kill(worker.actor, no_restart=True)
        first, *others = [batch for _, batch in worker.batches]
        failed = []
        for question in first:
            question.alone = True
            question.lost += len(first) == 1  # which of several it was is not known
            if question.lost >= TRIES:
                text = f"{reason}; {TRIES} workers were lost to it"
                failed.append(Outcome(question.key, question.item, Answer(None, 0.0, text)))
        back = [q for q in first if q.lost < TRIES] + [q for batch in others for q in batch]
        self._queue.extendleft(reversed(back))
        self._note(f"a worker on {worker.node} was lost ({reason}); its {len(back)} evaluations go to others")
        self._workers[self._workers.index(worker)] = self._started()
        return failed

    def _check_alone(self) -> None:
        if any(w.ready for w in self._workers):
            self._alone_since = time.monotonic()
        elif time.monotonic() - self._alone_since > START_SECONDS:
            raise RunError(
                f"no worker has answered for {START_SECONDS:.0f} s: `ray status` shows what the cluster has and what "
                "is asked of it; every finished evaluation is kept"
            )


def check_versions(told: Mapping[str, str]) -> str:
    """The node of a worker's hello; ClusterError where it runs other versions than this process."""
    ours = versions()
    other = [f"{name} {told.get(name, 'none')} (here {ours[name]})" for name in ours if told.get(name) != ours[name]]
    if other:
        raise ClusterError(
            f"the worker on {told['node']} runs {', '.join(other)}; install the same versions on every node"
        )
    return told["node"]


def _cause(told: str) -> str:
    """The line of Ray's report that says what happened."""
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    if any("ModuleNotFoundError" in line for line in lines):
        line = next(line for line in lines if "ModuleNotFoundError" in line)
        missing = line[line.index("ModuleNotFoundError") :]
        return f"{missing}; install the same archrank, with its requirements, on every node"
    if "memory" in told and ("OOM" in told or "out of memory" in told.lower() or "OutOfMemory" in told):
        return "out of memory: the node's memory monitor or the kernel ended it"
    errors = [line for line in lines if line.split(":")[0].endswith("Error")]
    return (errors[-1] if errors else lines[0] if lines else "no reason given")[:300]
