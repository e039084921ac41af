"""The worker's library: `Worker`."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import Generic, Literal, Self, Unpack

import anyio
import structlog

from coordinator.logs import configure_structlog
from coordinator.settings import Settings
from coordinator.settings.keywords import WorkerSettings
from coordinator.worker.attached import AttachedSession
from coordinator.worker.channel import Channel
from coordinator.worker.data import Data
from coordinator.worker.drain import DrainReport
from coordinator.worker.instance import Instance
from coordinator.worker.offer import Offer
from coordinator.worker.preparing import Prepare
from coordinator.worker.serving import Handler
from coordinator.worker.session import Session

__all__ = ["DrainReport", "Worker"]


class Worker(Generic[Data]):
    """One voice worker: an asynchronous context manager. Leaving it normally hands every session that it owns to other workers.

    The worker waits while sessions still find heirs, at most ``drain_timeout``.
    Where no other worker is alive it offers the sessions at once.

    Any task may leave it. A worker that is never left says farewell when its event loop is cleaned up.
    An error inside the worker cancels the task that entered it, and is raised instead of that cancellation.
    A child that the process forks holds nothing.

    ``Worker[bytes]``, or ``Worker[Call]`` with a typed dictionary, tells a type checker what recovery data the calls carry;
    sessions and offers are typed with it. Without it the data is `Any`. Nothing is checked at run time.

    Args:
        url: the store's URL; default the setting ``REDIS_URL``.
        settings: any setting by its name in lower case, as `WorkerSettings` lists them: ``name``, ``pool``, ``capacity``, ...
            Durations are seconds or texts like ``250ms``. ``encryption_keys`` may also be a `KeyRing`, or a function that
            returns the present one. A setting that is not given comes from the environment, then from the file that
            COORDINATOR_CONFIG names.

    Raises:
        ConfigurationError: one line for each fault.
    """

    def __init__(self, url: str | None = None, **settings: Unpack[WorkerSettings]) -> None:
        self.settings = Settings.for_worker(url, **settings)
        if not structlog.is_configured():  # its default would write to the standard output of the program
            configure_structlog(self.settings)
        self._instance = Instance(self.settings)

    @property
    def drained(self) -> anyio.Event:
        """Is set when everything was handed over or offered."""
        return self._instance.drained

    @property
    def name(self) -> str:
        """The worker's stable name."""
        return self.settings.name

    @property
    def id(self) -> str:
        """The instance id (in partition 0)."""
        return self._instance.id

    @property
    def is_draining(self) -> bool:
        """Whether the worker has stopped taking sessions."""
        return self._instance.is_draining

    @property
    def sessions(self) -> tuple[Session[Data], ...]:
        """The sessions that this worker owns now."""
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
        """Opens a call and becomes its first owner. Returns the session if this worker owns it already. Safe to repeat.

        The id of a dead letter can be opened anew, as when the same telephone number calls again.
        The dead letter keeps its data under its epoch (``coordinator dead-letters``).

        Args:
            session_id: 1-256 printable ASCII characters without white space and braces.
            recovery_data: what another worker needs to take the call over: a JSON-able mapping or bytes.
            pool: the pool whose instances may adopt the session; default this worker's.
            tenant: the tenant that the session belongs to; default this worker's. Only workers of that tenant, and workers
                bound to none, may adopt it.
            requires: the labels that an adopter should have.

        If another task is opening this id here, this call waits and returns the same session. If this worker has closed or released
        the session and that has no answer yet, this call waits for the answer and then opens another call.

        Raises:
            SessionHeldError: another instance owns the session, or the session waits to be adopted.
            DrainingError: this worker takes nothing new.
            FencedError: this instance was declared dead just now; it starts over by itself.
            TenantError: this worker is bound to another tenant.
            InvalidIdError, InvalidValueError, InvalidDataError, DataTooLargeError: nothing was sent.
            StoreUnavailableError: no answer for two seconds, four where each try hangs. The session may have been opened all the
                same. Unless it is opened again before, it is offered to other workers as soon as the store says so. The same
                holds for an opening that is cancelled.
        """
        return await self._instance.open(session_id, recovery_data, pool=pool, tenant=tenant, requires=requires)

    def offers(self) -> AsyncIterator[Offer[Data]]:
        """Yields offers to this worker's pool, as long as it has room. It reads only a few before they are answered.

        The program answers each offer with `Offer.adopt`, `Offer.decline` or `Offer.delegate`. An offer without an answer within
        ``lease`` goes to other workers as a failed attempt. An offer that the program does not get to goes to them unchanged.
        """
        return self._instance.offers()

    async def adopt(self, session_id: str, wait: float = 3.0) -> Session[Data] | None:
        """Takes a call whose caller came back to this worker.

        An orphan is adopted. If the owner is silent, the verdict on it is awaited. A living owner is asked to hand over.
        Where `serve` runs, its handler gets the session. Otherwise the session belongs to the task that adopts it,
        as with `Offer.adopt`.

        Args:
            wait: seconds; 0 tries once, and asks no owner to hand over.

        Returns:
            The session, or None: unknown, closed, another pool's, or not available in time.

        Raises:
            FencedError: this instance was declared dead meanwhile.
            KeyUnknownError: its recovery data is sealed with a key that this worker lacks. The session was given back for other
                workers; no attempt is counted.
            SealBrokenError: no worker can open its recovery data; the session is a dead letter now.
            TenantError: the session belongs to another tenant than this worker.
            InvalidIdError, InvalidValueError: nothing was sent.
            StoreUnavailableError: no answer for two seconds, four where each try hangs.
        """
        return await self._instance.adopt(session_id, wait)

    async def receive(
        self,
        session_id: str,
        recovery_data: Data | Literal[b""] = b"",
        wait: float = 3.0,
        *,
        pool: str | None = None,
        tenant: str = "",
        requires: Sequence[str] = (),
    ) -> Session[Data] | None:
        """Takes a call that has come to this worker: opens it, or adopts it where it exists already. Safe to repeat.

        It is for callers that find their worker themselves, as when a provider's websocket is opened again after a worker died.
        `Session.recovered` tells the two apart: a call that was adopted has the data of the worker before, not what is given here.

        Args:
            recovery_data: as `open`, for a call that is opened.
            wait: as `adopt`, for a call that exists; 0 tries once, and asks no owner to hand over.
            pool, tenant, requires: as `open`.

        Returns:
            The session, or None: another worker has it and keeps it, or another pool's workers do.

        Raises:
            As `open`, but for SessionHeldError, and as `adopt`.
        """
        return await self._instance.receive(
            session_id, recovery_data, wait, pool=pool, tenant=tenant, requires=requires
        )

    async def locate(self, session_id: str) -> str | None:
        """Returns the address that the session's owner registered.

        None when the session has no owner, belongs to another tenant, or its owner registered no address.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        return await self._instance.locate(session_id)

    async def attach(self, session_id: str, epoch: int) -> AttachedSession:
        """Returns a handle with which a child process writes a session that its parent process owns.

        Raises:
            SessionGoneError, FencedError, KeyUnknownError, TenantError, StoreUnavailableError: as `AttachedSession.attach`.
        """
        return await self._instance.attach(session_id, epoch)

    async def channel(self) -> Channel:
        """Returns this worker's channel to its child processes, which is made by the first call. Safe to repeat.

        Any process of this user that knows its ``address`` serves a call that this worker owns, without Redis, with
        ``async with coordinator.ChildSession(address, session_id) as session``. The call is offered to other workers when that process
        ends, or stands still for ``wedged_after``.

        Raises:
            ConfigurationError: no socket can be made in the directory for temporary files.
            CoordinatorError: this worker was not entered yet.
        """
        return await self._instance.channel()

    async def certify(
        self, instance: str, reason: str = "", *, cause: Literal["exited", "operator"] = "exited"
    ) -> bool:
        """States that another instance has ended, in every partition that knows this id. Safe to repeat.

        With several partitions a process has an id in each. A partition that does not know this id learns of the end by the
        process's silence.

        Returns:
            Whether any partition knew it as alive.

        Raises:
            InvalidIdError, InvalidValueError: nothing was sent.
            StoreUnavailableError: the store did not answer.
        """
        return await self._instance.certify(instance, reason, cause=cause)

    async def serve(
        self,
        handler: Handler[Data],
        *,
        prepare: Prepare[Data] | None = None,
        prepare_timeout: float | None = None,
        ready: int | Callable[[], int] | None = None,
        drain_on: Sequence[signal.Signals] = (),
    ) -> None:
        """Runs ``handler`` as a task for each session that is opened or adopted, until it is cancelled or the worker has drained.

        Args:
            handler: serves one call.
            prepare: is called with each offer before it is adopted, to join the call's room silently or to warm up; an async
                function, or one that returns an async context manager, which is left when the call is over here or was not
                adopted. What it returns, or enters as, is `Session.prepared`. In a handover the owner serves the call meanwhile.
                An offer for which it raises goes to other workers, as an attempt that failed.
            prepare_timeout: seconds after which such an offer goes on, too; default ``lease``, which is the most in a handover.
            ready: how many calls the program can begin with at this moment, or a function that returns that: so many offers
                are taken at a time, and for 0 none. Default: as many as are answered quickly, 16 at most.
            drain_on: signals that start a drain, such as ``[signal.SIGTERM]``; after the drain this method returns. Further
                signals change nothing, and are logged with what is left.

        Raises:
            InvalidValueError: an argument is invalid; nothing was begun.

        The task is cancelled when the session is lost, or when another task closes or releases it. The session is closed when
        the handler returns, and released when the handler raises.

        A store that does not answer is no failure of a handler. A handler is started again (`Session.starts`, `Session.gap`)
        when it ends by `StoreUnavailableError`, or in any way while the session is in doubt or an answer is overdue. The end of
        a session is carried out when the store is back. Handlers start at a pace that leaves the event loop time for the
        live calls.
        """
        await self._instance.serve(
            handler, prepare=prepare, prepare_timeout=prepare_timeout, ready=ready, drain_on=drain_on
        )

    async def drain(self, timeout: float | None = None, reason: str = "draining") -> DrainReport:
        """Takes nothing new and hands over every session, while each call goes on being served. Safe to repeat.

        What no worker takes before the time is over is offered as orphans. A second call waits for the drain that is under way,
        with a time-out of its own, and tries again what could not be moved.

        Args:
            timeout: seconds; default ``drain_timeout``.
            reason: for the events.

        Returns:
            What became of each call. `drained` is set when this returns.

        Raises:
            InvalidValueError: invalid argument; the drain has not begun.
        """
        return await self._instance.drain(timeout, reason)
