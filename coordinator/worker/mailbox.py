"""Where an instance is told at once: "ask <session>" (an heir waits), "yours <session>" (the owner let go)."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any

import anyio
import redis
import structlog

from coordinator.errors import FencedError, StoreUnavailableError
from coordinator.policy import backoff

if TYPE_CHECKING:
    from coordinator.worker.membership import Membership

__all__ = ["Mailbox"]

log = structlog.get_logger()

LISTEN_SECONDS = 1.0


class Mailbox:
    """One a membership; a lost message is made good by the beat, or by asking again.

    Its connection is the instance's presence too: a coordinator that misses beats asks whether somebody listens here.

    Attributes:
        subscribed: whether the connection is up.
    """

    def __init__(self, member: Membership) -> None:
        self._member = member
        self._waiting: dict[str, anyio.Event] = {}
        self._moved = anyio.Event()
        self._asked: set[str] = set()
        self._work = anyio.Event()
        self.subscribed = False

    def wait_for(self, session_id: str) -> anyio.Event:
        """Is set when the session has become ours."""
        return self._waiting.setdefault(session_id, anyio.Event())

    def done_waiting(self, session_id: str) -> None:
        """Nobody waits for it any more."""
        self._waiting.pop(session_id, None)

    async def move(self) -> None:
        """The instance has another id from now on."""
        self._moved.set()

    async def run(self) -> None:
        """Listens until cancelled."""
        failures = 0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._let_go_of_what_is_asked)
            while True:
                try:
                    await self._listen()
                    failures = 0
                except (redis.RedisError, OSError, StoreUnavailableError):
                    await anyio.sleep(backoff(failures, random.random()))  # noqa: S311 - jitter
                    failures += 1

    async def _listen(self) -> None:
        member = self._member
        self._moved = anyio.Event()
        client = await member.connector.listener(member.part.keys.tag)
        try:
            box: Any = client.pubsub(ignore_subscribe_messages=True)
            await box.subscribe(member.part.keys.mailbox(member.instance))
            self.subscribed = True
            member.presence_changed()
            while not self._moved.is_set():
                message = await box.get_message(timeout=LISTEN_SECONDS)
                if message and message.get("type") == "message":
                    self._take(message["data"].decode())
        finally:
            self.subscribed = False
            member.presence_changed()
            with anyio.CancelScope(shield=True), contextlib.suppress(redis.RedisError, OSError):
                await member.connector.close_listener(client)

    def _take(self, text: str) -> None:
        what, _, session_id = text.partition(" ")
        if what == "yours" and session_id in self._waiting:
            self._waiting[session_id].set()
        elif what == "ask":
            self._asked.add(session_id)
            self._work.set()

    async def look_for_handovers(self) -> None:
        """The beat said that an heir asked: the message may have been lost."""
        self._asked.update(self._member.sessions)
        self._work.set()

    async def _let_go_of_what_is_asked(self) -> None:
        while True:
            await self._work.wait()
            self._work = anyio.Event()
            asked, self._asked = self._asked, set()
            for session_id in asked:
                try:
                    await self._let_go(session_id)
                except FencedError:
                    continue  # it is lost, and was told so
                except StoreUnavailableError as error:
                    log.warning("handover_failed", session=session_id, kind=error.kind)

    async def _let_go(self, session_id: str) -> None:
        member = self._member
        session = member.sessions.get(session_id)
        if session is None:
            return
        heir = await member.part.executor.command("HGET", member.part.keys.session(session_id), "heir")
        if heir and await session.let_go(heir.decode()):
            log.info("session_handed_over", session=session_id, heir=heir.decode())
