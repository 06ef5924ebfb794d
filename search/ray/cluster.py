"""Joining a Ray cluster, or starting one that ends with the run; what can be wrong with it is told before anything is
trained.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

__all__ = ["Cluster", "ClusterError", "check_address", "joined", "require_ray", "workers_that_fit"]

INSTALL = "pip install 'archrank[ray]'"
ANSWER_SECONDS = 5.0  # for a TCP connection
HEALTH_SECONDS = 20.0  # for Ray's own answer behind it
TOKEN = (
    "give this process the cluster's token: RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token as on the head "
    "(`ray get-auth-token` shows it there)"
)


class ClusterError(ValueError):
    """A cluster that cannot be used as asked."""


@dataclass(frozen=True)
class Cluster:
    """What was joined. own: started for this run, and ended with it; cpus, gpus: of all its nodes."""

    address: str
    own: bool
    cpus: float
    gpus: float

    @property
    def where(self) -> str:
        """In words."""
        return "this machine" if self.own else f"the cluster at {self.address}"


def require_ray(what: str) -> None:
    """ClusterError with the command that installs Ray, where there is none; imports nothing."""
    if find_spec("ray") is None or find_spec("ray.tune") is None:
        raise ClusterError(f"{what} needs Ray, which is not installed here: {INSTALL}")


def check_address(given: str) -> str | None:
    """The address behind `--ray`, asked for an answer; None where a cluster is to be started.

    `auto`: $RAY_ADDRESS, else what `ray start` left on this machine, else None. A cluster that another program started
    for itself is left alone: it ends with that program. ClusterError names the address and what is wrong with it.
    """
    require_ray(f"--ray {given}")
    named = os.environ.get("RAY_ADDRESS", "")
    address = given if given != "auto" else named or _started_here()
    if address in (None, "local"):
        return None
    said = (
        f"--ray {given}" if given == address else f"--ray {given} ({'RAY_ADDRESS is' if named else 'found'} {address})"
    )
    host, port = _parts(said, address)
    try:
        socket.create_connection((host, port), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        if given == "auto" and not named:
            return None  # a cluster that has ended
        raise ClusterError(
            f"{said}: nothing answers there ({error.strerror or error}); start a head with `ray start --head "
            f"--port={port}`, or use --ray auto"
        ) from None
    _healthy(said, address)
    return address


def _started_here() -> str | None:
    """The address that `ray start` writes down on a machine."""
    file = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    try:
        return file.read_text().strip() or None
    except OSError:
        return None


def _parts(said: str, address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if "://" in address:
        raise ClusterError(
            f"{said}: Ray Client addresses are not used here; run on a node of the cluster with HOST:PORT of its head "
            "(6379 unless it was started with another --port)"
        )
    if not colon or not host or not port.isdigit():
        raise ClusterError(f"{said}: write auto, or HOST:PORT of the cluster's head, as in 10.0.0.1:6379")
    return host.strip("[]"), int(port)


def _healthy(said: str, address: str) -> None:
    """Asks in a process of its own: Ray's client ends the process that it runs in where it is not let in."""
    call = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        done = subprocess.run(call, capture_output=True, text=True, timeout=HEALTH_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ClusterError(
            f"{said}: something listens there, but no Ray head answers within {HEALTH_SECONDS:.0f} s; look for the "
            "address with `ray status` on the head"
        ) from None
    if done.returncode:
        raise refused(said, done.stdout + done.stderr)


def refused(said: str, told: str) -> ClusterError:
    """What Ray's own words mean for the user."""
    import ray

    if "version" in told.lower() and "mismatch" in told.lower():
        lines = [line.strip() for line in told.splitlines() if "ray" in line.lower() or "python" in line.lower()]
        seen = "; ".join(dict.fromkeys(lines))
        return ClusterError(
            f"{said}: runs other versions than this process (Ray {ray.__version__}, Python "
            f"{sys.version.split()[0]}): {seen:.300}; install the same versions everywhere"
        )
    if "token" in told.lower():
        missing = not _has_token()
        return ClusterError(
            f"{said}: {'asks for a token and there is none here' if missing else 'refuses the token'}; {TOKEN}"
        )
    last = [line for line in told.strip().splitlines() if line.strip()][-1:] or ["no reason given"]
    return ClusterError(f"{said}: Ray does not let this process in: {last[0]:.300}")


def _has_token() -> bool:
    """Whether Ray finds a token here, right or wrong."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(named or Path.home() / ".ray" / "auth_token").is_file()


@contextmanager
def joined(given: str, address: str | None) -> Iterator[Cluster]:
    """Connected to the cluster at `address`, or to one started here (None), which is gone when the block ends.

    What Ray prints meanwhile goes to stderr: stdout is for answers.
    """
    import logging

    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    with redirect_stdout(sys.stderr):
        try:
            if address is None:
                ray.init(address="local", include_dashboard=False, **quiet)
            else:
                ray.init(address=address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise refused(f"--ray {given}", str(error)) from None
        try:
            has = ray.cluster_resources()
            yield Cluster(address or "local", address is None, has.get("CPU", 0.0), has.get("GPU", 0.0))
        finally:
            ray.shutdown()


def workers_that_fit(cluster: Cluster, wanted: int | None, cpus: float, gpus: float) -> int:
    """`wanted` workers of so many CPUs and GPUs each, or as many as fit; ClusterError where they do not fit."""
    most = [int(cluster.cpus / cpus + 1e-9)] if cpus else []
    most += [int(cluster.gpus / gpus + 1e-9)] if gpus else []
    fit = min(most) if most else 1
    has = f"{cluster.cpus:g} CPUs" + (f" and {cluster.gpus:g} GPUs" if gpus or cluster.gpus else "")
    each = " and ".join([f"{cpus:g} CPU"] * bool(cpus) + [f"{gpus:g} GPU"] * bool(gpus)) or "nothing"
    if (wanted or 1) > fit:
        raise ClusterError(
            f"--workers {wanted or 1}: {cluster.where} has {has} and each worker takes {each}, so at most {fit} fit; "
            "ask for fewer, add nodes with `ray start --address=…`, or let workers share with --worker-cpus 0.5"
        )
    return wanted or fit
