"""The connection on which all instances of a process are told things, in one partition; it is their presence too."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import redis
import structlog

from coordinator.errors import StoreUnavailableError
from coordinator.policy import backoff
from coordinator.store.connect import Connector

if TYPE_CHECKING:
    from coordinator.worker.mailbox import Mailbox

__all__ = ["Post"]

log = structlog.get_logger()

LISTEN_SECONDS = 1.0


class Post:
    """Listens to the channels of mailboxes; a lost message is made good by the beat, or by asking again.

    Args:
        key: any key of the partition.
    """

    def __init__(self, connector: Connector, key: str) -> None:
        self._connector, self._key = connector, key
        self._mailboxes: dict[str, Mailbox] = {}
        self._box: Any = None
        self._some = anyio.Event()
        self._tasks: anyio.abc.TaskGroup | None = None

    def add(self, channel: str, mailbox: Mailbox) -> None:
        """Listens for this one too."""
        self._mailboxes[channel] = mailbox
        self._some.set()
        if self._box is not None and self._tasks is not None:
            self._tasks.start_soon(self._change, "subscribe", channel)

    def remove(self, channel: str) -> None:
        """Not for this one any more."""
        mailbox = self._mailboxes.pop(channel, None)
        if mailbox is not None:
            mailbox.listening(False)
        if self._box is not None and self._tasks is not None:
            self._tasks.start_soon(self._change, "unsubscribe", channel)

    async def _change(self, what: str, channel: str) -> None:
        if self._box is None:
            return
        try:
            await getattr(self._box, what)(channel)
        except (redis.RedisError, OSError):
            return  # whoever listens finds that out too, and begins again
        if what == "subscribe" and (mailbox := self._mailboxes.get(channel)) is not None:
            mailbox.listening(True)

    async def run(self) -> None:
        """Listens until cancelled."""
        failures = 0
        async with anyio.create_task_group() as self._tasks:
            while True:
                try:
                    await self._listen()
                    failures = 0
                except (redis.RedisError, OSError, StoreUnavailableError):
                    await anyio.sleep(backoff(failures, random.random()))  # noqa: S311 - jitter
                    failures += 1

    async def _listen(self) -> None:
        while not self._mailboxes:
            await self._some.wait()
            self._some = anyio.Event()
        client = await self._connector.listener(self._key)
        try:
            box: Any = client.pubsub(ignore_subscribe_messages=True)
            self._box = box
            await box.subscribe(*self._mailboxes)
            for mailbox in self._mailboxes.values():
                mailbox.listening(True)
            while True:
                message = await box.get_message(timeout=LISTEN_SECONDS)
                if message and message.get("type") == "message":
                    found = self._mailboxes.get(message["channel"].decode())
                    if found is not None:
                        found.take(message["data"].decode())
                elif not self._mailboxes:
                    return
        finally:
            self._box = None
            for mailbox in self._mailboxes.values():
                mailbox.listening(False)
            with anyio.CancelScope(shield=True), contextlib.suppress(redis.RedisError, OSError):
                await self._connector.close_listener(client)
