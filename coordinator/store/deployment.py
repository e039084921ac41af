"""Whether a server, and the partition on it, are ones that this program can work with."""

from __future__ import annotations

from coordinator.errors import ConfigurationError, StoreUnavailableError
from coordinator.ids import new_lineage
from coordinator.store import PROTOCOL, calls
from coordinator.store.executor import Executor, StorePartition

__all__ = ["OLDEST_REDIS", "check_server", "prepare"]

OLDEST_REDIS = (6, 2)


async def check_server(executor: Executor) -> None:
    """Refuses a server that is too old, or that deletes keys when its memory is full.

    A server that does not tell (INFO is not permitted) is taken as it is. Safe to repeat.

    Raises:
        ConfigurationError: one sentence with what was found and what is needed.
        StoreUnavailableError: the store did not answer.
    """
    told: dict[str, str] = {}
    for section in ("server", "memory"):
        try:
            text = await executor.command("INFO", section)
        except StoreUnavailableError as error:
            if error.kind in ("permission", "unsupported"):
                continue
            raise
        told |= dict(line.split(":", 1) for line in text.decode(errors="replace").splitlines() if ":" in line)
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


async def prepare(part: StorePartition, *, partitions: int, hold_ms: int, previous: str) -> str:
    """Makes the partition, or checks that it was made for a program like this. Safe to repeat.

    Args:
        partitions: how many this program believes there are.
        hold_ms: length of a hold.
        previous: the lineage that the caller knew, '' for none.

    Returns:
        The lineage.

    Raises:
        ConfigurationError: another number of partitions, or a protocol that this program does not speak.
        StoreUnavailableError: the store did not answer.
    """
    answer = await part.executor.run(
        calls.init(
            part.keys,
            partitions=partitions,
            protocol=PROTOCOL,
            lineage=new_lineage(),
            hold_ms=hold_ms,
            previous=previous,
        )
    )
    if answer.word == "PARTITIONS":
        raise ConfigurationError(
            f"partitions: {partitions} is set, but this store was made with {answer.int('partitions')}; "
            "the number is fixed at first start"
        )
    if answer.word == "PROTOCOL":
        raise ConfigurationError(
            f"the store speaks protocol {answer.int('protocol')}, this program {PROTOCOL} and its neighbours: update it"
        )
    return answer.text("lineage")
