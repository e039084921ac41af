"""What goes wrong around a job: no process for it, two of them, data that cannot be kept, an agent that comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import redis

pytest.importorskip("livekit.agents", reason="livekit-agents is in no environment but its own: make adapters")

import jwt
from livekit.agents import Agent, AgentSession
from livekit.agents.job import JobAcceptArguments, RunningJobInfo
from livekit.protocol import agent as agent_protocol

from coordinator import Worker
from coordinator.adapters.livekit import LiveKitCall, RecoveringServer
from coordinator.adapters.livekit.agent import entered_before
from tests.inside import livekit as inside
from tests.store.harness import Bench
from tests.waiting import eventually


def job_info(job_id: str, metadata: str = "") -> RunningJobInfo:
    return RunningJobInfo(
        accept_arguments=JobAcceptArguments(name="agent", identity=f"agent-{job_id}", metadata=""),
        job=agent_protocol.Job(id=job_id, metadata=metadata),
        url="ws://127.0.0.1:1",
        token=jwt.encode({"sub": f"agent-{job_id}", "metadata": metadata}, "x" * 32, algorithm="HS256"),
        worker_id="AW_1",
        fake_job=False,
    )


class Pool:
    """A process pool whose processes begin and end as the test says."""

    def __init__(self) -> None:
        self.processes: list[Any] = []

    async def launch(self, info: RunningJobInfo) -> None:
        self.processes.append(SimpleProcess(info))


class SimpleProcess:
    def __init__(self, info: RunningJobInfo) -> None:
        self.running_job, self.exitcode = info, 0


@asynccontextmanager
async def serving(url: str, **settings: Any) -> AsyncIterator[tuple[RecoveringServer, Worker, Pool]]:
    """A server whose worker serves, without LiveKit."""
    server, pool = RecoveringServer(), Pool()
    async with Worker(url, name="a", drain_timeout=0.5, **settings) as worker, anyio.create_task_group() as tasks:
        inside.serve_with(server, worker, pool)
        tasks.start_soon(lambda: worker.serve(inside.handler_of(server)))
        yield server, worker, pool
        tasks.cancel_scope.cancel()


async def test_a_job_for_which_no_process_begins(url: str, redis_client: redis.Redis) -> None:
    """A job that cannot be launched is offered to other workers, which may have a process for it."""

    async def launch(info: RunningJobInfo) -> None:
        raise RuntimeError("no process became available")

    async with serving(url) as (server, _, _):
        with pytest.raises(RuntimeError, match="no process"):
            await inside.launch(server, job_info("AJ_1"), launch)
        await eventually(lambda: Bench(redis_client).record("AJ_1").get("state") in ("orphaned", "offered"))
        await eventually(lambda: not inside.jobs_of(server))


async def test_a_job_that_crashes_before_its_session_is_open(url: str, redis_client: redis.Redis) -> None:
    """A process that ends by an error while Redis is away has its call offered to others once Redis is back."""
    async with serving(url) as (server, _, pool):
        redis_client.client_pause(1_500)
        await inside.launch(server, job_info("AJ_1"), pool.launch)
        [process] = pool.processes
        inside.launched(server, process)
        process.exitcode = 1
        inside.closed(server, process)
        await eventually(lambda: Bench(redis_client).record("AJ_1").get("state") in ("orphaned", "offered"), 20)


async def test_the_old_process_of_a_job_ends_beside_the_new_one(url: str) -> None:
    """The end of the process that served a call here before does not end the call in its new process."""
    async with serving(url) as (server, worker, pool):
        old, new = job_info("AJ_1"), job_info("AJ_1")
        await pool.launch(old)
        await inside.launch(server, new, pool.launch)
        await eventually(lambda: worker.sessions)
        for process in pool.processes:
            inside.launched(server, process)
        pool.processes[0].exitcode = 1
        inside.closed(server, pool.processes[0])
        job = inside.jobs_of(server)["AJ_1"]
        assert job.process is pool.processes[1]
        assert not job.ended.is_set()
        inside.closed(server, pool.processes[1])
        await eventually(lambda: not worker.sessions and not inside.jobs_of(server))


async def test_a_job_that_is_too_large_is_said_once(url: str) -> None:
    """A job whose metadata exceeds the recovery data is served without protection, and nobody tries for ever."""
    async with serving(url) as (server, worker, pool):
        await inside.launch(server, job_info("AJ_1", "x" * 70_000), pool.launch)
        await eventually(lambda: not inside.jobs_of(server))
        assert not worker.sessions


async def test_a_worker_that_is_drained_from_outside_takes_no_jobs(url: str) -> None:
    """LiveKit is told that the server is full as soon as its worker drains, whoever told it to."""
    told = []

    async def update() -> None:
        told.append(server.draining)

    async with serving(url) as (server, worker, _), anyio.create_task_group() as tasks:
        inside.tell_status_by(server, update)
        tasks.start_soon(inside.follow_drain, server, worker)
        await worker.drain()
        await eventually(lambda: told == [True])


@pytest.mark.parametrize("value", [float("nan"), 2**60, "\ud800", "x" * 70_000, {1, 2}])
async def test_user_data_that_cannot_be_kept_is_left_out(value: object) -> None:
    """The conversation is kept without user data that no heir could read, or that leaves no room."""
    userdata = {"value": value}
    kept = inside.user_data_of(AgentSession(userdata=userdata, vad=None))
    data = {}
    with kept.told():
        data["userdata"] = kept.now(60_000)
    assert data == {}
    with kept.told():
        userdata["value"] = 1
        data["userdata"] = kept.now(60_000)
    assert data == {"userdata": {"value": 1}}


def test_the_room_for_data_counts_what_json_adds() -> None:
    """Metadata that is JSON takes more bytes as it is stored than it has characters."""
    call = LiveKitCall(SimpleNamespace())
    assert inside.room_for_data(call, {"metadata": '"' * 10_000}, 65536) < 65536 - 20_000


async def test_an_agent_that_comes_back_is_entered() -> None:
    """`on_enter` is left out once, as the call goes on; an agent that gets the call back from another one is entered as always."""

    class Clerk(Agent):
        entered = 0

        async def on_enter(self) -> None:
            self.entered += 1

    clerk = Clerk(instructions="")
    entered_before(clerk)
    await clerk.on_enter()
    assert clerk.entered == 0
    await clerk.on_enter()
    assert clerk.entered == 1


async def test_a_session_that_has_closed_is_not_kept() -> None:
    """A caller who hangs up while the session starts: nothing is kept, and the entrypoint does not fail."""
    context: Any = SimpleNamespace(job=SimpleNamespace(id="AJ_1"))
    keeper, keep_turn = inside.keeper_of(LiveKitCall(context), AgentSession(vad=None))
    keep_turn()
    assert keeper.call.data == {}
