"""A worker behind the sidecar, without a store."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import anyio
import anyio.abc
import pytest

from coordinator import clock
from coordinator.settings import Settings
from coordinator.sidecar.hosted import Hosted
from coordinator.sidecar.proof import HealthCheck
from coordinator.sidecar.schemas import Health, Register
from coordinator.sidecar.stream import EventStream
from coordinator.worker.runtime import WorkerRuntime
from tests import inside
from tests.waiting import within

pytestmark = pytest.mark.anyio


class _Worker:
    """What `Hosted` asks of its worker; `ends` are the causes for which it was ended."""

    def __init__(self, tasks: anyio.abc.TaskGroup, grace: float) -> None:
        self._tasks = tasks
        self.settings = SimpleNamespace(trust_window=grace, heartbeat_interval=0.25, wedged_after=5.0)
        self.ends: list[str] = []
        self.sessions: tuple[()] = ()
        self.trust_left, self.alone_left, self.is_draining = 0.7, 19.7, False

    def start(self, what: Callable[..., Coroutine[Any, Any, object]], *arguments: Any) -> None:
        self._tasks.start_soon(what, *arguments)

    def take_offers(self, most: float) -> None:
        """Takes none."""

    async def end(self, cause: str, reason: str) -> None:
        self.ends.append(reason)


def hosted_with(worker: _Worker) -> Hosted:
    """That stands for this one."""
    with patch("coordinator.sidecar.hosted.Instance", return_value=worker):
        hosted = Hosted(Settings.for_worker("redis://nowhere"), cast(WorkerRuntime, None), Register(name="w"))  # type: ignore[call-arg]
    hosted.handle = "w~1"
    return hosted


async def test_who_comes_back_in_the_same_moment_is_not_ended() -> None:
    """One poll ends and another begins before anybody could look: the second is proof of life for as long as it is open."""
    with ExitStack() as second:
        async with anyio.create_task_group() as waiting:
            worker = _Worker(waiting, 0.01)
            hosted = hosted_with(worker)
            with hosted.presence.attached():
                pass
            second.enter_context(hosted.presence.attached())
        proven, hosted.ended = hosted.is_proven, "the test ends"
    assert worker.ends == []
    assert proven


async def test_who_does_not_come_back_is_ended() -> None:
    """The last stream or poll ended, and none is opened within the grace."""
    async with anyio.create_task_group() as waiting:
        worker = _Worker(waiting, 0.01)
        with hosted_with(worker).presence.attached():
            pass
    assert worker.ends == ["its stream ended"]


async def test_a_worker_that_failed_is_not_told_that_the_sidecar_ends() -> None:
    """An error ends it, and no other: its last event says what happened."""

    class Broken(_Worker):
        id = "w~1"

        async def __aenter__(self) -> Broken:
            return self

        async def __aexit__(self, *error: object) -> None:
            """Hides nothing."""

    async with anyio.create_task_group() as waiting:
        hosted = hosted_with(Broken(waiting, 10))

        def fail() -> None:
            raise ValueError("no such thing")

        with pytest.raises(ValueError, match="no such thing"):
            await hosted.run(fail)
        waiting.cancel_scope.cancel()
    assert hosted.queue.take() == [{"event": "ended", "reason": "the sidecar cannot go on with it: no such thing"}]


async def test_a_new_stream_tells_at_once_what_waited() -> None:
    """Events from before it was opened come after `hello`, without anything new happening."""
    sent: list[bytes] = []

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message.get("body", b""))
        if b'"event":"drain"' in sent[-1]:
            waiting.cancel_scope.cancel()

    with within(10):
        async with anyio.create_task_group() as waiting:
            hosted = hosted_with(_Worker(waiting, 10))
            hosted.handovers.draining(1)
            await EventStream(hosted, server_sent=False, scope={"state": {}})(send)
    assert b'"hello"' in sent[1]
    assert sent[2] == b'{"event":"drain","timeout_ms":1000}\n'


async def test_a_stream_that_ended_before_it_began_replaces_none() -> None:
    """Its connection is closed already: whoever reads the stream of this worker goes on reading it."""
    async with anyio.create_task_group() as waiting:
        hosted = hosted_with(_Worker(waiting, 10))
        good = object()
        hosted.take_stream(good, None)

        async def send(message: Mapping[str, Any]) -> None:
            raise AssertionError(message)

        late = EventStream(hosted, server_sent=False, scope={"state": {"recovery.gone": True}})
        await late(send)
        assert hosted.presence.is_stream(good)
        waiting.cancel_scope.cancel()


async def test_a_pause_is_no_end_of_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two polls the machine stood still for a minute: the worker has its whole grace when it goes on."""
    now, slept = 1000.0, 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now, slept
        await anyio.lowlevel.checkpoint()
        now, slept = now + seconds + (60.0 if slept == 0.0 else 0.0), slept + seconds

    monkeypatch.setattr(clock, "now", lambda: now)
    monkeypatch.setattr(anyio, "sleep", sleep)
    async with anyio.create_task_group() as waiting:
        worker = _Worker(waiting, 1.0)
        with hosted_with(worker).presence.attached():
            pass
    assert worker.ends == ["its stream ended"]
    assert slept == pytest.approx(1.1)


async def test_a_pause_is_no_failed_health_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question in which this process stood still counts neither way: only answers that it was awake for do."""
    now, answers = 1000.0, iter([True, False, False, False])

    def ask(check: HealthCheck) -> bool:
        nonlocal now
        answer = next(answers, None)
        now += 0.0 if answer is None else 6.0  # it stands still in each of the first questions, whatever comes of them
        asked.append(answer)
        return bool(answer)

    asked: list[bool | None] = []
    monkeypatch.setattr(clock, "now", lambda: now)
    monkeypatch.setattr(*inside.health_question_spot(), ask)
    with within(10):
        await HealthCheck(Health(url="http://localhost:1/", interval_ms=50, timeout_ms=1000, failures=1)).failed()
    assert asked == [True, False, False, False, None]
