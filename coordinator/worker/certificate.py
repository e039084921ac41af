"""States that an instance has ended: for a worker, and for a program that saw the exit and is no worker itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal, Unpack

from coordinator.bounds import check_instance, check_reason, check_word
from coordinator.eventloop import check_event_loop
from coordinator.settings import Settings
from coordinator.settings.keywords import WorkerSettings
from coordinator.store import calls
from coordinator.store.connect import Connector
from coordinator.store.executor import StorePartition
from coordinator.store.keys import Keys

__all__ = ["certify", "certify_everywhere"]

CAUSES: tuple[Literal["exited", "operator"], ...] = ("exited", "operator")


async def certify_everywhere(
    parts: Sequence[StorePartition], instance: str, reason: str, *, cause: Literal["exited", "operator"], by: str
) -> bool:
    """States the end in every partition at the same time, so that one that does not answer delays no other. Safe to repeat.

    Args:
        by: who says so.

    Returns:
        Whether any partition knew the instance as alive.

    Raises:
        InvalidIdError, InvalidValueError: nothing was sent.
        StoreUnavailableError: a partition did not answer; all others were told.
    """
    instance, reason, cause = check_instance(instance), check_reason(reason), check_word("cause", cause, CAUSES)
    answers = await asyncio.gather(
        *(
            part.executor.run(calls.certify(part.keys, instance=instance, cause=cause, by=by, reason=reason))
            for part in parts
        ),
        return_exceptions=True,
    )
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return any(isinstance(answer, calls.CertifyOk) for answer in answers)


async def certify(
    instance: str,
    reason: str = "",
    *,
    cause: Literal["exited", "operator"] = "exited",
    url: str | None = None,
    **settings: Unpack[WorkerSettings],
) -> bool:
    """States that an instance has ended, in every partition that knows its id: for a program that saw it end. Safe to repeat.

    It cannot be undone: a living instance is fenced by it. A worker uses `Worker.certify` over the connections that it has.

    Args:
        instance: the instance's id, as `Worker.id` tells it.
        reason: how it ended, for the record and the events.
        url: the store's URL; default the setting ``REDIS_URL``.
        settings: as of `Worker`: the store's, and ``name``, which signs.

    Returns:
        Whether any partition knew it as alive.

    Raises:
        ConfigurationError: one line for each fault of the settings.
        InvalidIdError, InvalidValueError: nothing was sent.
        StoreUnavailableError: a partition did not answer; all others were told.
    """
    check_event_loop("certify")
    of = Settings.for_worker(url, **settings)
    connector = Connector(of.current_url, store_timeout=of.store_timeout, durability=of.replicated)
    try:
        parts = [
            StorePartition(keys, connector.executor(keys.tag))
            for keys in (Keys(of.prefix, number) for number in range(of.partitions))
        ]
        return await certify_everywhere(parts, instance, reason, cause=cause, by=of.name)
    finally:
        await connector.aclose()
