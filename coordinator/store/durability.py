"""How many replicas are to have a change of hands before it counts; nothing else waits for them.

Replication is asynchronous: what a primary acknowledged and no replica has is gone with it. ``WAIT`` (redis.io, "WAIT") lasts until
so many replicas have what its connection wrote before, so one ``WAIT`` ends a whole batch. It makes a loss unlikely, not impossible:
a failover may promote a replica that did not answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import redis
import structlog

from coordinator import clock
from coordinator.errors import StoreUnavailableError
from coordinator.store.faults import store_error
from coordinator.store.replies import Reply
from coordinator.store.scripts import Argument, ScriptCall

__all__ = ["DURABLE", "NOT_ASKED_FOR", "Confirming", "Durability"]

log = structlog.get_logger()

DURABLE = frozenset({"open", "adopt", "let_go", "certify"})
"""Scripts after which a session has another owner, or none: if that were forgotten, two would own it."""
SHARE = 0.25
"""Share of the store's time limit for which replicas are waited for."""
TRY_AGAIN_SECONDS = 2.0
"""Seconds without waiting after replicas were waited for in vain: calls need not be late for replicas that are away."""
_TEXT = re.compile(r"replicas:([1-9]\d?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Durability:
    """The setting.

    Attributes:
        replicas: how many are to have it; 0: none is waited for.
    """

    replicas: int = 0

    @staticmethod
    def parse(text: str) -> Durability:
        """``replicas:N`` with N from 1 to 99, or '' for none.

        Raises:
            ValueError: it is neither.
        """
        if not text:
            return NOT_ASKED_FOR
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError("it must be replicas:N with N from 1 to 99 (replicas:1, say), or empty")
        return Durability(int(match[1]))

    def concerns(self, call: ScriptCall[Reply]) -> bool:
        """Whether this call's answer waits for replicas."""
        return self.replicas > 0 and call.script.name in DURABLE


NOT_ASKED_FOR = Durability()


class Confirming:
    """Asks whether the replicas have what one connection wrote, and logs when they cease to answer, and when they are back.

    Without them changes of hands go on, and a log line says that they are not replicated. ``min-replicas-to-write`` of
    Redis has them refused instead.

    Args:
        timeout: the store's time limit, in seconds.
    """

    def __init__(self, durability: Durability, timeout: float) -> None:
        self._replicas = durability.replicas
        self._longest_ms = max(1, round(timeout * SHARE * 1000))
        self._in_vain_until = float("-inf")
        self._in_vain = False

    @property
    def waits(self) -> bool:
        """Whether replicas are waited for now; False for a while after they did not answer."""
        return clock.now() >= self._in_vain_until

    @property
    def command(self) -> tuple[Argument, ...]:
        """The command to send after what is to be replicated, over the same connection."""
        return ("WAIT", self._replicas, self._longest_ms)

    @property
    def longest(self) -> float:
        """Seconds for which the server may keep that answer to itself."""
        return self._longest_ms / 1000

    def heard(self, answer: Any) -> StoreUnavailableError | None:
        """Takes the answer.

        Returns:
            The error that replaces the answers of what was sent before it: the connection broke, and its server may be gone
            with them. None when the answers count.
        """
        if isinstance(answer, StoreUnavailableError):
            return answer
        error = str(store_error(answer)) if isinstance(answer, redis.ResponseError) else ""
        count = 0 if error else int(answer)
        in_vain = count < self._replicas
        if in_vain and not self._in_vain:
            log.warning(
                "not_replicated", replicas=count, wanted=self._replicas, error=error,
                consequence="calls that change hands now may have two owners after a failover",
            )  # fmt: skip
        elif self._in_vain and not in_vain:
            log.info("replicated_again", replicas=count, wanted=self._replicas)
        self._in_vain = in_vain
        self._in_vain_until = clock.now() + TRY_AGAIN_SECONDS if in_vain else float("-inf")
        return None
