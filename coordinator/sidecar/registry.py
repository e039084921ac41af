"""The workers that a sidecar stands for: registered, found again, ended."""

from __future__ import annotations

import hmac
import os
from collections import OrderedDict
from http import HTTPStatus
from pathlib import Path

import anyio
import anyio.abc
import structlog
from prometheus_client import Counter

from coordinator.errors import CoordinatorError, NameInUseError, StoreUnavailableError
from coordinator.ids import name_of
from coordinator.printable import told, trace
from coordinator.settings import Settings
from coordinator.sidecar.hosted import Hosted, hash_of
from coordinator.sidecar.hosting import Hosting
from coordinator.sidecar.problems import Problem
from coordinator.sidecar.proof import ProcessEndedError
from coordinator.sidecar.schemas import Register
from coordinator.states import InstanceState
from coordinator.store import lookups
from coordinator.store.shapes import labels_of, whole
from coordinator.worker.runtime import WorkerRuntime

__all__ = ["Registry"]

log = structlog.get_logger()

MOST_WORKERS = 10_000
RETRY_SECONDS = 0.2
REMEMBERED = 1000
"""Most ended workers whose ids in a URL are answered with the reason of the end."""


class Registry:
    """Workers by the instance id under which they registered.

    Args:
        runtime: of all partitions.
        tasks: run the workers.
        failures: counts unexpected errors.
        addresses: the addresses on which this sidecar listens, see `hosting.addresses_of`.
    """

    def __init__(
        self,
        settings: Settings,
        runtime: WorkerRuntime,
        tasks: anyio.abc.TaskGroup,
        failures: Counter,
        addresses: tuple[str, ...] = (),
    ) -> None:
        self._failures = failures
        self._settings, self._runtime, self._tasks, self._addresses = settings, runtime, tasks, addresses
        self._living: dict[str, Hosted] = {}
        self._by_token_hash: dict[str, Hosted] = {}
        self._ended: OrderedDict[str, str] = OrderedDict()
        self._resuming: dict[str, anyio.Event] = {}
        self._awaited: dict[str, str] = {}
        self._looked_back = anyio.Event()
        if not addresses:
            self._looked_back.set()
        self.closing = False

    @property
    def workers(self) -> list[Hosted]:
        """The workers that live."""
        return list(self._living.values())

    # -- new ones ------------------------------------------------------------------------------------------------------

    async def register(self, asked: Register, *, proven: bool = False, by_user: int | None = None) -> Hosted:
        """Registers a new worker.

        Args:
            asked: what the worker says of itself.
            proven: the caller watches the worker's process, and reports its end.
            by_user: the user that made the request, by the kernel's word; None when that is unknown.

        Raises:
            Problem: there are too many, this sidecar is bound to another tenant, or the sidecar ends.
            NameInUseError: another live worker has the name.
            ConfigurationError: the sidecar cannot see its process.
            StoreUnavailableError: the store did not answer.
        """
        self._refuse_when_closing()
        if len(self._living) >= MOST_WORKERS:
            raise Problem(HTTPStatus.TOO_MANY_REQUESTS, f"there are {MOST_WORKERS} workers here already")
        bound = self._settings.tenant
        if bound and asked.tenant not in ("", bound):
            raise Problem(HTTPStatus.FORBIDDEN, f"this sidecar is bound to another tenant than {asked.tenant!r}")
        for hosted in self.workers:
            if hosted.asked.name == asked.name and hosted.is_proven:
                if not (hosted.never_had_its_token(asked.pid) and _may_speak_for(asked.pid, by_user)):
                    raise NameInUseError(asked.name, hosted.handle)
                await hosted.withdraw("its process registers again")
        return await self._start(Hosted(self._settings, self._runtime, asked, proven=proven, addresses=self._addresses))

    def _refuse_when_closing(self) -> None:
        if self.closing:
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "the sidecar was drained and takes no worker in: start it again",
                headers={"Retry-After": "1"},
            )

    async def _start(self, hosted: Hosted) -> Hosted:
        await self._tasks.start(self._live, hosted)
        return hosted

    async def _live(self, hosted: Hosted, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        def started() -> None:
            self._living[hosted.handle] = self._by_token_hash[hosted.token_hash] = hosted
            self._awaited.pop(hosted.token_hash, None)
            task_status.started()

        try:
            await hosted.run(started)
        except Exception as error:
            if hosted.handle not in self._living:
                raise
            self._failures.labels("worker").inc()  # the others live on
            log.error("worker_failed", instance=hosted.handle, error=told(error), exception=trace(error))
        finally:
            if self._living.pop(hosted.handle, None) is not None:
                self._by_token_hash.pop(hosted.token_hash, None)
                self._remember(hosted.handle, hosted.ended)

    def _remember(self, handle: str, reason: str) -> None:
        self._ended[handle] = reason
        while len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)

    # -- the caller ----------------------------------------------------------------------------------------------------

    async def by_token(self, token: str | None) -> Hosted:
        """The worker that asks; without a token the only worker, where that is allowed.

        A worker of the sidecar before this one is taken up by its first request.

        Raises:
            Problem: 401, and as `attach`.
            StoreUnavailableError: the store did not answer.
        """
        if token is None:
            if self._settings.worker_token_optional and len(self._living) == 1:
                return next(iter(self._living.values())).asks()
            self._refuse_while_looking_back()
            raise self._token_needed()
        hosted = self._by_token_hash.get(hash_of(token))
        if hosted is not None and hosted.knows(token):
            return hosted
        handle = self._awaited.get(hash_of(token))
        if handle is not None:
            return await self.attach(handle, token)
        self._refuse_while_looking_back()
        raise Problem(
            HTTPStatus.UNAUTHORIZED,
            "no worker that lives here has that Worker-Token",
            headers={"WWW-Authenticate": "Worker-Token"},
        )

    def by_handle(self, handle: str, token: str | None) -> Hosted:
        """The worker that a URL names, if this is its token; without a token the only worker, where that is allowed.

        Raises:
            Problem: 404, 410 for a worker that ended, 401 without a token or with an unknown one, 403 with another worker's; 503
                while the workers of the sidecar before are not known yet.
        """
        if token is None and not self._settings.worker_token_optional:
            self._refuse_while_looking_back()
            raise self._token_needed()
        hosted = self.living(handle)
        if token is None and len(self._living) > 1:
            raise self._token_needed()
        if token is not None and not hosted.knows(token):
            status = HTTPStatus.FORBIDDEN if hash_of(token) in self._by_token_hash else HTTPStatus.UNAUTHORIZED
            raise Problem(
                status, f"that Worker-Token is not the one of {handle}", headers={"WWW-Authenticate": "Worker-Token"}
            )
        return hosted.asks()

    def living(self, handle: str) -> Hosted:
        """The worker that a URL names, for an administrator.

        Raises:
            Problem: 404, 410 for a worker that ended; 503 while the workers of the sidecar before are not known yet.
        """
        hosted = self._living.get(handle)
        if hosted is None:
            if handle in self._ended:
                raise Problem(HTTPStatus.GONE, f"{handle} has ended: {self._ended[handle]}")
            self._refuse_while_looking_back()
            raise Problem(HTTPStatus.NOT_FOUND, f"{handle} is not registered here")
        return hosted

    def is_known(self, token: str) -> bool:
        """Whether that is the token of a worker that lives here or is expected here."""
        token_hash = hash_of(token)
        return token_hash in self._by_token_hash or token_hash in self._awaited

    def _token_needed(self) -> Problem:
        reason = "show the worker's token in Worker-Token; the answer to its registration has it"
        if self._settings.worker_token_optional:
            reason = f"{len(self._living)} workers are registered: show the token of one in Worker-Token"
        return Problem(HTTPStatus.UNAUTHORIZED, reason, headers={"WWW-Authenticate": "Worker-Token"})

    async def attached(self, handle: str, token: str | None) -> Hosted:
        """As `by_handle`, also for a worker of the sidecar before this one.

        Raises:
            Problem: as `by_handle` and `attach`.
            StoreUnavailableError: the store did not answer.
        """
        if token is not None and self._awaited.get(hash_of(token)) == handle:
            return await self.attach(handle, token)
        return self.by_handle(handle, token)

    async def attach(self, handle: str, token: str | None) -> Hosted:
        """As `by_handle`, also for a worker that another sidecar stood for, such as this one before it was started again.

        Raises:
            Problem: as `by_handle`; 503 when the sidecar ends.
            StoreUnavailableError: the store did not answer.
        """
        if token is not None and handle not in self._living and handle not in self._ended:
            await self.resume(handle, hash_of(token))
        return self.by_handle(handle, token)

    # -- those of the sidecar before -----------------------------------------------------------------------------------

    def looked_back(self) -> None:
        """All workers whose sidecar listened here before are expected by now: any other worker is a stranger."""
        self._looked_back.set()

    async def all_taken_up(self) -> None:
        """Returns when every living worker whose sidecar listened here before has been taken up."""
        await self._looked_back.wait()
        async with anyio.create_task_group() as tasks:
            for token_hash, handle in list(self._awaited.items()):
                tasks.start_soon(self._take_up, handle, token_hash)

    async def _take_up(self, handle: str, token_hash: str) -> None:
        while True:
            try:
                await self.resume(handle, token_hash, closing=True)
            except StoreUnavailableError:
                await anyio.sleep(RETRY_SECONDS)
                continue
            except (Problem, CoordinatorError, ProcessEndedError) as error:
                log.warning("worker_not_taken_up", instance=handle, reason=str(error))
            except Exception as error:  # noqa: BLE001 - the others are handed over
                self._failures.labels("take_up").inc()
                log.error("worker_not_taken_up", instance=handle, error=told(error), exception=trace(error))
            return

    def _refuse_while_looking_back(self) -> None:
        if not self._looked_back.is_set():
            reason = "the sidecar was just started, and still looks for the workers of the one before"
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, reason, headers={"Retry-After": "1"})

    def expect(self, handle: str, token_hash: str) -> None:
        """Expects a worker whose sidecar listened here before: its first request takes it up."""
        self._awaited[token_hash] = handle

    def missed(self, handle: str, token_hash: str, reason: str) -> None:
        """A worker ended before it was taken up."""
        self._awaited.pop(token_hash, None)
        self._remember(handle, reason)

    async def resume(self, handle: str, token_hash: str, *, closing: bool = False) -> None:
        """Goes on with a worker that lives under this id already; does nothing when it was taken up already.

        Args:
            closing: go on also when the sidecar ends, so that its calls are handed over.

        Raises:
            Problem: the worker is unknown, has another token or is dead; 503 when the sidecar ends.
            ProcessEndedError: its process has ended.
            ConfigurationError, StoreUnavailableError: the worker could not be taken up.
        """
        while (resuming := self._resuming.get(handle)) is not None:
            await resuming.wait()
        if handle in self._living or handle in self._ended:
            return
        if not closing:
            self._refuse_when_closing()
        self._resuming[handle] = done = anyio.Event()
        try:
            instances, (asked, hosting) = await self.look_up(handle, token_hash)
            await self._start(
                Hosted(
                    self._settings, self._runtime, asked, instances=instances, token_hash=token_hash, process=hosting.process,
                    addresses=self._addresses,
                )
            )  # fmt: skip
        finally:
            del self._resuming[handle]
            done.set()

    async def look_up(self, handle: str, token_hash: str) -> tuple[dict[int, str], tuple[Register, Hosting]]:
        """Its ids in all partitions, what it said of itself when it registered, and how it was watched.

        Raises:
            Problem: 404, 401 for another worker's token, 410 when the worker is dead.
            StoreUnavailableError: the store did not answer.
        """
        name = name_of(handle)
        fields = ("state", "cause", "token_hash", "pool", "capacity", "labels", "address", "tenant", "hosting")
        instances: dict[int, str] = {}
        asked: tuple[Register, Hosting] | None = None
        for number, part in enumerate(partition.part for partition in self._runtime.partitions):
            instance = await lookups.newest_of(part, name)
            found = await lookups.said_by(part, instance, *fields) or dict.fromkeys(fields, "")
            ours = hmac.compare_digest(found["token_hash"], token_hash)
            if number == 0:
                if instance != handle or not found["state"]:
                    raise Problem(HTTPStatus.NOT_FOUND, f"{handle} is not registered here")
                if not ours:
                    raise Problem(HTTPStatus.UNAUTHORIZED, f"that Worker-Token is not the one of {handle}")
                if found["state"] == InstanceState.DEAD:
                    raise Problem(HTTPStatus.GONE, f"{handle} was declared dead ({found['cause']})")
                asked = _asked(name, found)
            if ours and found["state"] != InstanceState.DEAD:
                instances[number] = instance
        assert asked is not None  # noqa: S101 - there is a partition 0
        return instances, asked


def _asked(name: str, found: dict[str, str]) -> tuple[Register, Hosting]:
    hosting = Hosting.parse(found["hosting"]).seen_from_here()
    register = Register.model_validate(
        {
            "name": name, "pool": found["pool"], "capacity": whole(found["capacity"].encode()),
            "labels": labels_of(found["labels"].encode()), "address": found["address"], "tenant": found["tenant"],
            "lets_go": hosting.lets_go,
            "stream_end": hosting.stream_end,
            "pid": None if hosting.process is None else hosting.process.pid,
        }
    )  # fmt: skip
    register.health = hosting.health
    return register, hosting


def _may_speak_for(pid: int | None, user: int | None) -> bool:
    """Whether that user owns the process, or this sidecar. Any other user may know its number and its name."""
    if pid is None or user is None:
        return False
    try:
        owner = Path(f"/proc/{pid}").stat().st_uid
    except OSError:
        return False
    return user in (owner, os.geteuid())
