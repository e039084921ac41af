"""The exit watchers of worker processes, as they look from outside (proc(5))."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tests.waiting import wait_until

__all__ = ["exit_watchers_of", "the_exit_watcher_of"]


def _processes() -> Iterator[tuple[int, list[str]]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                yield int(folder.name), (folder / "cmdline").read_text(errors="replace").split("\0")[:-1]


def exit_watchers_of(pid: int) -> list[int]:
    """Process ids of all that watch a process: the one that starts, and the one that stays."""
    return [
        one
        for one, words in _processes()
        if any(word.endswith("/exit_program.py") for word in words) and words[-3] == str(pid) and one != os.getpid()
    ]


def the_exit_watcher_of(pid: int) -> int:
    """The one process that watches another, once there is one and it is connected to its server."""

    def connected() -> bool:
        found = exit_watchers_of(pid)
        if len(found) != 1:
            return False
        return Path(f"/proc/{found[0]}/comm").read_text().strip() == "exit-watcher"

    wait_until(connected, 20, f"process {pid} is watched")
    return exit_watchers_of(pid)[0]
