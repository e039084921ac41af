"""Where an instance is told at once.

``ask <session> <heir>``: an heir waits; ``yours <session>``: its owner let go; ``drain <instance>``: hand over what you own.
"""

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
        self._asked: dict[str, str] = {}
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
        what, _, rest = text.partition(" ")
        session_id, _, heir = rest.partition(" ")
        if what == "yours" and session_id in self._waiting:
            self._waiting[session_id].set()
        elif what == "ask":
            self._asked[session_id] = heir
            self._work.set()
        elif what == "drain":
            self._member.told_to_drain()

    async def look_for_handovers(self) -> None:
        """The beat said that an heir asked: the message may have been lost."""
        self._asked.update(dict.fromkeys(self._member.sessions, ""))
        self._work.set()

    async def _let_go_of_what_is_asked(self) -> None:
        async with anyio.create_task_group() as tasks:
            while True:
                await self._work.wait()
                self._work = anyio.Event()
                asked, self._asked = self._asked, {}
                for session_id, heir in asked.items():
                    tasks.start_soon(self._let_go, session_id, heir)

    async def _let_go(self, session_id: str, heir: str) -> None:
        member = self._member
        session = member.sessions.get(session_id)
        if session is None:
            return
        try:
            if not heir:
                key = member.part.keys.session(session_id)
                heir = (await member.part.executor.command("HGET", key, "heir") or b"").decode()
            if heir:
                await session.quiet(member.settings.lease)
                if member.host is not None:
                    await member.host.before_letting_go(session, heir)
                if await session.let_go(heir):
                    log.info("session_handed_over", session=session_id, heir=heir)
        except FencedError:
            return  # it is lost, and was told so
        except StoreUnavailableError as error:
            log.warning("handover_failed", session=session_id, kind=error.kind)
