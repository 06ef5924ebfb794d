"""What can be wrong with a cluster, told by its text."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from archrank.search.cli import main
from archrank.search.config import ConfigError, RunConfig
from archrank.search.ray import cluster
from archrank.search.ray.cluster import Cluster, ClusterError, check_address, refused, require_ray, workers_that_fit

pytest.importorskip("ray")


@pytest.fixture
def listener() -> Iterator[str]:
    """Something that listens and never answers."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        yield f"127.0.0.1:{s.getsockname()[1]}"


def told(address: str) -> str:
    with pytest.raises(ClusterError) as error:
        check_address(address)
    return str(error.value)


def test_no_ray(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    with pytest.raises(ClusterError) as error:
        require_ray("--ray auto")
    assert str(error.value) == "--ray auto needs Ray, which is not installed here: pip install 'archrank[ray]'"
    assert main(["run", "lora_ranks", "--ray", "auto"]) == 2
    assert "pip install 'archrank[ray]'" in capsys.readouterr().err


def test_an_address_that_does_not_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "lora_ranks", "--ray", "127.0.0.1:9", "--out", str(tmp_path / "r")]) == 2
    message = capsys.readouterr().err
    assert "--ray 127.0.0.1:9: nothing answers there (Connection refused)" in message
    assert "ray start --head --port=9" in message
    assert not (tmp_path / "r").exists()


def test_an_address_that_only_listens(listener: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "HEALTH_SECONDS", 1.0)
    assert told(listener).startswith(f"--ray {listener}: something listens there, but no Ray head answers within 1 s")


@pytest.mark.parametrize("address", ["here", ":6379", "10.0.0.1:port"])
def test_an_address_that_is_none(address: str) -> None:
    assert told(address) == f"--ray {address}: write auto, or HOST:PORT of the cluster's head, as in 10.0.0.1:6379"


def test_a_client_address() -> None:
    assert "--ray ray://10.0.0.1:10001: Ray Client addresses are not used here" in told("ray://10.0.0.1:10001")


def test_auto_takes_ray_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    assert told("auto").startswith("--ray auto (RAY_ADDRESS is 127.0.0.1:9): nothing answers there")


def test_auto_passes_over_a_cluster_that_has_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert check_address("auto") is None
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:9")
    assert check_address("auto") is None


def test_another_version_of_ray_or_python() -> None:
    text = "Version mismatch: The cluster was started with:\n    Ray: 2.40.0\n    Python: 3.12.1\nThis process was not"
    message = str(refused("--ray 10.0.0.1:6379", text))
    assert message.startswith("--ray 10.0.0.1:6379: runs other versions than this process (Ray ")
    assert "Ray: 2.40.0; Python: 3.12.1" in message
    assert message.endswith("install the same versions everywhere")


def test_another_reason_is_told_in_rays_words() -> None:
    text = "Traceback …\n  File x\nRuntimeError: The node is shutting down.\n"
    assert str(refused("--ray 10.0.0.1:6379", text)) == (
        "--ray 10.0.0.1:6379: Ray does not let this process in: RuntimeError: The node is shutting down."
    )
    assert str(refused("--ray auto", "")) == "--ray auto: Ray does not let this process in: no reason given"


@pytest.mark.parametrize(
    ("token", "part"), [("", "asks for a token and there is none here"), ("another", "refuses the token")]
)
def test_a_token(token: str, part: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    message = str(refused("--ray 10.0.0.1:6379", "InvalidAuthToken: Authentication token is missing or incorrect"))
    assert part in message
    assert "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token" in message


@pytest.mark.ray
def test_a_missing_token_on_a_real_cluster(nodes: Any, tmp_path: Path) -> None:
    program = "import sys; from archrank.search.cli import main; sys.exit(main())"
    call = [sys.executable, "-c", program, "run", "lora_ranks", "--ray", nodes.address, "--out", str(tmp_path / "r")]
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    env |= {"RAY_AUTH_MODE": "token", "HOME": str(tmp_path)}
    done = subprocess.run(call, check=False, capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 2
    assert f"--ray {nodes.address}: asks for a token and there is none here" in done.stderr
    assert "Traceback" not in done.stderr


def test_more_workers_than_cpus() -> None:
    two = Cluster("10.0.0.1:6379", False, 2.0, 0.0)
    with pytest.raises(ClusterError) as error:
        workers_that_fit(two, 64, 1.0, 0.0)
    assert str(error.value).startswith(
        "--workers 64: the cluster at 10.0.0.1:6379 has 2 CPUs and each worker takes 1 CPU, so at most 2 fit"
    )
    assert "--worker-cpus 0.5" in str(error.value)
    assert workers_that_fit(two, 4, 0.5, 0.0) == workers_that_fit(two, None, 0.5, 0.0) == 4


def test_gpus_are_shared_by_fractions() -> None:
    four = Cluster("local", True, 16.0, 4.0)
    assert workers_that_fit(four, None, 1.0, 0.5) == 8
    with pytest.raises(ClusterError, match="this machine has 16 CPUs and 4 GPUs and each worker takes 1 CPU and 1 GPU"):
        workers_that_fit(four, 5, 1.0, 1.0)


@pytest.mark.parametrize("flag", [{"workers": 4}, {"asynchronous": True}, {"worker_gpus": 0.5}])
def test_flags_of_a_cluster_alone(flag: dict[str, Any]) -> None:
    name = next(iter(flag)).replace("_", "-")
    with pytest.raises(ConfigError, match=f"--{name} is for runs on a cluster: add --ray auto, or leave it out"):
        RunConfig(**flag)


@pytest.mark.parametrize(
    ("flag", "message"), [({"worker_cpus": 0.0}, "must be above 0"), ({"workers": 0}, "at least 1")]
)
def test_numbers_out_of_range(flag: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig(**flag, ray="auto")
