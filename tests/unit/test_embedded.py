"""The embedded Redis: a real server of our own, and gone with us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from coordinator.embedded import EmbeddedRedis, find_server
from coordinator.errors import ConfigurationError
from tests.waiting import wait_until

HOLDS_ONE = """
import sys
from coordinator.embedded import EmbeddedRedis
with EmbeddedRedis() as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


def test_it_answers_on_a_private_socket_and_ends() -> None:
    """Inside the block it answers, only for this user; afterwards its folder is gone."""
    with EmbeddedRedis() as server:
        path = Path(server.url.removeprefix("unix://"))
        client = redis.Redis(unix_socket_path=str(path), protocol=2)
        assert client.ping()
        assert "0" in str(client.config_get("port"))
        assert path.stat().st_mode & 0o077 == 0
        client.close()
    assert not path.exists()


def test_it_dies_with_its_parent() -> None:
    """A parent that is killed with SIGKILL leaves no server behind."""
    parent = subprocess.Popen(
        [sys.executable, "-c", HOLDS_ONE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    path = parent.stdout.readline().strip().removeprefix("unix://")
    client = redis.Redis(unix_socket_path=path, protocol=2)
    assert client.ping()
    server = client.info("server")["process_id"]
    client.close()
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()

    def gone() -> bool:
        try:
            return Path(f"/proc/{server}/stat").read_text().split()[2] == "Z"
        except FileNotFoundError:
            return True

    wait_until(gone, description="the server is gone")


def test_without_any_server_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No redis-server anywhere: one clear error with the ways out."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"^no Redis to start: put redis-server 6\.2 or newer.* --redis-url"):
        find_server()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#!/bin/sh\necho Redis server v=6.0.16 sha=00000000:0 malloc=libc bits=64 build=0\n", " is Redis 6.0.16"),
        ("#!/nowhere/sh\n", ": No such file or directory"),
        ("#!/bin/sh\nexit 127\n", ": exit status 127"),
    ],
)
def test_a_server_that_does_not_fit_is_passed_over(
    text: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A redis-server that is too old or cannot be run does not stand before one that fits; alone, it is named."""
    old = tmp_path / "redis-server"
    old.write_text(text)
    new = tmp_path / "valkey-server"
    new.write_text("#!/bin/sh\necho Valkey server v=8.1.1 sha=00000000:0 malloc=libc bits=64 build=0\n")
    for program in (old, new):
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    assert find_server() == str(new)
    new.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=f"{old}{said}"):
        find_server()


def test_valkey_will_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A valkey-server on the PATH is found where there is no redis-server."""
    (tmp_path / "valkey-server").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == str(tmp_path / "valkey-server")
