"""What `held` depends on: whoever believes along with this process hears of a change before anything else happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, cast

__all__ = ["WatchedValue", "Watches"]

T = TypeVar("T")


class Watches(Protocol):
    """What has such attributes.

    Attributes:
        watchers: are called, in whatever thread, when one of them has another value. They must not block, or raise.
    """

    watchers: tuple[Callable[[], None], ...]


class WatchedValue(Generic[T]):
    """An attribute of which the watchers are told as it changes: so a child stops before a write gives its call away."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}_now"

    def __get__(self, obj: Any, owner: type | None = None) -> T:
        return cast("T", obj.__dict__[self._name])

    def __set__(self, obj: Watches, value: T) -> None:
        before = obj.__dict__.get(self._name, value)
        obj.__dict__[self._name] = value
        if before is not value:
            for watcher in obj.watchers:
                watcher()
