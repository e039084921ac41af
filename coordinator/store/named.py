"""Which server the Sentinels name as primary, from what each of them said last. Pure: no I/O, no clock of its own.

After a failover the Sentinels hear of it one after the other, within seconds, and each says what it knows; the highest
configuration epoch is the newest (redis.io, "Redis Sentinel", configuration propagation).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from coordinator.store.address import Address

__all__ = ["FRESH_SECONDS", "Named", "View", "choose", "view_of"]

FRESH_SECONDS = 3.0
"""An older answer no longer counts."""
OUTDATED_SECONDS = 10.0
"""For so long a Sentinel with an older configuration is not believed; after that the Sentinels may have been set up anew."""
UNKNOWN_EPOCH = -1
AWAY = frozenset({"s_down", "o_down", "disconnected"})
"""Flags of a server that a Sentinel does not reach: the role that it last reported is old."""


@dataclass(frozen=True, slots=True)
class View:
    """What one Sentinel said.

    Attributes:
        at: when it was asked, by this process's clock.
        address: of the primary; None where it does not know, or did not answer.
        epoch: of its configuration; `UNKNOWN_EPOCH` where it did not say.
        others: servers that it reaches and lists as replicas, and that call themselves primaries.
        error: why there is no answer, '' when there is one.
    """

    at: float
    address: Address | None = None
    epoch: int = UNKNOWN_EPOCH
    others: tuple[Address, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Named:
    """The primary.

    Attributes:
        at: when that was last confirmed, by this process's clock.
        others: as of a `View`: servers that were primaries before, and do not know yet that they were replaced.
    """

    address: Address
    epoch: int
    at: float
    others: tuple[Address, ...] = ()


def choose(views: Iterable[View], before: Named | None, now: float) -> Named | None:
    """The primary now; the one from before where no Sentinel knows better.

    Args:
        views: the last answer of each Sentinel.
        before: what was chosen last.
        now: by the clock of the views.
    """
    fresh = [view for view in views if view.address is not None and now - view.at < FRESH_SECONDS]
    if not fresh:
        return before
    newest = max(view.epoch for view in fresh)
    if before is not None and newest < before.epoch and now - before.at < OUTDATED_SECONDS:
        return before
    of_newest = [view for view in fresh if view.epoch == newest]
    votes = Counter(view.address for view in of_newest)
    most = max(votes.values())
    best = [address for address, count in votes.items() if count == most and address is not None]
    address = before.address if before is not None and before.address in best else best[0]
    others = dict.fromkeys(one for view in of_newest for one in view.others if one != address)
    return Named(address, newest, now, tuple(others))


def view_of(at: float, named: Any, primary: Any, replicas: Any) -> View:
    """Reads a Sentinel's answers, each of which may be an error.

    Args:
        at: when it was asked, by this process's clock in seconds.
        named: answer to ``SENTINEL get-master-addr-by-name``.
        primary: answer to ``SENTINEL MASTER``.
        replicas: answer to ``SENTINEL REPLICAS``.
    """
    told = _texts(named)
    address = _address(told[0], told[1]) if len(told) == 2 else None
    epoch = _number(_fields(primary).get("config-epoch", ""), UNKNOWN_EPOCH)
    rows = [_fields(row) for row in replicas] if isinstance(replicas, list) else []
    others = [
        one
        for row in rows
        if row.get("role-reported") == "master" and not AWAY & set(row.get("flags", "").split(","))
        if (one := _address(row.get("ip", ""), row.get("port", ""))) is not None
    ]
    return View(at, address, epoch, tuple(others))


def _texts(row: Any) -> list[str]:
    words: Sequence[Any] = row if isinstance(row, list) else []
    return [word.decode("utf-8", "replace") if isinstance(word, bytes) else "" for word in words]


def _fields(row: Any) -> dict[str, str]:
    texts = _texts(row)
    return dict(zip(texts[::2], texts[1::2], strict=False))


def _address(host: str, port: str) -> Address | None:
    number = _number(port, 0)
    return Address(host, number) if host and 0 < number < 65536 else None


def _number(text: str, otherwise: int) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else otherwise
