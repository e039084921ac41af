"""Where an instance is told at once.

``ask <session> <heir>``: an heir waits; ``yours <session>``: its owner let go; ``drain <instance>``: hand over what you own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import structlog

from coordinator.errors import FencedError, StoreUnavailableError

if TYPE_CHECKING:
    from coordinator.worker.membership import Membership

__all__ = ["Mailbox"]

log = structlog.get_logger()


class Mailbox:
    """One a membership. That somebody listens on its channel is the instance's presence: a coordinator that misses beats asks.

    Attributes:
        subscribed: whether it is listened to.
    """

    def __init__(self, member: Membership) -> None:
        self._member = member
        self._waiting: dict[str, anyio.Event] = {}
        self._channel = ""
        self.subscribed = False

    def open(self) -> None:
        """Listens on the channel of the instance's present id, and on no other."""
        self.close()
        self._channel = self._member.part.keys.mailbox(self._member.instance)
        self._member.hub.post.add(self._channel, self)

    def close(self) -> None:
        """Listens no more. Safe to repeat."""
        if self._channel:
            self._member.hub.post.remove(self._channel)
            self._channel = ""

    def listening(self, yes: bool) -> None:
        """The connection came or went."""
        if self.subscribed != yes:
            self.subscribed = yes
            self._member.presence_changed()

    def wait_for(self, session_id: str) -> anyio.Event:
        """Is set when the session has become ours."""
        return self._waiting.setdefault(session_id, anyio.Event())

    def done_waiting(self, session_id: str) -> None:
        """Nobody waits for it any more."""
        self._waiting.pop(session_id, None)

    def take(self, text: str) -> None:
        """A message."""
        what, _, rest = text.partition(" ")
        session_id, _, heir = rest.partition(" ")
        if what == "yours":
            if session_id in self._waiting:
                self._waiting[session_id].set()
            else:  # who asked has gone away meanwhile
                self._member.start(self._member.adoption.pass_on, session_id)
        elif what == "ask":
            self._member.start(self._let_go, session_id, heir)
        elif what == "drain":
            self._member.told_to_drain()

    def look_for_handovers(self) -> None:
        """The beat said that an heir asked: the message may have been lost."""
        for session_id in self._member.sessions:
            self._member.start(self._let_go, session_id, "")

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
