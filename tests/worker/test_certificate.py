"""A program that is no worker states that an instance has ended."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import redis

import coordinator
from coordinator import (
    ConfigurationError,
    CoordinatorError,
    InvalidIdError,
    InvalidValueError,
    StoreUnavailableError,
    Worker,
)
from coordinator.store import calls
from coordinator.store.keys import Keys
from coordinator.worker.certificate import certify_everywhere
from tests.waiting import eventually

KEYS = Keys("recovery", 0)


async def test_nobody_has_to_join_for_it(url: str, redis_client: redis.Redis) -> None:
    """The instance is dead by it, signed by the program's name, which is no instance; a second time changes nothing."""
    async with Worker(url, name="a") as worker:
        owned = await worker.open("call-1")
        before = worker.id
        assert await coordinator.certify(before, "its pod is gone", url=url, name="reaper")
        found = redis_client.hmget(KEYS.instance(before), "state", "cause", "by", "reason")
        assert found == [b"dead", b"exited", b"reaper", b"its pod is gone"]
        assert not await coordinator.certify(before, "again", url=url, name="reaper")
        assert redis_client.hget(KEYS.instance(before), "reason") == b"its pod is gone"
        assert not list(redis_client.scan_iter("*instance:reaper*"))
        await eventually(owned.lost.is_set)


async def test_an_instance_that_nobody_knows(url: str) -> None:
    """False, and nothing is written."""
    async with Worker(url, name="a"):
        assert not await coordinator.certify("b~1", url=url)


async def test_what_is_wrong_is_said_before_anything_is_sent(url: str) -> None:
    """An id, a cause or a setting that is invalid has its own error."""
    with pytest.raises(InvalidIdError):
        await coordinator.certify("no id", url=url)
    with pytest.raises(InvalidValueError):
        await coordinator.certify("a~1", cause="tired", url=url)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        await coordinator.certify("a~1", url="http://localhost")


async def test_a_worker_that_was_not_entered(url: str) -> None:
    """It has no connection yet, and says what needs none."""
    with pytest.raises(CoordinatorError, match=r"coordinator\.certify"):
        await Worker(url, name="a").certify("b~1")


async def test_a_store_that_is_away(url: str, tmp_path: Any) -> None:
    """It is said, and no connection stays."""
    with pytest.raises(StoreUnavailableError):
        await coordinator.certify("a~1", url=f"unix://{tmp_path}/none.sock")


async def test_a_partition_that_does_not_answer_delays_no_other() -> None:
    """All are told at the same time, and the error of one comes after the others were told."""
    told: list[int] = []

    class Partition:
        def __init__(self, number: int) -> None:
            self.keys, self.executor = Keys("recovery", number), SimpleNamespace(run=self.run)

        async def run(self, call: Any) -> Any:
            if self.keys.partition == 0:
                while len(told) < 2:  # it answers only when the others were told
                    await anyio.sleep(0.001)
                raise StoreUnavailableError("timeout", "no answer")
            told.append(self.keys.partition)
            return calls.CertifyOk(0)

    parts: Any = [Partition(n) for n in range(3)]
    with anyio.fail_after(10), pytest.raises(StoreUnavailableError):
        await certify_everywhere(parts, "a~1", "", cause="exited", by="test")
    assert sorted(told) == [1, 2]
