"""Pod events: pods that ended certify their instances, and pods that live are annotated with what they carry.

Tasks of their own, beside detection: whatever the API server does or fails to do, the other evidence goes on as without it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import structlog

from coordinator import clock
from coordinator.daemon.pod_evidence import Pod, certified, deletion_costs, withheld
from coordinator.errors import ConfigurationError, PodApiError, StoreUnavailableError
from coordinator.metrics import Metrics
from coordinator.policy import backoff
from coordinator.printable import told
from coordinator.settings import Settings
from coordinator.store import calls, reads
from coordinator.store.executor import StorePartition

if TYPE_CHECKING:
    from coordinator.daemon.pod_api import PodApi

__all__ = ["Certifier", "DeletionCosts", "PodEvents", "PodPauses", "PodWatch"]

log = structlog.get_logger()

COST_EVERY = 30.0
"""Least seconds between two annotations of a pod by any coordinator: each is a write to the API server, and Kubernetes asks
not to follow a number closely (Concepts, ReplicaSet, "Pod deletion cost")."""
SHORTEST_WATCH = 1.0
"""Seconds; a watch that ends sooner and told nothing is an error, not the end that was asked for."""
IN_THE_STREAM = ("malformed", "closed", "gone")
"""Errors that a connection which opens well does not disprove."""


def _failure(error: Exception) -> tuple[str, str]:
    """Kind and detail of an error; one that is not a `PodApiError` is this program's fault, and must not end it."""
    return (error.kind, error.detail) if isinstance(error, PodApiError) else ("other", told(error))


@dataclass(frozen=True, slots=True)
class PodPauses:
    """How long to wait for the API server's sake, in seconds.

    Attributes:
        least, longest: between trials against a server that fails.
        look: more or less, between two looks at what pods cost.
    """

    least: float = 0.2
    longest: float = 30.0
    look: float = 5.0

    def again(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row before this one, with jitter."""
        return backoff(failures, random.random(), self.least, self.longest)  # noqa: S311 - jitter


@dataclass(slots=True)
class PodWatch:
    """Lists, then watches, and passes on each pod whose end is proven.

    Attributes:
        ended: called with each pod that ended, maybe more than once.
        pods: uid -> what was last seen of it.
        version: from where the watch goes on, '' when a list is needed.
        up: whether the watch stands.
        pauses: between trials.
    """

    api: PodApi
    metrics: Metrics
    ended: Callable[[Pod], None]
    pods: dict[str, Pod] = field(default_factory=dict)
    version: str = ""
    up: bool = False
    pauses: PodPauses = PodPauses()
    _failures: int = 0
    _trouble: str = ""

    async def step(self) -> None:
        """One full list, or one watch until it ends; safe to repeat at any point.

        Raises:
            PodApiError: nothing more is known of any pod; the next step goes on, with a list where that is needed.
        """
        if self.version:
            await self._watch()
        else:
            await self._list()

    async def _list(self) -> None:
        found, version = await self.api.list()
        pods = {pod.uid: pod for pod in map(self._parse, found)}
        for pod in pods.values():
            if pod.ended_ms:
                self.ended(pod)  # again, too: the certifier's store may have been away
        for pod in [known for uid, known in self.pods.items() if uid not in pods]:
            self._gone(pod)
        self.pods, self.version = pods, version

    async def _watch(self) -> None:
        began, heard = clock.now(), False
        async with self.api.watch(self.version) as events:
            self._stands()
            async for kind, about in events:
                self._take(kind, about)
                self._well()
                heard = True
        if not heard and clock.now() - began < SHORTEST_WATCH:
            raise PodApiError("closed", "the watch ended at once")
        self._well()

    def _take(self, kind: str, about: dict[str, Any]) -> None:
        if kind == "BOOKMARK":
            match about.get("metadata"):
                case {"resourceVersion": str(version)}:
                    self.version = version
                    return
        if kind not in ("ADDED", "MODIFIED", "DELETED"):
            raise PodApiError("malformed", f"an event of the watch of type {kind!r}"[:200])
        pod = self._parse(about)
        known = self.pods.pop(pod.uid, None)
        if pod.ended_ms and not (known is not None and known.ended_ms):
            self.ended(pod)
        if kind == "DELETED":
            self._gone(pod)
        else:
            self.pods[pod.uid] = pod
        self.version = pod.version

    @staticmethod
    def _gone(pod: Pod) -> None:
        """Logs a pod that is gone, or that the selector no longer matches: neither proves an end."""
        if not pod.ended_ms:
            log.info("pod_gone_without_proof", pod=pod.name, uid=pod.uid, reason=pod.doubt)

    @staticmethod
    def _parse(about: Any) -> Pod:
        try:
            return Pod.parse(about)
        except (ValueError, AttributeError) as error:
            raise PodApiError("malformed", str(error)) from error

    async def run(self) -> None:
        """Watches until cancelled; waits with backoff and jitter while the API server fails."""
        while True:
            try:
                await self.step()
            except Exception as error:  # noqa: BLE001 - nothing here may end the coordinator
                pause = self.failed(error)
            else:
                pause = 0.0
            await anyio.sleep(pause)

    def failed(self, error: Exception) -> float:
        """Counts an error, and logs it when its kind is another than before.

        Returns:
            Seconds to wait.
        """
        kind, detail = _failure(error)
        self.metrics.pod_watch_errors.labels(kind).inc()
        self.metrics.pod_watch_up.set(0)
        self.up = False
        if kind not in ("unreachable", "timeout", "closed", "server", "unauthorized", "forbidden"):
            self.version = ""  # gone, or not fit to go on from
        if kind != self._trouble:
            say = log.info if kind in ("gone", "closed") else log.warning
            say(
                "pod_watch_failed", kind=kind, detail=detail, namespace=self.api.namespace,
                consequence="deaths are found by the other evidence",
            )  # fmt: skip
        self._trouble = kind
        pause = self.pauses.again(self._failures)
        self._failures += 1
        return pause

    def _stands(self) -> None:
        self.up = True
        self.metrics.pod_watch_up.set(1)
        if self._trouble not in IN_THE_STREAM:
            self._well()

    def _well(self) -> None:
        if self._trouble:
            log.info("pod_watch_back", namespace=self.api.namespace)
        self._trouble, self._failures = "", 0


class Certifier:
    """Certifies, in one partition, the instances of pods that ended.

    Args:
        part: with a connection of its own.
        by: id of the coordinator, which signs the certificates.
    """

    def __init__(self, part: StorePartition, metrics: Metrics, by: str) -> None:
        self.part, self.metrics, self.by = part, metrics, by
        self.waiting: dict[str, Pod] = {}
        self._more = anyio.Event()

    def add(self, pod: Pod) -> None:
        """Remembers a pod that ended. Safe to repeat."""
        self.waiting[pod.uid] = pod
        self._more.set()

    async def step(self) -> list[str]:
        """Looks once at the registered instances, for all pods that wait, and certifies theirs. Safe to repeat.

        Returns:
            The instances that it buried; those that were dead already are not among them.

        Raises:
            StoreUnavailableError: the store did not answer; the pods go on waiting.
        """
        pods = dict(self.waiting)
        if not pods:
            return []
        rows = await reads.instances(self.part)
        found = certified(pods.values(), rows)
        answers = await self.part.executor.run_many(
            [
                calls.certify(
                    self.part.keys, instance=instance, cause="exited", by=self.by, reason=f"pod {pod.name} {pod.phase}"
                )
                for instance, pod in found.items()
            ]
        )
        for uid in pods:
            self.waiting.pop(uid, None)
        for instance, pod in withheld(pods.values(), rows).items():
            log.warning(
                "pod_certificate_withheld", instance=instance, pod=pod.name, uid=pod.uid,
                reason="it registered after the pod had ended, by the clocks of the store and of the node",
            )  # fmt: skip
        dead = [
            instance for instance, answer in zip(found, answers, strict=True) if isinstance(answer, calls.CertifyOk)
        ]
        for instance in dead:
            pod = found[instance]
            log.info("pod_ended", instance=instance, pod=pod.name, uid=pod.uid, phase=pod.phase)
        return dead

    async def run(self) -> None:
        """Certifies until cancelled; tries again while the store is away."""
        failures = 0
        while True:
            await self._more.wait()
            self._more = anyio.Event()
            try:
                await self.step()
                failures = 0
            except StoreUnavailableError as error:
                self.metrics.store_errors.labels(error.kind).inc()
                failures += 1
                await self._again(failures)
            except Exception as error:  # noqa: BLE001 - nothing here may end the coordinator
                self.metrics.pod_watch_errors.labels("other").inc()
                log.error("pod_certificate_failed", partition=self.part.keys.partition, detail=told(error))
                failures += 1
                await self._again(failures)

    async def _again(self, failures: int) -> None:
        await anyio.sleep(backoff(failures, random.random()))  # noqa: S311 - jitter
        self._more.set()


@dataclass(slots=True)
class DeletionCosts:
    """Keeps the annotation by which a ReplicaSet that gets smaller spares the pods with live calls.

    Attributes:
        rows: the instances of all partitions as last seen, None while a partition cannot be seen.
        every: least seconds between two annotations of a pod by any coordinator.
        pauses: between looks, and between trials.
    """

    watch: PodWatch
    rows: Callable[[], Sequence[reads.InstanceRow] | None]
    metrics: Metrics
    every: float = COST_EVERY
    pauses: PodPauses = PodPauses()
    _written: dict[str, tuple[int, float]] = field(default_factory=dict)
    _trouble: str = ""

    async def step(self) -> int:
        """Annotates the pods whose number of sessions is another than their annotation; safe beside other coordinators.

        A pod that changed since it was seen is left for the next step, so only one of several coordinators writes.

        Returns:
            How many were annotated.

        Raises:
            PodApiError: the API server refused, or could not be asked.
        """
        rows = self.rows()
        if rows is None or not self.watch.up:
            return 0
        done = 0
        for uid, cost in deletion_costs(self.watch.pods.values(), rows).items():
            pod = self.watch.pods.get(uid)
            if pod is not None and self._due(pod, cost):
                done += await self._write(pod, cost)
        for uid in [uid for uid in self._written if uid not in self.watch.pods]:
            del self._written[uid]
        return done

    def _due(self, pod: Pod, cost: int) -> bool:
        """Whether to write now; remembers when any writer's change of the annotation was last seen."""
        seen, at = self._written.get(pod.uid, (pod.cost, -self.every))
        if seen != pod.cost:
            seen, at = pod.cost, clock.now()
        self._written[pod.uid] = seen, at
        return cost != pod.cost and clock.now() - at >= self.every

    async def _write(self, pod: Pod, cost: int) -> int:
        try:
            await self.watch.api.set_cost(pod, cost)
        except PodApiError as error:
            if error.kind in ("conflict", "not_found"):
                self.metrics.pod_deletion_costs.labels(error.kind).inc()
                return 0
            self.metrics.pod_deletion_costs.labels("failed").inc()
            raise
        self._written[pod.uid] = cost, clock.now()
        self.metrics.pod_deletion_costs.labels("written").inc()
        log.debug("pod_deletion_cost_written", pod=pod.name, cost=cost)
        return 1

    async def run(self) -> None:
        """Looks until cancelled; logs a failure once, and tries again."""
        failures = 0
        while True:
            try:
                await self.step()
            except Exception as error:  # noqa: BLE001 - nothing here may end the coordinator
                self._failed(error)
                pause = self.pauses.look + self.pauses.again(failures)
                failures += 1
            else:
                self._trouble, failures = "", 0
                pause = self.pauses.look * (0.5 + random.random())  # noqa: S311 - jitter: coordinators look in turn
            await anyio.sleep(pause)

    def _failed(self, error: Exception) -> None:
        kind, detail = _failure(error)
        self.metrics.pod_watch_errors.labels(kind).inc()
        if kind != self._trouble:
            log.warning("pod_deletion_cost_failed", kind=kind, detail=detail, namespace=self.watch.api.namespace)
        self._trouble = kind


class PodEvents:
    """Everything that a coordinator does with pods.

    Args:
        parts: a way to each partition, of its own.
        views: the last look at each partition, None where the store cannot be seen.
        by: id of the coordinator, which signs the certificates.

    Raises:
        ConfigurationError: the extra is not installed, or this process is not in a cluster.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        parts: Sequence[StorePartition],
        views: Callable[[], Sequence[reads.Overview | None]],
        by: str,
    ) -> None:
        try:
            from coordinator.daemon.pod_api import PodApi
        except ImportError as error:
            raise ConfigurationError(
                f"pod_events: {error.name} is missing: install this package with its extra kubernetes"
            ) from error
        self.api = PodApi.from_settings(settings)
        metrics.export_pods()
        self._views = views
        self.certifiers = [Certifier(part, metrics, by) for part in parts]
        self.watch = PodWatch(self.api, metrics, self._ended)
        self.costs = DeletionCosts(self.watch, self._rows, metrics) if settings.pod_deletion_cost else None

    def _ended(self, pod: Pod) -> None:
        for certifier in self.certifiers:
            certifier.add(pod)

    def _rows(self) -> list[reads.InstanceRow] | None:
        views = self._views()
        if any(view is None for view in views):
            return None
        return [row for view in views if view is not None for row in view.instances]

    async def run(self) -> None:
        """Runs until cancelled; raises nothing of its own."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.watch.run)
                for certifier in self.certifiers:
                    tasks.start_soon(certifier.run)
                if self.costs is not None:
                    tasks.start_soon(self.costs.run)
        finally:
            with anyio.CancelScope(shield=True):
                await self.api.aclose()
