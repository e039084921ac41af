"""Whether this program can work with a server, and with the partition on it."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from coordinator.errors import ConfigurationError, StoreUnavailableError
from coordinator.ids import new_lineage
from coordinator.store import PROTOCOL, calls
from coordinator.store.discovery import run_id_of
from coordinator.store.executor import Executor, StorePartition
from coordinator.store.rights import Program, check_rights
from coordinator.store.shapes import whole

__all__ = ["OLDEST_REDIS", "check_number", "check_partition", "check_server", "prepare"]

log = structlog.get_logger()

OLDEST_REDIS = (6, 2)
BLIND = "lost writes cannot be seen: after a failover or a restore a call may get an older owner"


async def check_partition(part: StorePartition, program: Program, *, without_info: bool) -> None:
    """Checks the program's rights, and the server as `check_server`; all in one round trip. Changes nothing, safe to repeat.

    Raises:
        ConfigurationError: one line with what is missing.
        StoreUnavailableError: the store did not answer.
    """
    looks = check_rights(part.executor, part.keys, program), check_server(part.executor, without_info=without_info)
    first = part.keys.partition == 0
    missing, server = await asyncio.gather(*looks, return_exceptions=True)
    for fault in (missing, server):
        if isinstance(fault, BaseException):
            raise fault
    if not server and first:
        log.warning(
            "lost_writes_unseen", reason="the Redis user may not run INFO, and WITHOUT_INFO is set", consequence=BLIND
        )


async def check_server(executor: Executor, *, without_info: bool) -> bool:
    """Refuses a server that is too old, that deletes keys when its memory is full, or that does not tell its run id.

    Args:
        without_info: accept a server that tells nothing of itself.

    Returns:
        Whether it tells its run id, so that lost writes can be seen.

    Raises:
        ConfigurationError: one sentence with what was found and what is needed.
        StoreUnavailableError: the store did not answer.
    """
    told: dict[str, str] = {}
    why = "INFO tells no run_id"
    answers: list[Any] = await asyncio.gather(
        *(executor.command("INFO", section) for section in ("server", "memory")), return_exceptions=True
    )
    for answer in answers:
        if isinstance(answer, StoreUnavailableError) and answer.kind in ("permission", "unsupported"):
            why = answer.detail
            continue
        if isinstance(answer, BaseException):
            raise answer
        told |= dict(line.split(":", 1) for line in answer.decode(errors="replace").splitlines() if ":" in line)
    sees = bool(not isinstance(answers[0], BaseException) and run_id_of(answers[0]))
    version = told.get("redis_version", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if len(numbers) == 2 and numbers < OLDEST_REDIS and "valkey_version" not in told:
        raise ConfigurationError(f"redis_url: the server is Redis {version}; 6.2 or newer, or Valkey, is needed")
    policy = told.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise ConfigurationError(
            f"redis_url: the server deletes keys when its memory is full (maxmemory-policy {policy}); "
            "sessions of live calls are among them: set maxmemory-policy noeviction"
        )
    if not sees and not without_info:
        raise ConfigurationError(
            f"redis_url: the server does not tell its run id ({why}), so {BLIND}; permit it with ACL SETUSER <user> +info, "
            "or set WITHOUT_INFO=true"
        )
    return sees


async def prepare(part: StorePartition, *, partitions: int, hold: float, previous: str, may_make: bool = True) -> str:
    """Makes the partition, or checks that it was made for this version of the program. Safe to repeat.

    Args:
        partitions: how many this program believes there are.
        hold: length of a hold in seconds.
        previous: the lineage that the caller knew, '' for none.
        may_make: make it where there is none. Partition 0 is made first, and tells whether the number is right: a wrong number
            leaves nothing behind in the others.

    Returns:
        The lineage.

    Raises:
        ConfigurationError: another number of partitions, or a protocol that this program does not speak.
        StoreUnavailableError: the store did not answer, or the partition is not made, and must not be made yet.
    """
    answer = await part.executor.run(
        calls.init(
            part.keys,
            partitions=partitions,
            protocol=PROTOCOL,
            lineage=new_lineage() if may_make else "",
            hold=hold,
            previous=previous,
        )
    )
    match answer:
        case calls.Partitions():
            raise _differs(partitions, answer.partitions)
        case calls.Unmade():
            detail = f"partition {part.keys.partition} is made after partition 0, which has not answered yet"
            raise StoreUnavailableError("try_again", detail, sent=False)
        case calls.Protocol():
            raise ConfigurationError(
                f"the store speaks protocol {answer.protocol}, this program {PROTOCOL} and its neighbours: update it"
            )
        case calls.InitOk():
            return answer.lineage


async def check_number(part: StorePartition, partitions: int) -> None:
    """Compares the number of partitions with the stored one, if there is one; makes nothing.

    Raises:
        ConfigurationError: they differ.
        StoreUnavailableError: the store did not answer.
    """
    stored = await part.executor.command("HGET", part.keys.meta, "partitions")
    if whole(stored, partitions) != partitions:
        raise _differs(partitions, whole(stored))


def _differs(here: int, stored: int) -> ConfigurationError:
    return ConfigurationError(
        f"partitions: {here} is set, but this store was made with {stored}; the number is fixed at first start"
    )
