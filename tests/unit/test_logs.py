"""Logs: JSON or lines, and never a secret."""

from __future__ import annotations

import json
import logging

import pytest
import structlog

from coordinator.logs import configure_logging, redact
from coordinator.settings import load


@pytest.fixture(autouse=True)
def _put_back() -> object:
    """The logging of this process as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_json_lines_have_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    """Each event is one JSON object on standard error, with time, level and its fields."""
    configure_logging(load(log_format="json"))
    structlog.get_logger().info("session_adopted", session="call-1", epoch=7)
    line = json.loads(capsys.readouterr().err)
    assert line.pop("timestamp")
    assert line == {"event": "session_adopted", "level": "info", "session": "call-1", "epoch": 7}


def test_levels_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """What is below the level is not written."""
    configure_logging(load(log_format="json", log_level="warning"))
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert "quiet" not in (written := capsys.readouterr().err)
    assert "loud" in written


def test_other_packages_log_in_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    """The standard library's loggers write JSON too, from warnings upwards."""
    configure_logging(load(log_format="json"))
    logging.getLogger("other").warning("hello %s", "there")
    logging.getLogger("other").info("not this")
    assert json.loads(capsys.readouterr().err)["event"] == "hello there"


def test_secrets_are_left_out() -> None:
    """Recovery data, tokens, passwords and the credentials in URLs are replaced."""
    event = redact(None, "info", {"event": "x", "data": b"secret", "token": "secret", "url": "redis://u:secret@h"})
    assert "secret" not in str(event)
    assert event["url"] == "redis://***@h"
