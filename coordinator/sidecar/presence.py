"""The presence of a worker: its open streams and polls, the pings that it answers, and what it may rely on meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import anyio
import anyio.abc

from coordinator.clock import in_ms_at_most
from coordinator.sidecar.event_queue import EventQueue
from coordinator.sidecar.proof import ProcessWatch
from coordinator.worker.awake import move_on_after_awake
from coordinator.worker.instance import Instance

__all__ = ["Presence"]

FIRST_ATTACH_SECONDS = 5.0
"""Time for a new worker to open its stream, when it gave no other proof of life."""
OFFERS_IN_HAND = 64
"""Most offers that are read for a worker and not answered yet."""


class Presence:
    """The presence of one registered worker.

    Args:
        worker: takes offers as long as a stream or a poll can receive them.
        queue: holds pings and changes of its standing.
        ended: tells whether its life is over.
        end: ends its life, with a cause and a reason.
        has_proof: its life is proven by other means, so that the end of a stream means nothing.
        taken_up: it lived behind another sidecar before this one.
        stream_is_life: it promised that its stream ends with its process alone.
    """

    def __init__(
        self,
        worker: Instance,
        queue: EventQueue,
        *,
        ended: Callable[[], bool],
        end: Callable[[Literal["exited", "wedged"], str], Coroutine[Any, Any, None]],
        has_proof: bool,
        taken_up: bool,
        stream_is_life: bool = False,
    ) -> None:
        self._worker, self._queue, self._ended, self._end = worker, queue, ended, end
        self._has_proof, self._taken_up, self._stream_is_life = has_proof, taken_up, stream_is_life
        self._pings = 0
        self._attached = 0
        self._ever_attached = False
        self._attached_again: anyio.Event | None = None
        self._stream: object | None = None
        self._peer: ProcessWatch | None = None
        self._standing: tuple[str, bool] | None = None

    # -- streams and polls ---------------------------------------------------------------------------------------------

    @contextmanager
    def attached(self) -> Iterator[None]:
        """While a stream or a poll is open the worker lives, and can receive offers."""
        self._attach(1)
        try:
            yield
        finally:
            self._attach(-1)

    def _attach(self, change: int) -> None:
        self._attached += change
        self._ever_attached = True
        if self._attached_again is not None:
            self._attached_again.set()
        if not self._attached and not self._ended():
            self.wait_for_stream()
        self._worker.take_offers(OFFERS_IN_HAND if self._attached else 0)

    @property
    def is_attached(self) -> bool:
        """Whether a stream or a poll is open."""
        return self._attached > 0

    @property
    def has_stream(self) -> bool:
        """Whether a stream is open, so that events are read now."""
        return self._stream is not None and self.is_attached

    def take_stream(self, stream: object, peer: ProcessWatch | None) -> None:
        """Replaces an older stream by a newer one.

        Args:
            peer: the process that reads it, None when it cannot be seen; when it ends no stream will be attached again.
        """
        self._stream = stream
        self._watch_peer(peer)
        self._queue.wake()  # the older one sees that its turn is over
        self._pings = 0
        self._standing = None

    def leave_stream(self, stream: object, *, closed_by_peer: bool = False) -> None:
        """A stream ended.

        Args:
            closed_by_peer: the worker, or the end of its process, closed it; this sidecar may have closed it as well.
        """
        if self._stream is not stream:
            return
        self._stream = None
        if closed_by_peer and self._stream_is_life and not self._ended():
            self._worker.start(self._end, "exited", "its stream ended")

    def is_stream(self, stream: object) -> bool:
        """Whether a stream is the newest one."""
        return self._stream is stream

    def wait_for_stream(self) -> None:
        """From now on the worker ends unless a stream or a poll is opened in time, or its life is proven by other means."""
        if not self._has_proof:
            self._worker.start(self._end_without_stream)

    async def _end_without_stream(self) -> None:
        """Ends the worker unless a stream or a poll is opened in time; at once if the process that read the last stream has ended."""
        if self._attached:  # attached again, before this task had its first turn
            return
        grace, why = self._worker.settings.trust_window, "its stream ended"
        if not self._ever_attached:
            grace, why = max(grace, FIRST_ATTACH_SECONDS), "it never opened its stream"
            if self._taken_up:  # without a sidecar the worker may trust itself for so long
                grace = max(grace, self._worker.settings.own_trust_window)
        attached = self._attached_again = anyio.Event()
        async with move_on_after_awake(grace) as waiting:
            if self._peer is None:
                await attached.wait()
            else:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._end_of_peer, self._peer, waiting)
                    await attached.wait()
                    tasks.cancel_scope.cancel()
        if not attached.is_set():
            await self._end("exited", why)

    @staticmethod
    async def _end_of_peer(peer: ProcessWatch, waiting: anyio.CancelScope) -> None:
        await peer.ended()
        waiting.cancel()

    def _watch_peer(self, peer: ProcessWatch | None) -> None:
        if self._peer is not None:
            self._peer.close()
        self._peer = peer

    def close(self) -> None:
        """Ends all watching. Safe to repeat."""
        self._watch_peer(None)

    # -- pings ---------------------------------------------------------------------------------------------------------

    def alive(self) -> None:
        """The worker answered a ping."""
        self._pings = 0
        self._worker.asks_again()

    def tick(self) -> None:
        """Once a heartbeat: sends a ping, tells a changed standing, and ends a frozen worker."""
        if self._ended():
            return
        worker = self._worker
        standing = "held" if all(s.held for s in worker.sessions) and self.trust_ms else "in_doubt"
        if (standing, worker.may_speak) != self._standing:
            self._standing = (standing, worker.may_speak)
            self._queue.put(standing, sessions=sorted(s.id for s in worker.sessions), may_speak=worker.may_speak)
            self._queue.drop("held" if standing == "in_doubt" else "in_doubt", "")
        if not self.has_stream:
            return
        self._pings += 1
        if self._pings * worker.settings.heartbeat_interval > worker.settings.wedged_after:
            worker.start(self._end, "wedged", f"it answered no ping for {worker.settings.wedged_after:g} s")
            return
        self._queue.put("ping", "", ping=self._pings, **self.trust)

    # -- what it may rely on -------------------------------------------------------------------------------------------

    @property
    def trust_ms(self) -> int:
        """Milliseconds from now for which the worker may rely on what it owns without another event."""
        return in_ms_at_most(self._worker.trust_left)

    @property
    def alone_ms(self) -> int:
        """Milliseconds from now for which it may do so when this sidecar is gone, so that another one can start."""
        return in_ms_at_most(self._worker.alone_left)

    @property
    def trust(self) -> dict[str, int]:
        """Both times, as events carry them."""
        return {"trust_ms": self.trust_ms, "alone_ms": self.alone_ms}
