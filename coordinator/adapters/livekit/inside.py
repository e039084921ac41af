"""All that this adapter uses of livekit-agents which its authors may change at any time, in one place.

`tests/adapters/livekit/test_inside.py` says when they did. The ends of the range in pyproject.toml are tried.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import jwt
from livekit.agents import AgentServer, AgentSession, JobContext
from livekit.agents.job import JobAcceptArguments, RunningJobInfo
from livekit.protocol import agent as agent_protocol

from coordinator.adapters.livekit.job_record import JobRecord

__all__ = [
    "begin_launching_by",
    "can_launch",
    "keep_room",
    "record_of",
    "recovers",
    "running_job",
    "silence",
]

RECOVERS = " (recovers)"
"""Behind the worker's id of a job that another worker served before: LiveKit's message is all that a job process is told."""


def begin_launching_by(
    server: AgentServer,
    launch: Callable[[RunningJobInfo, Callable[[RunningJobInfo], Awaitable[None]]], Awaitable[None]],
) -> Callable[[RunningJobInfo], Awaitable[None]]:
    """From now on each job that the server accepts goes to ``launch``, with what starts it. Returns the latter, too."""
    pool = server._proc_pool
    plain: Callable[[RunningJobInfo], Awaitable[None]] = pool.launch_job

    async def by_us(info: RunningJobInfo) -> None:
        await launch(info, plain)

    pool.launch_job = by_us
    return plain


def can_launch(server: AgentServer, load_threshold: float | None) -> int:
    """How many jobs can begin now: as many as job processes are warm; where none is kept warm, or the server is busy, one at a time.

    Args:
        load_threshold: a load from which on none can; None for no limit.
    """
    if server._draining or (load_threshold is not None and server._worker_load >= load_threshold):
        return 0
    pool = server._proc_pool
    starting = int(pool._jobs_waiting_for_process)
    warm_now = int(pool._warmed_proc_queue.qsize()) - starting
    if server._is_available():
        return max(warm_now, 0 if pool.target_idle_processes else 1 - starting)
    return max(0, 1 - starting)


def reserve_of(server: AgentServer) -> int:
    """How many job processes the server keeps warm by itself."""
    return int(server._proc_pool._default_num_idle_processes)


def keep_warm(server: AgentServer, processes: int) -> None:
    """Keeps so many job processes warm from now on; as its load rises the server lowers that by itself."""
    pool = server._proc_pool
    pool._default_num_idle_processes = processes
    pool.set_target_idle_processes(processes)


def record_of(info: RunningJobInfo) -> JobRecord:
    """What another worker needs to run it again."""
    claims = jwt.decode(info.token, options={"verify_signature": False})
    accepted = info.accept_arguments
    return JobRecord.of(info.job.SerializeToString(), accepted.name, accepted.identity, accepted.metadata, claims)


def running_job(server: AgentServer, record: JobRecord) -> RunningJobInfo:
    """A job that is to run again, here, with a new token."""
    token = jwt.encode(record.token_claims(time.time()), server._api_secret, algorithm="HS256")
    job = agent_protocol.Job()
    job.ParseFromString(record.job)
    accepted = JobAcceptArguments(name=record.name, identity=record.identity, metadata=record.metadata)
    return RunningJobInfo(
        accept_arguments=accepted,
        job=job,
        url=server._ws_url,
        token=token,
        worker_id=server.id + RECOVERS,
        fake_job=False,
    )


def recovers(context: JobContext) -> bool:
    """Whether another worker served the job before."""
    return bool(context.worker_id.endswith(RECOVERS))


def keep_room(session: AgentSession[Any]) -> None:
    """The session's end does not delete its room any more: the call goes on there with another agent."""
    room_io = session._room_io
    if room_io is not None:
        room_io._options.delete_room_on_close = False


def silence(session: AgentSession[Any]) -> None:
    """What is queued to be heard is dropped at once. A frame that is being sent is never cancelled: that can mute a track for good."""
    room_io = session._room_io
    output = room_io._audio_output if room_io is not None else None
    if output is not None:
        output._playback_enabled.clear()
        output._audio_source.clear_queue()
