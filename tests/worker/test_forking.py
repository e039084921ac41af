"""Programs that fork: a child has nothing of its parent's, and the parent's end is seen although the child lives."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from coordinator.store.keys import Keys
from tests.waiting import wait_until
from tests.worker.program import Program

KEYS = Keys("recovery", 0)
PROGRAM = Path(__file__).with_name("forking_process.py")


class Family(Program):
    """The process, and its child."""

    def __init__(self, url: str, kind: str) -> None:
        super().__init__(PROGRAM, url, kind)
        self.child = 0

    def hears(self, *who: str) -> dict[str, Any]:
        """The next line, which is of one of these."""
        found = super().hears(*who)
        if "child" in who:
            self.child = found["pid"]
        return found


@contextlib.contextmanager
def program(url: str, kind: str) -> Iterator[Family]:
    """Until the end of the block."""
    made = Family(url, kind)
    try:
        yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            if made.child:
                os.kill(made.child, signal.SIGKILL)
        made.close()


def connections(client: Any) -> set[str]:
    """Those that the server has, but for this one's."""
    return {one["id"] for one in client.client_list()} - {str(client.client_id())}


@pytest.mark.parametrize("kind", ["multiprocessing", "subprocess"])
def test_the_parents_end_is_seen_while_its_child_lives(url: str, redis_client: redis.Redis, kind: str) -> None:
    """All connections of a worker that was killed end with it, whatever its child inherited."""
    with program(url, kind) as forks:
        instance = forks.hears("ready")["id"]
        wait_until(lambda: redis_client.hget(KEYS.instance(instance), "presence") == b"1")
        forks.go_on()
        forks.hears("child")
        assert connections(redis_client)
        forks.process.kill()
        wait_until(lambda: not connections(redis_client))
        assert Path(f"/proc/{forks.child}").exists()


def test_a_child_believes_nothing_and_harms_nobody(url: str, redis_client: redis.Redis) -> None:
    """It holds nothing, may not speak and cannot write; its parent goes on, on the same connections."""
    with program(url, "multiprocessing") as forks:
        instance = forks.hears("ready")["id"]
        wait_until(lambda: redis_client.hget(KEYS.instance(instance), "presence") == b"1")
        before = connections(redis_client)
        forks.go_on()
        said = forks.hears("child")
        assert (said["held"], said["may_speak"], said["lost"], said["error"]) == (False, False, True, "FencedError")
        deadline: Any = redis_client.zscore(KEYS.instances, instance)
        wait_until(lambda: redis_client.zscore(KEYS.instances, instance) > deadline + 1000)
        forks.go_on()
        said = forks.hears("parent")
        assert (said["held"], said["may_speak"], said["lost"]) == (True, True, False)
        assert connections(redis_client) == before


def test_a_child_that_leaves_the_block_says_nothing(url: str, redis_client: redis.Redis) -> None:
    """It was forked inside the worker's block and ends by an exception: its parent has not left."""
    with program(url, "exits") as forks:
        instance = forks.hears("ready")["id"]
        forks.go_on()
        child = forks.hears("child")["pid"]
        wait_until(lambda: Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z")
        deadline: Any = redis_client.zscore(KEYS.instances, instance)
        wait_until(lambda: (redis_client.zscore(KEYS.instances, instance) or 0) > deadline + 1000)
        forks.go_on()
        assert forks.hears("parent")["held"]
        assert redis_client.hget(KEYS.session("call-1"), "owner") == instance.encode()
    if not importlib.util.find_spec("uvloop"):  # where a loop of uvloop goes on in the child, and says that it cannot
        assert forks.errors == ""
