"""What an instance is, owns and is taking, and the calls that ended here. It makes the roll call at each change. No I/O."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from coordinator import clock
from coordinator.store.past import Past
from coordinator.worker.roll_call import RollCall
from coordinator.worker.trust_window import TrustWindow

__all__ = ["Ledger", "OwnedSession", "mark"]

ENDED_REMEMBERED = 10_000
"""Most ended calls that are remembered, to be closed again where the store lost their end."""


class OwnedSession(Protocol):
    """A session, as far as the ledger is concerned."""

    id: str
    epoch: int


S = TypeVar("S", bound=OwnedSession)


def mark(session_id: str, epoch: int) -> int:
    """What a session under an epoch adds to a roll; as ``lua/lib/roll.lua`` computes it."""
    return int(hashlib.sha1(f"{session_id} {epoch}".encode(), usedforsecurity=False).hexdigest()[:10], 16)


class Ledger(Generic[S]):
    """One per membership.

    Args:
        instance, trust_window: the present life: its id, and the time for which its last beat can be relied on.
        closed_ttl: seconds for which a call that ended is remembered.
        presence_counts: whether a lost presence connection is a sign of death.
        ended_remembered: calls that ended, of which no more are remembered, whatever ``closed_ttl`` says.

    Attributes:
        instance: the id under which it is registered now; another one after it was fenced.
        trust_window: what its last acknowledged beat is worth.
        server: run id of the server with which it last agreed.
        past: what is remembered of the partition, even if its data was lost.
        sessions: what is owned here, by id; changed by `keep`, `forget` and `renewed` only.
        taking: how many tasks are opening or adopting a session now, by id.
        roll: what the next beat says.
        digest: the digest of `sessions`, each under its epoch; the store's script makes an equal one of the same sessions.
        version: rises whenever what is owned changes or begins to; two equal versions mean that nothing changed in between.
        joining: its registration has no answer yet.
        draining: it hands over what it owns, and takes nothing new.
        has_left: it has said that it ends.
        started_at_ms: when it first registered, by the server's clock.
    """

    def __init__(
        self,
        instance: str,
        trust_window: TrustWindow,
        closed_ttl: float,
        *,
        presence_counts: bool = True,
        ended_remembered: int = ENDED_REMEMBERED,
    ) -> None:
        self.instance, self.trust_window, self.server, self.past = instance, trust_window, "", Past()
        self._closed_ttl, self._presence_counts = closed_ttl, presence_counts
        self.ended_remembered = ended_remembered
        self.sessions: dict[str, S] = {}
        self.taking: Counter[str] = Counter()
        self.digest = self.version = self.started_at_ms = 0
        self.joining = True
        self.draining = self.has_left = False
        self._arrived = self._present = False
        self._changing = 0
        self._marks: dict[str, int] = {}
        self._ended: dict[str, tuple[int, float]] = {}
        self.roll = RollCall(instance, trust_window, joined=False)

    def say(self) -> None:
        """Makes the roll call anew from the present state."""
        silent = self._changing or not self._arrived
        self.roll = RollCall(
            self.instance, self.trust_window, self.server, replace(self.past),
            "" if silent else f"{len(self.sessions)} {self.digest}", self.version, self._present and self._presence_counts,
            self._arrived and not self.joining,
        )  # fmt: skip

    # -- the instance --------------------------------------------------------------------------------------------------

    def begin_anew(self, instance: str, trust_window: TrustWindow) -> None:
        """A new life under a new id: the calls that ended in the old one no longer count."""
        self.instance, self.trust_window, self.joining = instance, trust_window, True
        self._ended.clear()
        self.say()

    def joined(self, server: str, lineage: str, now_ms: int, sent: float) -> None:
        """The store answered a registration that was sent at ``sent``, in seconds of `coordinator.clock`."""
        self.server, self.joining = server, False
        self.past.agree(lineage, now_ms)
        self.started_at_ms = self.started_at_ms or now_ms
        self.trust_window.tick(clock.now())
        self.trust_window.renew(sent)
        self.say()

    def arrived(self) -> None:
        """All that this instance owned before is ours again: from now on the answers to its beats count."""
        self._arrived = True
        self.say()

    def agree(self, server: str, lineage: str) -> None:
        """This instance and the store agree on what it owns."""
        self.server = server
        self.past.agree(lineage)
        self.say()

    def present(self, yes: bool) -> None:
        """Its presence connection came or went."""
        self._present = yes
        self.say()

    def is_dead(self, instance: str) -> bool:
        """An answer said that ``instance`` is dead. Returns True if that is this life, and it had not ended before."""
        if instance != self.instance or self.has_left:
            return False
        self.trust_window.over = True
        return True

    # -- its sessions --------------------------------------------------------------------------------------------------

    def keep(self, session: S) -> S | None:
        """A session is ours. Returns the handle that stood here under its id before, if it was another one."""
        before = self.sessions.get(session.id)
        self._ended.pop(session.id, None)
        self.sessions[session.id] = session
        self._mark(session)
        return before if before is not session else None

    def renewed(self, session: S) -> None:
        """A session has another epoch."""
        if self.sessions.get(session.id) is session:
            self._mark(session)

    def _mark(self, session: S) -> None:
        new = mark(session.id, session.epoch)
        self.digest += new - self._marks.get(session.id, 0)
        self._marks[session.id] = new
        self._touch()

    def forget(self, session: S) -> None:
        """A session is not ours any more. Safe to repeat."""
        if self.sessions.get(session.id) is session:
            del self.sessions[session.id]
            self.digest -= self._marks.pop(session.id)
        self._touch()

    def _touch(self) -> None:
        self.version += 1
        self.say()

    @contextlib.contextmanager
    def takes(self, session_id: str) -> Iterator[None]:
        """While a session is being opened or adopted: it takes up room, and is not given up as unknown."""
        self.taking[session_id] += 1
        try:
            yield
        finally:
            self.taking[session_id] -= 1
            if not self.taking[session_id]:
                del self.taking[session_id]

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """While sessions change hands the roll call stays away from the beats."""
        self._changing += 1
        self._touch()
        try:
            yield
        finally:
            self._changing -= 1
            self.say()

    @property
    def is_changing(self) -> bool:
        """Whether a session changes hands just now."""
        return self._changing > 0

    def ends(self, session: S) -> None:
        """The call ended: if the store loses that write, it is closed again and not offered, for ``closed_ttl``."""
        now = clock.now()
        self._ended.pop(session.id, None)
        self._ended[session.id] = session.epoch, now
        while self._ended:
            oldest = next(iter(self._ended))
            if len(self._ended) <= self.ended_remembered and now - self._ended[oldest][1] < self._closed_ttl:
                break
            del self._ended[oldest]

    def ended_here(self, session_id: str, epoch: int) -> bool:
        """Whether the call ended at this instance, under that epoch or a later one."""
        known, _ = self._ended.get(session_id, (-1, 0.0))
        return epoch <= known
