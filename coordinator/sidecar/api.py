"""The interface: all route files together, in the order of its document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from coordinator.ids import partition_of
from coordinator.settings import Settings
from coordinator.sidecar.draining import SidecarDrain
from coordinator.sidecar.registry import Registry
from coordinator.sidecar.routes.certificates import CertificateRoutes
from coordinator.sidecar.routes.draining import DrainRoutes
from coordinator.sidecar.routes.offers import OfferRoutes
from coordinator.sidecar.routes.sessions import SessionRoutes
from coordinator.sidecar.routes.workers import WorkerRoutes
from coordinator.sidecar.routing import Table
from coordinator.sidecar.watched import Watched
from coordinator.store.executor import StorePartition

__all__ = ["table_of"]


def table_of(
    settings: Settings,
    registry: Registry,
    draining: SidecarDrain,
    watched: Watched,
    parts: Sequence[StorePartition],
    by: str,
    announced: Callable[[], Awaitable[None]] | None = None,
) -> Table:
    """The operations that a sidecar serves.

    Args:
        parts: all partitions.
        by: the name that signs certificates.
        announced: is awaited when a worker that beats for itself has announced itself.
    """

    def part_of(session_id: str) -> StorePartition:
        return parts[partition_of(session_id, len(parts))]

    return Table.of(
        WorkerRoutes(settings, registry, watched, announced),
        SessionRoutes(settings, part_of),
        OfferRoutes(part_of),
        DrainRoutes(settings, draining),
        CertificateRoutes(parts, by),
    )
