"""The channel on which an instance is told things at once.

``ask <session> <heir>``: an heir waits; ``yours <session>``: its owner let go; ``drain <instance>``: hand over what you own;
``stop <session>``: its owner gives it away while a child here writes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import anyio

from coordinator.store.keys import Keys
from coordinator.worker.notifications import Notifications

__all__ = ["Mailbox", "Told"]


class Told(Protocol):
    """The part that acts on what the mailbox is told."""

    def heir_asks(self, session_id: str, heir: str) -> None:
        """An heir waits for a session that this instance owns."""

    def unawaited(self, session_id: str) -> None:
        """An owner let go to this instance when nothing here waited any more."""

    def stop(self, session_id: str) -> None:
        """The owner of a session gives away what this process writes for it."""

    def told_to_drain(self) -> None:
        """The instance is told to hand over what it owns."""


class Mailbox:
    """One per membership. A listener on its channel is the instance's presence: a coordinator that misses beats asks for it.

    Args:
        post: the connection.
        told: acts on what it is told.
        changed: is called when the listening on the channel begins or ends.

    Attributes:
        subscribed: whether the channel is listened to.
    """

    def __init__(self, post: Notifications, keys: Keys, told: Told, changed: Callable[[bool], None]) -> None:
        self._post, self._keys, self._told, self._changed = post, keys, told, changed
        self._waiting: dict[str, anyio.Event] = {}
        self._channel = ""
        self.subscribed = False

    def open(self, instance: str) -> None:
        """Listens on the channel of that instance, and on no other."""
        self.close()
        self._channel = self._keys.mailbox(instance)
        self._post.add(self._channel, self)

    def close(self) -> None:
        """Listens no more. Safe to repeat."""
        if self._channel:
            self._post.remove(self._channel)
            self._channel = ""

    def listening(self, yes: bool) -> None:
        """The connection came or went."""
        if self.subscribed != yes:
            self.subscribed = yes
            self._changed(yes)

    def doubt(self) -> None:
        """A beat failed: the connection may be gone too."""
        self._post.doubt()

    def missing(self) -> None:
        """The store knows no listener, although we said that we listen."""
        if self._channel:
            self._post.missing(self._channel)

    def wait_for(self, session_id: str) -> anyio.Event:
        """Returns an event that is set when the session has become ours, from now on."""
        event = self._waiting.get(session_id)
        if event is None or event.is_set():
            event = self._waiting[session_id] = anyio.Event()
        return event

    def done_waiting(self, session_id: str) -> None:
        """Nothing here waits for the session any more."""
        self._waiting.pop(session_id, None)

    def take(self, text: str) -> None:
        """A message."""
        what, _, rest = text.partition(" ")
        session_id, _, heir = rest.partition(" ")
        match what:
            case "yours" if session_id in self._waiting:
                self._waiting[session_id].set()
            case "yours":  # the task that asked has gone away meanwhile
                self._told.unawaited(session_id)
            case "ask":
                self._told.heir_asks(session_id, heir)
            case "stop":
                self._told.stop(session_id)
            case "drain":
                self._told.told_to_drain()
