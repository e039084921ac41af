"""A forked child has what its parent had, and may use none of it: it gives up connections and beliefs as it begins.

Connections come first: a server takes a process for living as long as any process has its socket. The child lets go of them
without a word, since the parent speaks on them, and without the event loop, which parent and child share.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["in_a_child", "let_go_of"]

T = TypeVar("T")

_GIVEN_UP: weakref.WeakKeyDictionary[Any, Callable[[Any], object]] = weakref.WeakKeyDictionary()


def in_a_child(owner: T, give_up: Callable[[T], object]) -> None:
    """Has ``give_up`` called with ``owner``, while that exists, in each child that this process forks, before all else there.

    It must not log or wait for a lock: the thread that had the lock may be missing in the child. What it raises is lost.
    """
    _GIVEN_UP[owner] = give_up


def let_go_of(sock: Any) -> None:
    """Leaves a socket to the parent: its number leads nowhere from now on, so that using or closing it here does no harm."""
    if sock is None:
        return
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        if (number := sock.fileno()) >= 0:
            os.dup2(nowhere, number, inheritable=False)
    finally:
        os.close(nowhere)


def _give_up() -> None:
    for owner, give_up in list(_GIVEN_UP.items()):
        with contextlib.suppress(Exception):  # the others are given up all the same
            give_up(owner)


os.register_at_fork(after_in_child=_give_up)
