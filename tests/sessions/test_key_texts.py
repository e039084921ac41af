"""What is said of key rings of a wrong form: nothing of what stands in them, since a key may stand where its id should."""

from __future__ import annotations

import base64
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from coordinator.errors import ConfigurationError
from coordinator.sessions import KeyFile, KeyRing
from coordinator.sessions.configured import configured_keys
from coordinator.settings import load

KEY = base64.urlsafe_b64encode(bytes(range(32))).decode().rstrip("=")
"""As other programs write keys: it could be an id."""
HEX = bytes(range(31)).hex()
TEXTS = [
    KEY, f"{KEY}:k1", f"{HEX}:{HEX}", f"k1:{KEY}", f"k1:{HEX}", f"k1:{KEY}=,k1:{KEY}=", f"{KEY}:{KEY}=,{KEY}:{KEY}=", f"k 1:{KEY}=",
    f"{KEY}:QUJD", f"k1={KEY}", f"k1:ü{KEY}", f"redis://:{KEY}@h", f"{KEY} {KEY}",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_no_key_is_repeated(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By text, by file, by settings, and where the text stands in the place of the file's path."""
    file = tmp_path / "keys"
    file.write_text(text)
    ways: list[Callable[[], object]] = [
        lambda: KeyRing.parse(text),
        lambda: KeyFile(file),
        lambda: configured_keys(load(encryption_keys=text)),
    ]
    monkeypatch.setenv("COORDINATOR_ENCRYPTION_KEYS_FILE", text)
    ways += [load, lambda: KeyFile(os.environ["COORDINATOR_ENCRYPTION_KEYS_FILE"])]
    for way in ways:
        with pytest.raises(ConfigurationError, match=r"(?i)encryption_keys") as refused:
            way()
        told = [line for line in traceback.format_exception(refused.value) if not line.lstrip().startswith("File")]
        assert KEY not in "".join(told)
        assert HEX not in "".join(told)


def test_a_file_of_keys_that_is_no_text(tmp_path: Path) -> None:
    """It is refused at the start with one line; later the last good ring counts."""
    file = tmp_path / "keys"
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        KeyFile(file)
    file.write_text(KeyRing.generate("k1"))
    keys = KeyFile(file)
    file.write_bytes(b"\xff\xfe")
    assert keys().ids == ("k1",)


def test_a_file_of_keys_that_changes_is_told(tmp_path: Path) -> None:
    """Each new ring, and each fault once, with the ids of the keys that count; what stands in the file is not repeated."""
    file = tmp_path / "keys"
    file.write_text(KeyRing.generate("k1"))
    keys = KeyFile(file)
    with capture_logs() as logs:
        for text in (f"{KeyRing.generate('k2')}", KEY, KEY + " "):
            (tmp_path / "next").write_text(text)
            (tmp_path / "next").rename(file)
            assert keys().ids == ("k2",)
            keys()
        file.unlink()
        keys()
    assert [(line["event"], line.get("keys", line.get("goes_on_with"))) for line in logs] == [
        ("encryption_keys_changed", ["k2"]), ("encryption_keys_refused", ["k2"]), ("encryption_keys_refused", ["k2"]),
    ]  # fmt: skip
    assert KEY not in str(logs)
