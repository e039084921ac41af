"""Tells a supervised process which calls it serves: by a variable, and by a file, since a variable has a limit."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from coordinator.sidecar.schemas import shown
from coordinator.worker.session import Session

__all__ = ["telling"]

VARIABLE_BYTES = 96 * 1024
"""Linux starts no program with a variable of more than 128 KiB."""


@contextmanager
def telling(sessions: Iterable[Session], folder: Path) -> Iterator[dict[str, str]]:
    """Variables that tell a process which calls it serves, with their data; the file is the user's own, and gone afterwards.

    Args:
        sessions: the calls, which the supervisor owns.
        folder: where the file is put.
    """
    text = json.dumps(
        [
            {"session": s.id, "epoch": s.epoch, "recovered": s.recovered, **shown(s.raw_data, s.encoding)}
            for s in sessions
        ]
    )
    path = folder / "sessions.json"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(text)
    told = {"RECOVERY_SESSIONS_FILE": str(path)}
    try:
        yield {**told, "RECOVERY_SESSIONS": text} if len(text) <= VARIABLE_BYTES else told
    finally:
        path.unlink(missing_ok=True)
