"""The project's image, built without an engine: the base by mmdebstrap, the rest by buildah in a chroot."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from coordinator.version import VERSION

__all__ = ["BASE", "IMAGE", "REDIS", "SUITE", "build", "build_redis", "from_debian", "missing_means", "pause", "save"]

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path.home() / ".cache/recovery-coordinator/images"
SUITE = "trixie"
BASE, REDIS = f"localhost/debian-python:{SUITE}", f"localhost/debian-redis:{SUITE}"
IMAGE = f"localhost/recovery-coordinator:{VERSION}"
PAUSE = "localhost/pause:test"
ENVIRONMENT = {**os.environ, "STORAGE_DRIVER": "vfs", "BUILDAH_FORMAT": "docker"}


def missing_means() -> list[str]:
    """What this machine lacks to build an image; empty when it has everything."""
    found = [tool for tool in ("buildah", "mmdebstrap") if not shutil.which(tool)]
    return found + (["the rights of root"] if os.geteuid() != 0 else [])


def _run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout.strip()


def from_debian(packages: str) -> Path:
    """An archive of Debian with some packages; what mmdebstrap made is kept."""
    CACHE.mkdir(parents=True, exist_ok=True)
    archive = CACHE / f"{SUITE}-{packages.replace(',', '+')}.tar"
    if not archive.exists():
        _run(
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={packages}",
            SUITE,
            archive.with_suffix(".part.tar"),
        )
        archive.with_suffix(".part.tar").replace(archive)
    return archive


def _scratch(image: str, what: Path, where: str, *config: str) -> str:
    container = _run("buildah", "from", "scratch")
    try:
        _run("buildah", "add", "--quiet", container, what, where)
        if config:
            _run("buildah", "config", *config, container)
        _run("buildah", "commit", "--quiet", container, image)
    finally:
        _run("buildah", "rm", container)
    return image


def build() -> str:
    """The image of the Dockerfile; returns its name."""
    _scratch(BASE, from_debian("python3,python3-venv,ca-certificates"), "/")
    certificates = Path("/etc/ssl/certs")  # a company's own authority may stand between here and the package index
    _run(
        "buildah", "bud", "--isolation", "chroot", "--network", "host", "--volume", f"{certificates}:{certificates}:ro",
        "--build-arg", f"BASE={BASE}", "--build-arg", f"VERSION={VERSION}", "--tag", IMAGE, ROOT,
    )  # fmt: skip
    return IMAGE


def build_redis() -> str:
    """A Redis to try out."""
    return _scratch(REDIS, from_debian("redis-server"), "/")


def pause(binary: Path) -> str:
    """What holds a pod's namespaces."""
    return _scratch(PAUSE, binary, "/pause", "--entrypoint", '["/pause"]', "--user", "65532")


def save(image: str, folder: Path) -> Path:
    """The image as an archive."""
    archive = folder / f"{image.partition('/')[2].replace(':', '-')}.tar"
    _run("buildah", "push", "--quiet", image, f"docker-archive:{archive}:{image}")
    return archive
