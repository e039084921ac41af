"""The lock files against the index that they were made from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.install.checkout import ROOT, Checkout, locked
from tests.install.conftest import every
from tests.install.pythons import PROMISED

pytestmark = [every, pytest.mark.timeout(300), pytest.mark.xdist_group("index"), pytest.mark.usefixtures("pip_wheels")]

PLATFORMS = ["x86_64-manylinux_2_28", "aarch64-manylinux_2_28", "aarch64-apple-darwin"]
LOCKS = ["requirements.lock", "requirements-demo.lock", "requirements-image.lock", "requirements-uvloop.lock"]


@pytest.mark.parametrize("python", PROMISED, ids=lambda version: ".".join(map(str, version)))
@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_platform_has_its_wheels(platform: str, python: tuple[int, int], uv: str, tmp_path: Path) -> None:
    """On Linux and macOS, on each Python, every entry that applies there has a wheel whose hash is in the lock."""
    for name in LOCKS:
        done = subprocess.run(
            [
                uv, "pip", "install", "--dry-run", "--target", str(tmp_path), "--python", sys.executable,
                "--python-platform", platform, "--python-version", f"{python[0]}.{python[1]}",
                "--no-deps", "--require-hashes", "--only-binary", ":all:", "--requirement", str(ROOT / name),
            ],
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stderr}"
        assert "Would install" in done.stderr or "Would make no changes" in done.stderr


def test_lock_is_repeatable(tmp_path: Path) -> None:
    """`make lock` changes nothing but hashes of files that were published since, and a second time nothing at all."""
    checkout = Checkout(tmp_path)
    before = {name: (ROOT / name).read_text() for name in [*LOCKS, "requirements-uv.lock"]}

    for known in (before, None):
        done = checkout.make("lock")
        assert done.returncode == 0, done.stderr
        after = {name: (checkout.path / name).read_text() for name in before}
        if known is not None:
            for name, text in known.items():
                assert list(locked(after[name])) == list(locked(text))
                assert comments(after[name]) == comments(text)
            before = after
    assert after == before


def comments(text: str) -> list[str]:
    """All lines but those of hashes."""
    return [line.removesuffix(" \\") for line in text.splitlines() if "--hash=" not in line]
