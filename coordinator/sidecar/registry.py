"""The workers that a sidecar stands for: registered, found again, ended."""

from __future__ import annotations

import hmac
import json
from collections import OrderedDict
from http import HTTPStatus

import anyio
import anyio.abc
import structlog
from prometheus_client import Counter

from coordinator.errors import NameInUseError
from coordinator.ids import name_of
from coordinator.settings import Settings
from coordinator.sidecar.hosted import LETS_GO, Hosted, hash_of
from coordinator.sidecar.problems import Problem
from coordinator.sidecar.wire import Register
from coordinator.worker.hub import Hubs

__all__ = ["Registry"]

log = structlog.get_logger()

MOST_WORKERS = 10_000
REMEMBERED = 1000
"""Workers that ended, whose names in a URL are answered with the reason."""


class Registry:
    """Workers by the instance id under which they registered.

    Args:
        hubs: of all partitions.
        tasks: in which workers live.
        failures: counts what nobody meant.
    """

    def __init__(self, settings: Settings, hubs: Hubs, tasks: anyio.abc.TaskGroup, failures: Counter) -> None:
        self._failures = failures
        self._settings, self._hubs, self._tasks = settings, hubs, tasks
        self._living: dict[str, Hosted] = {}
        self._ended: OrderedDict[str, str] = OrderedDict()
        self._resuming: set[str] = set()
        self.closing = False

    @property
    def workers(self) -> list[Hosted]:
        """Those that live."""
        return list(self._living.values())

    async def register(self, asked: Register, *, proven: bool = False) -> Hosted:
        """A new worker.

        Args:
            asked: what it says of itself.
            proven: the caller watches its process, and says when it ends.

        Raises:
            Problem: too many, or the sidecar ends.
            NameInUseError: another live worker has the name.
            ConfigurationError: its process is not to be seen.
            StoreUnavailableError: the store did not answer.
        """
        self._refuse_when_closing()
        if len(self._living) >= MOST_WORKERS:
            raise Problem(HTTPStatus.TOO_MANY_REQUESTS, f"there are {MOST_WORKERS} workers here already")
        for hosted in self._living.values():
            if hosted.asked.name == asked.name and hosted.is_proven:
                raise NameInUseError(asked.name, hosted.handle)
        return await self._start(Hosted(self._settings, self._hubs, asked, proven=proven))

    def _refuse_when_closing(self) -> None:
        if self.closing:
            raise Problem(HTTPStatus.SERVICE_UNAVAILABLE, "the sidecar ends", headers={"Retry-After": "1"})

    async def _start(self, hosted: Hosted) -> Hosted:
        await self._tasks.start(self._live, hosted)
        return hosted

    async def _live(self, hosted: Hosted, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        def started() -> None:
            self._living[hosted.handle] = hosted
            task_status.started()

        try:
            await hosted.run(started)
        except Exception as error:
            if hosted.handle not in self._living:
                raise
            self._failures.labels("worker").inc()  # the others live on
            log.exception("worker_failed", instance=hosted.handle, error=repr(error))
        finally:
            if self._living.pop(hosted.handle, None) is not None:
                self._ended[hosted.handle] = hosted.ended
                while len(self._ended) > REMEMBERED:
                    self._ended.popitem(last=False)

    def by_token(self, token: str | None) -> Hosted:
        """The worker that asks; without a token the only one that there is.

        Raises:
            Problem: 401.
        """
        if token is None:
            if len(self._living) == 1:
                return next(iter(self._living.values()))
            raise Problem(
                HTTPStatus.UNAUTHORIZED, f"{len(self._living)} workers are registered: say which in Worker-Token",
                headers={"WWW-Authenticate": "Worker-Token"},
            )  # fmt: skip
        for hosted in self._living.values():
            if hosted.knows(token):
                return hosted
        raise Problem(
            HTTPStatus.UNAUTHORIZED,
            "no worker that lives here has that Worker-Token",
            headers={"WWW-Authenticate": "Worker-Token"},
        )

    def by_handle(self, handle: str, token: str | None) -> Hosted:
        """The worker that a URL names.

        Raises:
            Problem: 404, 410 for one that ended, 401 for another's token.
        """
        hosted = self._living.get(handle)
        if hosted is None:
            if handle in self._ended:
                raise Problem(HTTPStatus.GONE, f"{handle} has ended: {self._ended[handle]}")
            raise Problem(HTTPStatus.NOT_FOUND, f"{handle} is not registered here")
        if token is not None and not hosted.knows(token):
            raise Problem(HTTPStatus.UNAUTHORIZED, f"that Worker-Token is not the one of {handle}")
        return hosted

    async def attach(self, handle: str, token: str | None) -> Hosted:
        """The same, and a worker that another sidecar stood for, such as this one before it was started again.

        Raises:
            Problem: as `by_handle`; 503 when the sidecar ends.
            StoreUnavailableError: the store did not answer.
        """
        if handle in self._living or handle in self._ended or token is None:
            return self.by_handle(handle, token)
        self._refuse_when_closing()
        if handle in self._resuming:
            raise Problem(HTTPStatus.CONFLICT, f"{handle} is being attached just now")
        self._resuming.add(handle)
        try:
            instances, asked = await self._look_up(handle, token)
            return await self._start(Hosted(self._settings, self._hubs, asked, token, instances))
        finally:
            self._resuming.discard(handle)

    async def _look_up(self, handle: str, token: str) -> tuple[dict[int, str], Register]:
        """Its ids in all partitions, and what it said of itself when it registered."""
        name = name_of(handle)
        fields = ("state", "cause", "token_hash", "pool", "capacity", "labels", "address")
        instances: dict[int, str] = {}
        asked: Register | None = None
        for number, part in enumerate(hub.part for hub in self._hubs.hubs):
            raw = await part.executor.command("HGET", part.keys.names, name)
            instance = raw.decode() if raw else ""
            texts = [
                (v or b"").decode() for v in await part.executor.command("HMGET", part.keys.instance(instance), *fields)
            ]
            found = dict(zip(fields, texts, strict=True))
            ours = hmac.compare_digest(found["token_hash"], hash_of(token))
            if number == 0:
                if instance != handle or not found["state"]:
                    raise Problem(HTTPStatus.NOT_FOUND, f"{handle} is not registered here")
                if not ours:
                    raise Problem(HTTPStatus.UNAUTHORIZED, f"that Worker-Token is not the one of {handle}")
                if found["state"] == "dead":
                    raise Problem(HTTPStatus.GONE, f"{handle} was declared dead ({found['cause']})")
                asked = Register.model_validate(
                    {
                        "name": name, "pool": found["pool"], "capacity": int(found["capacity"] or 0),
                        "labels": json.loads(found["labels"] or "{}"), "address": found["address"],
                        "lets_go": token.endswith(LETS_GO),
                    }
                )  # fmt: skip
            if ours and found["state"] != "dead":
                instances[number] = instance
        assert asked is not None  # noqa: S101 - there is a partition 0
        return instances, asked
