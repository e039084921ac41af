"""The store of sessions: its interface."""

from __future__ import annotations

import abc
from types import TracebackType
from typing import Literal, Self

from coordinator.sessions.aliases import Alias
from coordinator.sessions.holder import Holder
from coordinator.sessions.state import SessionState

__all__ = ["Replaced", "SessionStore"]

Replaced = Literal["written", "same", "changed"]


class SessionStore(abc.ABC):
    """Where sessions outlive their workers.

    Every method but `close` raises `StoreClosedError` after `close`, and `StoreUnavailableError` when the store does not answer
    as it should: then nothing is known, and what was asked for may have been done. Each is safe to repeat. Ids that cannot be a key
    raise `InvalidStateError`.
    """

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The kind of store: ``memory`` or ``redis``."""

    @abc.abstractmethod
    async def save(self, state: SessionState | None, *, force: bool = False, ttl: float | None = None) -> None:
        """Writes a state, its place among the active ones, and its expiry, in one change.

        Sets ``state.updated_at`` to now, but for a session that was stored as ended: its duration is over. A state that this store
        never gave or took is written over whatever is there, as omnivoice-core does. A state that was loaded or saved before is
        written only if no other program changed the session meanwhile; heartbeats do not count as changes.

        Args:
            state: None does nothing.
            force: write over whatever is there.
            ttl: seconds until it expires, 0 for never; default the store's.

        Raises:
            SessionConflictError: the session was changed, deleted, or expired since it was loaded.
            InvalidStateError: the state has values that cannot be written.
            TenantError: the state belongs to another tenant.
            CorruptSessionError: the session's key or the set of active sessions has a wrong type in Redis.
        """

    @abc.abstractmethod
    async def create(self, state: SessionState, *, limit: int = 0) -> None:
        """Writes a state whose id must be free.

        Args:
            state: what to write.
            limit: most sessions under way, the new one included; 0 for any number.

        Raises:
            SessionExistsError: the id is taken, be it by a session that has ended.
            SessionLimitError: the limit is reached.
            InvalidStateError, TenantError, CorruptSessionError: as `save`.
        """

    @abc.abstractmethod
    async def load(self, session_id: str) -> SessionState:
        """Reads a state; changing it changes nothing in the store.

        Raises:
            SessionNotFoundError: the session does not exist.
            CorruptSessionError: the stored value is not a session (`SealBrokenError`: or not this one).
            KeyUnknownError: the session is sealed with a key that this store lacks.
            PlaintextRefusedError: the session is not sealed, and should be.
        """

    @abc.abstractmethod
    async def delete(self, session_id: str) -> None:
        """Removes a session, and its id from the active ones even if nothing else is left of it.

        Raises:
            SessionNotFoundError: there was nothing to remove.
        """

    @abc.abstractmethod
    async def list_active(self) -> list[str]:
        """Ids of the sessions that are under way, in no order; those that expired or have ended are cleaned up on the way.

        Raises:
            CorruptSessionError: the set of active sessions has a wrong type in Redis.
        """

    @abc.abstractmethod
    async def update_heartbeat(self, session_id: str) -> None:
        """Moves ``updated_at`` and the expiry, and nothing else; never revives what has ended or is gone.

        Raises:
            SessionNotFoundError: the session does not exist.
            SessionEndedError: the session has ended.
            CorruptSessionError: the stored value is not a session.
        """

    @abc.abstractmethod
    async def replace(
        self, old: SessionState, new: SessionState, *, ttl: float | None = None, limit: int = 0
    ) -> Replaced:
        """Writes a state in the place of a loaded one, if that had neither a save nor a heartbeat since.

        ``new.updated_at`` stays as it is.

        Returns:
            ``written``; ``changed`` when it had, and nothing was written; ``same`` when the new state stood there already: it is the
            answer to a repetition, or another program did the same.

        Args:
            old: as it was loaded.
            new: of the same id.
            ttl: seconds until it expires, 0 for never; default the store's.
            limit: most sessions under way, the new one included; 0 for any number. Replacing a session under way adds none.

        Raises:
            SessionLimitError: the limit is reached.
            InvalidStateError, TenantError, CorruptSessionError: as `save`.
        """

    @abc.abstractmethod
    def fenced(self, session: Holder) -> SessionStore:
        """This store as the owner of one session may use it: a worker that lost the session writes nothing any more.

        `save`, `create`, `replace`, `delete` and `update_heartbeat` take that session only, and ask in the same script as the write
        whether the worker owns it still, as the coordinator's record has it: instance, owner, epoch and state. What is read needs
        no right. After lost writes they wait until the owner has stated again what it held, as ``Session.checkpoint`` does, and go
        on under its new epoch. Nothing is sent when it is bound. Closing the view leaves the store open.

        Args:
            session: a `coordinator.Session`, or what ``Worker.attach`` gives; its id is the state's id. It must be in the same
                Redis as this store. A store in memory asks what the session knows of itself (``held``, ``lost``).

        The methods raise beside their own errors:
            FencedError: the worker lost the session, or closed it or gave it up itself; nothing was written. Final. So save for
                the last time before ``session.close()``.
            StoreUnavailableError: also when the session is in doubt for longer than a hold lasts; to be tried again.
            ConfigurationError: the session is not in this store's Redis.
            InvalidStateError: another session's id.

        Raises:
            ConfigurationError: one script cannot see both: on a cluster the prefix needs the hash tag of the session's partition.
                Or the store was made of a client, or its prefix is the coordinator's.
            TenantError: the session belongs to another tenant.
        """

    @abc.abstractmethod
    async def bind(self, alias: Alias, session_id: str) -> None:
        """Lets an alias stand for a session, instead of what it stood for; it expires as a session saved now would."""

    @abc.abstractmethod
    async def resolve(self, alias: Alias) -> str | None:
        """The id that an alias stands for, None for none. The session itself may be gone."""

    @abc.abstractmethod
    async def unbind(self, alias: Alias) -> None:
        """Forgets an alias."""

    @abc.abstractmethod
    async def count(self) -> int:
        """How many sessions are stored, ended ones included; Redis looks through all its keys for that."""

    @abc.abstractmethod
    async def ping(self) -> None:
        """Returns when the store answers."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Ends the use of the store; a second time does nothing."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
