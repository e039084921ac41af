"""Where an instance is told at once.

``ask <session> <heir>``: an heir waits; ``yours <session>``: its owner let go; ``drain <instance>``: hand over what you own;
``stop <session>``: its owner gives away what is written here for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import structlog

from coordinator import clock
from coordinator.errors import FencedError, StoreUnavailableError
from coordinator.store.shapes import instance_id

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
        self._heirs: dict[str, str] = {}
        self._letting_go: set[str] = set()
        self._channel = ""
        self._heard = 0
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

    def doubt(self) -> None:
        """A beat failed: the connection may be gone too."""
        self._member.hub.post.doubt()

    def missing(self) -> None:
        """The store knows of nobody who listens, and we said that we do."""
        if self._channel:
            self._member.hub.post.missing(self._channel)

    def wait_for(self, session_id: str) -> anyio.Event:
        """Is set when the session has become ours, from now on."""
        event = self._waiting.get(session_id)
        if event is None or event.is_set():
            event = self._waiting[session_id] = anyio.Event()
        return event

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
            self._heard += 1
            self._asked(session_id, heir)
        elif what == "stop":
            self._member.children.stop(session_id)
        elif what == "drain":
            self._member.told_to_drain()

    def look_for_handovers(self, asked: int) -> None:
        """The beat said how often heirs asked since the one before: more often than we heard, so a word was lost, or not permitted."""
        heard, self._heard = self._heard, 0
        if not 0 <= asked <= heard:
            for session_id in self._member.sessions:
                self._asked(session_id, "")

    def _asked(self, session_id: str, heir: str) -> None:
        """An heir waits: one task a session lets go, however often it is asked."""
        session = self._member.sessions.get(session_id)
        if session is None or session.ending is not None:
            return
        self._heirs[session_id] = heir
        if heir:
            session.asked_at = clock.now()
        if session_id not in self._letting_go:
            self._member.start(self._let_go, session_id, heir)
            self._letting_go.add(session_id)

    async def _let_go(self, session_id: str, heir: str) -> None:
        member = self._member
        try:
            while (session := member.sessions.get(session_id)) is not None and session.ending is None:
                self._heirs.pop(session_id, None)
                if not heir:
                    key = member.part.keys.session(session_id)
                    heir = instance_id(await member.part.executor.command("HGET", key, "heir"))
                await session.quiet(lambda: member.lets_go_by)
                heir = self._heirs.pop(session_id, "") or heir
                if session.is_over or session.ending is not None or not heir:
                    return
                if member.host is not None:
                    await member.host.before_letting_go(session, heir)
                if await session.let_go(heir):
                    log.info("session_handed_over", session=session_id, heir=heir)
                if session_id not in self._heirs:
                    return
                heir = self._heirs[session_id]  # another one asked meanwhile
        except FencedError:
            return  # it is lost, and was told so
        except StoreUnavailableError as error:
            log.warning("handover_failed", session=session_id, kind=error.kind)
        finally:
            self._letting_go.discard(session_id)
            self._heirs.pop(session_id, None)
