"""The worker's library: `Worker`."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Generic, Literal, Self, Unpack

import anyio
import structlog

from coordinator.logs import configure_structlog
from coordinator.settings import Settings
from coordinator.settings.keywords import WorkerSettings
from coordinator.worker.attached import AttachedSession
from coordinator.worker.data import Data
from coordinator.worker.drain import DrainReport
from coordinator.worker.instance import Instance
from coordinator.worker.offer import Offer
from coordinator.worker.serving import Handler
from coordinator.worker.session import Session

__all__ = ["DrainReport", "Worker"]


class Worker(Generic[Data]):
    """One voice worker: an asynchronous context manager. On leaving it normally what it owns is handed over to others.

    That lasts as long as calls find heirs, at most ``drain_timeout``; without anybody else alive they are offered at once.

    Any task may leave it; one that is never left says farewell when its event loop is cleaned up. An error of its own cancels the task
    that entered it, and is raised in the place of that cancellation. A child that the process forks holds nothing.

    ``Worker[bytes]``, or ``Worker[Call]`` with a typed dictionary, states to a type checker what recovery data its calls carry; its
    sessions and offers are typed with it. Without it the data is `Any`. Nothing is checked by it at run time.

    Args:
        url: the store; default the setting ``REDIS_URL``.
        settings: any setting by its name in lower case, as `WorkerSettings` lists them: ``name``, ``pool``, ``capacity``, ...
            Durations are seconds or texts like ``250ms``. ``encryption_keys`` may also be a `KeyRing`, or a function that
            returns the present one. What is not given comes from the environment, then from the file of COORDINATOR_CONFIG.

    Raises:
        ConfigurationError: one line a fault.
    """

    def __init__(self, url: str | None = None, **settings: Unpack[WorkerSettings]) -> None:
        self.settings = Settings.for_worker(url, **settings)
        if not structlog.is_configured():  # its default would write into the standard output of somebody's program
            configure_structlog(self.settings)
        self._instance = Instance(self.settings)

    @property
    def drained(self) -> anyio.Event:
        """Is set when everything was handed over or offered."""
        return self._instance.drained

    @property
    def name(self) -> str:
        """The stable name."""
        return self.settings.name

    @property
    def id(self) -> str:
        """The instance id (in partition 0)."""
        return self._instance.id

    @property
    def is_draining(self) -> bool:
        """Whether it takes nothing new any more."""
        return self._instance.is_draining

    @property
    def sessions(self) -> tuple[Session[Data], ...]:
        """What this worker owns now."""
        return self._instance.sessions

    async def __aenter__(self) -> Self:
        await self._instance.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._instance.__aexit__(kind, error, traceback)

    async def open(
        self,
        session_id: str,
        recovery_data: Data | Literal[b""] = b"",
        *,
        pool: str | None = None,
        tenant: str = "",
        requires: Sequence[str] = (),
    ) -> Session[Data]:
        """Becomes the first owner of a call; an own session is returned as it is. Safe to repeat.

        An id that is a dead letter is opened anew, as when the same telephone number calls again: the old one keeps its data
        under its epoch (``coordinator dead-letters``).

        Args:
            session_id: 1-256 printable ASCII characters without white space and braces.
            recovery_data: what a worker needs to take the call over: a JSON-able mapping or bytes.
            pool: whose instances may adopt it; default this worker's.
            tenant: whose it is; default this worker's own. Only workers of that tenant, and those bound to none, may adopt it.
            requires: labels that an adopter should have.

        One that is being opened here by somebody else is waited for, and is the same for both; so is an end of the session
        here that has no answer yet, and then it is another call.

        Raises:
            SessionHeldError: another instance owns it, or it waits to be adopted.
            DrainingError: this worker takes nothing new.
            FencedError: this instance was declared dead just now; it starts over by itself.
            TenantError: this worker is bound to another tenant.
            InvalidIdError, InvalidValueError, InvalidDataError, DataTooLargeError: nothing was sent.
            StoreUnavailableError: no answer for two seconds, four where each try hangs. If it was opened all the same, and nobody
                opens it again before, it is offered to others as soon as the store says so; so is one whose opening is cancelled.
        """
        return await self._instance.open(session_id, recovery_data, pool=pool, tenant=tenant, requires=requires)

    def offers(self) -> AsyncIterator[Offer[Data]]:
        """Offers to this worker's pool, as long as it has room; only a few are read before they are answered.

        Whoever has an offer answers it: `Offer.adopt`, `Offer.decline` or `Offer.delegate`. One that has no answer within
        ``lease`` goes to others as a failed attempt; those that the program does not get to go to others as they were.
        """
        return self._instance.offers()

    async def adopt(self, session_id: str, wait: float = 3.0) -> Session[Data] | None:
        """Takes a call whose caller came back here.

        Takes an orphan; awaits the verdict on a silent owner; asks a living one to hand over. Where `serve` runs its handler gets it;
        elsewhere it belongs to the task that adopts it, as with `Offer.adopt`.

        Args:
            wait: seconds; 0 tries once, and asks nobody to hand over.

        Returns:
            The session, or None: unknown, closed, another pool's, or not to be had in time.

        Raises:
            FencedError: this instance was declared dead meanwhile.
            KeyUnknownError: its recovery data is sealed with a key that this worker lacks; it was given back to others, uncounted.
            SealBrokenError: its recovery data does not open, for anybody; it is a dead letter now.
            TenantError: it belongs to another tenant than the one that this worker is bound to.
            InvalidIdError, InvalidValueError: nothing was sent.
            StoreUnavailableError: no answer for two seconds, four where each try hangs.
        """
        return await self._instance.adopt(session_id, wait)

    async def locate(self, session_id: str) -> str | None:
        """The registered address of the session's owner; None when nobody owns it, the owner gave none, or it is another tenant's.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        return await self._instance.locate(session_id)

    async def attach(self, session_id: str, epoch: int) -> AttachedSession:
        """A handle with which a child process writes a session that its parent owns.

        Raises:
            SessionGoneError, FencedError, KeyUnknownError, TenantError, StoreUnavailableError: as `AttachedSession.attach`.
        """
        return await self._instance.attach(session_id, epoch)

    async def certify(
        self, instance: str, reason: str = "", *, cause: Literal["exited", "operator"] = "exited"
    ) -> bool:
        """States that another instance ended, wherever it has this id. Safe to repeat.

        With several partitions a process has an id in each; where this one is not known the process's silence tells its end.

        Returns:
            Whether any partition knew it alive.

        Raises:
            InvalidIdError, InvalidValueError: nothing was sent.
            StoreUnavailableError: the store did not answer.
        """
        return await self._instance.certify(instance, reason, cause=cause)

    async def serve(self, handler: Handler[Data], *, drain_on: Sequence[signal.Signals] = ()) -> None:
        """Runs ``handler`` as a task for each session, opened or adopted, until cancelled, or drained.

        Args:
            handler: serves one call.
            drain_on: signals on which everything is handed over, such as ``[signal.SIGTERM]``; then this returns. Further
                ones change nothing, and are logged with what is left.

        The task is cancelled when the session is lost, or closed or released by another task; the session is closed when the
        handler returns, and released when it raises. A store that does not answer is no failure of a handler: one that ends by
        `StoreUnavailableError`, or in any way while the session is in doubt or an answer is overdue, is started again
        (`Session.starts`, `Session.gap`), and the end of a session is carried out when the store is back. Handlers start at a
        pace at which the event loop turns over, so that what they do at once as they begin does not silence the live calls.
        """
        await self._instance.serve(handler, drain_on=drain_on)

    async def drain(self, timeout: float | None = None, reason: str = "draining") -> DrainReport:
        """Takes nothing new and hands over what it owns, each call while it goes on being served.

        What nobody takes before the time is over is offered to others as orphans. Safe to repeat: one that is under way is
        waited for, with its own time-out, and what it could not move is tried again.

        Args:
            timeout: seconds; default ``drain_timeout``.
            reason: for the events.

        Returns:
            What became of each call. `drained` is set then.

        Raises:
            InvalidValueError: nothing was begun.
        """
        return await self._instance.drain(timeout, reason)
