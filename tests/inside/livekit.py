"""Into the LiveKit adapter, where no server of LiveKit serves. It needs the framework only when it is called."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

__all__ = [
    "closed", "follow_drain", "handler_of", "jobs_of", "keeper_of", "launch", "launched", "room_for_data", "serve_with",
    "tell_status_by", "user_data_of",
]  # fmt: skip


def serve_with(server: Any, worker: Any, pool: Any) -> None:
    """The server serves with that worker and process pool, as inside `run`, which needs LiveKit."""
    server._worker, server._proc_pool = worker, pool


def handler_of(server: Any) -> Any:
    """What serves a session there."""
    return server._handler


def jobs_of(server: Any) -> dict[str, Any]:
    """The jobs that it knows, by id."""
    found: dict[str, Any] = server._jobs
    return found


async def launch(server: Any, info: Any, by: Callable[[Any], Awaitable[None]]) -> None:
    """LiveKit gives it a job."""
    await server._launch_new(info, by)


def launched(server: Any, process: Any) -> None:
    """The pool says that a process has a job."""
    server._process_launched(process)


def closed(server: Any, process: Any) -> None:
    """The pool says that a process has ended."""
    server._process_closed(process)


def tell_status_by(server: Any, tell: Callable[[], Awaitable[None]]) -> None:
    """Tells LiveKit its status in another way, as there is no connection."""
    server._update_worker_status = tell


async def follow_drain(server: Any, worker: Any) -> None:
    """What runs beside the worker until it drains."""
    await server._follow_drain(worker)


def user_data_of(session: Any) -> Any:
    """What is kept of a session's user data."""
    from coordinator.adapters.livekit.agent import _UserData

    return _UserData(session)


def keeper_of(call: Any, session: Any) -> tuple[Any, Callable[[], None]]:
    """What `recover` does beside an agent, and what keeps a turn."""
    from coordinator.adapters.livekit.agent import _Keeper

    keeper = _Keeper(call, session, moves_while_speaking=False)
    return keeper, keeper._turn


def room_for_data(call: Any, record: Any, limit: int) -> int:
    """How many bytes can be kept beside a job's record."""
    from types import SimpleNamespace

    call._session, call._record = SimpleNamespace(max_data_bytes=limit), record
    return int(call.most_bytes)
