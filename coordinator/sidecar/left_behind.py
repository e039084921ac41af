"""The workers of the sidecar that listened here before this one, when they outlived it."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import structlog
from prometheus_client import Counter

from coordinator.errors import CoordinatorError, StoreUnavailableError
from coordinator.printable import told, trace
from coordinator.sidecar.hosting import Hosting
from coordinator.sidecar.problems import Problem
from coordinator.sidecar.proof import ProcessEndedError
from coordinator.sidecar.registry import Registry
from coordinator.states import InstanceState
from coordinator.store import calls, lookups
from coordinator.store.executor import StorePartition

__all__ = ["LeftBehind"]

log = structlog.get_logger()

RETRY_SECONDS = 0.2
AT_ONCE = 8
"""Workers that are taken up side by side."""


class LeftBehind:
    """Finds these workers in the store, and goes on with them.

    Args:
        parts: all partitions.
        addresses: where this sidecar listens; a worker that is found by one of them is its own (see `hosting.addresses_of`).
        by: the name that signs certificates.
        failures: counts unexpected errors.
    """

    def __init__(
        self,
        registry: Registry,
        parts: Sequence[StorePartition],
        addresses: tuple[str, ...],
        by: str,
        failures: Counter,
    ) -> None:
        self._registry, self._parts, self._addresses = registry, parts, addresses
        self._by, self._failures = by, failures
        self._turns = anyio.Semaphore(AT_ONCE)

    async def take_up(self) -> None:
        """Goes on with each worker that has a proof of life other than its stream, or certifies it when its process has ended.

        The other workers are expected: they attach again, or send a request.
        """
        if not self._addresses:
            return
        try:
            found = await self._find()
            for handle, token_hash, _ in found:
                self._registry.expect(handle, token_hash)
        except Exception as error:  # noqa: BLE001 - new workers can be served all the same
            self._failed("", error)
            return
        finally:
            self._registry.looked_back()
        async with anyio.create_task_group() as tasks:
            for handle, token_hash, hosting in found:
                if hosting.is_proof_here:
                    tasks.start_soon(self._go_on, handle, token_hash)
            if found:
                log.info("workers_left_behind", workers=len(found))

    def _failed(self, handle: str, error: Exception) -> None:
        self._failures.labels("take_up").inc()
        log.error("worker_not_taken_up", instance=handle, error=told(error), exception=trace(error))

    async def _find(self) -> list[tuple[str, str, Hosting]]:
        part = self._parts[0]
        while True:
            try:
                rows = await lookups.instances_with(part, "state", "token_hash", "hosting")
                break
            except StoreUnavailableError:
                await anyio.sleep(RETRY_SECONDS)
        found = []
        for instance, row in rows.items():
            hosting, token_hash = Hosting.parse(row["hosting"]), row["token_hash"]
            if token_hash and row["state"] != InstanceState.DEAD and set(hosting.addresses) & set(self._addresses):
                found.append((instance, token_hash, hosting))
        return found

    async def _go_on(self, handle: str, token_hash: str) -> None:
        async with self._turns:
            while True:
                try:
                    await self._registry.resume(handle, token_hash, closing=True)
                except StoreUnavailableError:
                    await anyio.sleep(RETRY_SECONDS)
                    continue
                except ProcessEndedError as error:
                    await self._certify(handle, token_hash, f"{error}, while its sidecar was away")
                except (Problem, CoordinatorError) as error:
                    log.warning("worker_not_taken_up", instance=handle, reason=str(error))
                except Exception as error:  # noqa: BLE001 - the others go on
                    self._failed(handle, error)
                return

    async def _certify(self, handle: str, token_hash: str, reason: str) -> None:
        """Certifies a worker that ended while no sidecar stood for it."""
        log.info("worker_ended", instance=handle, cause="exited", reason=reason)
        while True:
            try:
                instances, _ = await self._registry.look_up(handle, token_hash)
                for number, instance in instances.items():
                    part = self._parts[number]
                    await part.executor.run(
                        calls.certify(part.keys, instance=instance, cause="exited", by=self._by, reason=reason)
                    )
                break
            except StoreUnavailableError:
                await anyio.sleep(RETRY_SECONDS)
            except Problem:  # the worker is dead by now
                break
        self._registry.missed(handle, token_hash, reason)
