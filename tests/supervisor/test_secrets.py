"""What a supervised process finds in its environment: what it needs, and none of its supervisor's secrets unless named."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from coordinator.errors import ConfigurationError
from coordinator.store.keys import Keys
from coordinator.supervisor.environment import for_child
from tests.acceptance.processes import Process
from tests.redis_server import RedisServer
from tests.store.harness import Bench
from tests.waiting import wait_until

CANARY = "c4n4ry"
SHOW = "import json, os; print(json.dumps({'what': 'env', **os.environ, 'cmdline': open('/proc/self/cmdline').read()}), flush=True)"
READ = (
    "import json, os, stat\n"
    "path = os.environ['RECOVERY_SESSIONS_FILE']\n"
    "print(json.dumps({'what': 'calls', 'variable': 'RECOVERY_SESSIONS' in os.environ, 'path': path,\n"
    "  'mode': stat.S_IMODE(os.stat(path).st_mode), 'calls': json.load(open(path))}), flush=True)\n"
    "input()\n"
)
Start = Callable[..., Process]


@pytest.fixture
def user(redis_server: RedisServer, redis_client: redis.Redis) -> Iterator[str]:
    """URL of a user whose password is the canary."""
    client: Any = redis_client
    client.execute_command("ACL", "SETUSER", "voice", "on", f">{CANARY}", "~*", "&*", "+@all")
    yield f"unix://voice:{CANARY}@{redis_server.path}"
    client.execute_command("ACL", "DELUSER", "voice")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a supervisor of a Python program."""
    made: list[Process] = []

    def run(program: str, *flags: str, **environment: str) -> Process:
        command = ("coordinator", "supervise", "--name", "sup", *flags, "--", sys.executable, "-c", program)
        made.append(Process(*command, STDERR=str(tmp_path / "log"), COORDINATOR_LOG_FORMAT="json", **environment))
        return made[-1]

    yield run
    for process in made:
        process.close()


def secrets(tmp_path: Path, url: str) -> dict[str, str]:
    """Every way in which a secret is given by the environment."""
    (tmp_path / "file").write_text(CANARY)
    (tmp_path / "more.toml").write_text(f'drain_token = "{CANARY}"')
    return {
        "COORDINATOR_REDIS_URL": url,
        "COORDINATOR_API_TOKEN": CANARY,
        "COORDINATOR_DRAIN_TOKEN_FILE": str(tmp_path / "file"),
        "COORDINATOR_ENCRYPTION_KEYS": f"k1:{(CANARY * 8)[:43]}=",
        "COORDINATOR_CONFIG": str(tmp_path / "more.toml"),
    }


def test_secrets_stay_with_the_supervisor(start: Start, user: str, tmp_path: Path) -> None:
    """The child gets everything else: PATH, settings, what says who it is; the log names what was withheld, not its values."""
    process = start(SHOW, COORDINATOR_POOL="default", OTHER="mine", **secrets(tmp_path, user))
    [found] = process.wait_for("env")
    assert CANARY not in json.dumps(found)
    assert found.keys().isdisjoint(secrets(tmp_path, user))
    assert (found["PATH"], found["COORDINATOR_POOL"], found["OTHER"]) == (os.environ["PATH"], "default", "mine")
    assert {"RECOVERY_SOCKET", "RECOVERY_INSTANCE", "RECOVERY_WORKER_TOKEN", "RECOVERY_SESSIONS"} <= found.keys()
    wait_until(lambda: not process.alive)
    assert all(name in process.errors() for name in secrets(tmp_path, user))
    assert CANARY not in process.errors()


def test_what_is_named_is_given(start: Start, user: str, tmp_path: Path) -> None:
    """As to a worker of the library, which connects by itself; and nothing beside it."""
    process = start(SHOW, "--pass-env", "COORDINATOR_REDIS_URL", **secrets(tmp_path, user))
    [found] = process.wait_for("env")
    assert found["COORDINATOR_REDIS_URL"] == user
    assert found.keys().isdisjoint(secrets(tmp_path, user).keys() - {"COORDINATOR_REDIS_URL"})


def test_a_url_without_a_secret_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says where the store is and no more; one with a user, a password or that of a key is withheld."""
    for url, is_given in (
        ("redis://h:1/0", True),
        ("rediss+sentinel://h/s?ssl_certfile=/c.pem", True),
        ("redis://hush@h", False),
        ("redis://:hush@h", False),
        ("redis+sentinel://h/s?sentinel_password=hush", False),
        ("rediss://h?ssl_certfile=/c.pem&ssl_password=hush", False),
        ("redis://:hush#@h", False),
    ):
        monkeypatch.setenv("COORDINATOR_REDIS_URL", url)
        found, withheld = for_child()
        assert ("COORDINATOR_REDIS_URL" in found) == is_given
        assert ("COORDINATOR_REDIS_URL" in withheld) != is_given


def test_what_is_named_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without its URL would fail later, and say less."""
    with pytest.raises(ConfigurationError, match="--pass-env COORDINATOR_REDIS_URL: this variable is not set"):
        for_child(["COORDINATOR_REDIS_URL"])
    monkeypatch.setenv("RECOVERY_SESSIONS", "of another supervisor")
    assert "RECOVERY_SESSIONS" not in for_child()[0]


def test_the_supervisors_memory_is_its_own() -> None:
    """It is no more dumpable: then the kernel lets no other process of its user read its memory and environment."""
    code = (
        "import ctypes; from coordinator.supervisor.child import hide_memory; hide_memory(); "
        "print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


@pytest.mark.parametrize("size", [10, 60_000])
def test_a_worker_is_started_with_any_amount_of_data(
    start: Start, url: str, redis_client: redis.Redis, size: int
) -> None:
    """Three calls, with more data than Linux lets into a variable: all of it is in a file of the user's own, which goes with it."""
    bench = Bench(redis_client)
    bench.init(hold_ms=1)
    bench.join("other~1")
    calls, data = [f"call-{n}" for n in range(3)], b"x" * size
    for call in calls:
        bench.open(call, "other~1", data=data)
    bench.certify("other~1")
    bench.end_hold()
    bench.claim("other~1", calls)
    process = start(READ, *(word for call in calls for word in ("--session", call)), "--redis-url", url)
    [found] = process.wait_for("calls")
    told = {one["session"]: base64.b64decode(one["recovery_data_base64"]) for one in found["calls"]}
    assert told == dict.fromkeys(calls, data)
    assert (found["variable"], found["mode"]) == (size < 1000, 0o600)
    process.write("\n")
    wait_until(lambda: not process.alive)
    assert process.exit_status == 0
    assert not Path(found["path"]).exists()
    assert bench.client.exists(Keys("recovery", 0).session("call-0"))
