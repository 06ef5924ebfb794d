"""The files of a run that must survive anything: an append-only log, one lock, whole-file writes."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from archrank.search.trial import Trial, TrialError

__all__ = [
    "SCHEMA",
    "Contents",
    "Damage",
    "LockError",
    "Log",
    "LogError",
    "RunLock",
    "StorageError",
    "read_log",
    "write_atomic",
]

SCHEMA = 1


class StorageError(RuntimeError):
    """Something could not be written; what was finished before is kept."""


class LogError(ValueError):
    """A file that is no log, or one of a later format."""


class LockError(ValueError):
    """Another process works in the run's folder."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A line (from 1) of a log that was left out."""

    line: int
    reason: str

    def __str__(self) -> str:
        """`line 6 of the log is left out: …`."""
        return f"line {self.line} of the log is left out: {self.reason}"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a log holds: its header, the trials and the other events in file order, and the lines that could
    not be read.
    """

    header: dict[str, Any]
    trials: tuple[Trial, ...]
    events: tuple[dict[str, Any], ...]
    damage: tuple[Damage, ...]


@dataclass(slots=True)
class _Reading:
    trials: list[Trial] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)
    lines: dict[int, int] = field(default_factory=dict)  # trial id -> line

    def take(self, number: int, line: bytes) -> None:
        try:
            record = _parse(line)
            schema = record.get("schema", SCHEMA)
            if schema != SCHEMA:
                raise TrialError(f"schema {schema!r:.20}; this program reads schema {SCHEMA}")
            if "event" in record:
                self.events.append(record)
                return
            trial = Trial.from_json(record)
            if trial.id in self.lines:
                raise TrialError(f"trial {trial.id} stands in line {self.lines[trial.id]} already")
        except (ValueError, RecursionError) as error:
            self.damage.append(Damage(number, str(error)))
            return
        self.lines[trial.id] = number
        self.trials.append(trial)


def _constant(name: str) -> NoReturn:
    raise TrialError(f"{name} is no JSON number")


def _parse(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8"), parse_constant=_constant)
    except UnicodeDecodeError:
        raise TrialError("not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise TrialError(f"not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(record, dict):
        raise TrialError("not a JSON object")
    return record


def read_log(path: str | os.PathLike[str]) -> Contents:
    """The log of a run, read without writing; a torn last line and damaged lines are named and left out.

    Raises LogError where the file cannot be read or has no header of schema 1.
    """
    file = Path(path)
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise LogError(f"{file}: cannot be read: {error.strerror or error}") from None
    header = _header(file, lines[0])
    reading = _Reading()
    for number, line in enumerate(lines[1:], 2):
        if line.strip():
            reading.take(number, line)
    return Contents(header, tuple(reading.trials), tuple(reading.events), tuple(reading.damage))


def _header(file: Path, line: bytes) -> dict[str, Any]:
    try:
        header = _parse(line)
    except (ValueError, RecursionError) as error:
        raise LogError(
            f'{file}:1: no header of a log ({error}); the first line must be {{"schema": {SCHEMA}, …}}'
        ) from None
    schema = header.get("schema")
    if schema != SCHEMA:
        newer = "; a newer archrank wrote it: update this one" if isinstance(schema, int) and schema > SCHEMA else ""
        raise LogError(f"{file}:1: the log has schema {schema!r:.20}, this program reads schema {SCHEMA}{newer}")
    return header


class Log:
    """An open log. Each append is one line, written whole, flushed and fsynced before it returns; `open`
    creates it or goes on.
    """

    def __init__(self, path: Path, contents: Contents, descriptor: int, torn: bool) -> None:
        self.path, self.header, self.damage = path, contents.header, list(contents.damage)
        self.trials, self.events = list(contents.trials), list(contents.events)
        self._descriptor: int | None = descriptor
        self._torn = torn
        self._group = 0
        self._unsynced = False

    @classmethod
    def open(cls, path: str | os.PathLike[str], header: Mapping[str, object] | None = None) -> Log:
        """The log at `path`; a new one starts with `{"schema": 1, **header}`. An existing header is kept as
        it is.
        """
        file = Path(path)
        if not file.exists() or file.stat().st_size == 0:
            line = _line({"schema": SCHEMA, **(header or {})})
            write_atomic(file, line)
        contents = read_log(file)
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError(f"{file}: cannot be opened for writing: {error.strerror or error}") from None
        size = os.fstat(descriptor).st_size
        torn = os.pread(descriptor, 1, size - 1) != b"\n"
        return cls(file, contents, descriptor, torn)

    def append(self, trial: Trial) -> None:
        """Writes a trial. StorageError where the disk is full; the log then ends as it did before."""
        self._write(trial.to_json())
        self.trials.append(trial)

    def event(self, record: Mapping[str, object]) -> None:
        """Writes another record; it has a key `event`."""
        if "event" not in record:
            raise ValueError(f"an event needs a key 'event', not only {', '.join(record)}")
        self._write(record)
        self.events.append(dict(record))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Lines of what ended together are synced together, when the block ends: a disk syncs some hundred times a
        second, and many workers end more evaluations than that. A kill still costs none of them, for each is written
        at once; a loss of power may cost those of the block.
        """
        self._group += 1
        try:
            yield
        finally:
            self._group -= 1
            if self._unsynced and not self._group and self._descriptor is not None:
                self._unsynced = False
                try:
                    os.fsync(self._descriptor)
                except OSError as error:
                    raise self._refused(error) from error

    def close(self) -> None:
        """Nothing can be appended afterwards; closing twice is fine."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> Log:
        """The log itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes."""
        self.close()

    def _write(self, record: Mapping[str, object]) -> None:
        if self._descriptor is None:
            raise StorageError(f"{self.path}: the log is closed")
        data = (b"\n" if self._torn else b"") + _line(record)  # a torn tail stays a line of its own
        size, torn = os.fstat(self._descriptor).st_size, self._torn
        self._torn = True  # until the line is whole, whatever interrupts it
        try:
            _write_all(self._descriptor, data)
            if self._group:
                self._unsynced = True
            else:
                os.fsync(self._descriptor)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._descriptor, size)
                self._torn = torn
            raise self._refused(error) from error
        self._torn = False

    def _refused(self, error: OSError) -> StorageError:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "no space left" if full else error.strerror or str(error)
        todo = "free some space" if full else "mend that"
        kept = f"{len(self.trials)} trials are kept"
        return StorageError(
            f"{self.path}: {what}; {kept}, the last one was not written. "
            f"To go on: {todo}, then search resume {self.path.parent}"
        )


def _line(record: Mapping[str, object]) -> bytes:
    return (
        json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(", ", ": ")).encode(
            "utf-8", "backslashreplace"
        )
        + b"\n"
    )


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def write_atomic(path: str | os.PathLike[str], data: bytes | Callable[[Path], object]) -> None:
    """A file that is there whole or not at all: written beside, fsynced, renamed, the folder fsynced.

    data: the bytes, or a function that writes the file whose path it is given. StorageError where the disk
    refuses.
    """
    file = Path(path)
    beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, bytes):
            beside.write_bytes(data)
        else:
            data(beside)
        _sync(beside)
        beside.replace(file)
        _sync(file.parent)
    except OSError as error:
        raise StorageError(
            f"{file}: cannot be written: {error.strerror or error}; what was there before is kept"
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class RunLock:
    """`with RunLock(folder):` – one process at a time; the system lets go of it when the process ends,
    however it ends.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._descriptor: int | None = None

    def __enter__(self) -> RunLock:
        """LockError names the process that holds it."""
        import fcntl

        file = self.folder / "lock"
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(f"{file}: cannot be opened: {error.strerror or error}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
            os.close(descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise StorageError(
                    f"{file}: this file system cannot lock: {error.strerror}; choose a local folder"
                ) from None
            raise LockError(
                f"{self.folder}: {holder or 'another process'} is at work there; wait for it or end it"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Lets go; the file stays."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None
