"""Logs: JSON or lines, and never a secret."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
import structlog

from coordinator import Worker
from coordinator.logs import configure_logging, configure_structlog, redact
from coordinator.settings import load
from tests.hostile import EVIL, hidden_in

RAW = EVIL.encode()


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


@pytest.mark.parametrize("style", ["console", "json"])
def test_tracebacks_show_no_values(capsys: pytest.CaptureFixture[str], style: str) -> None:
    """A program's error is logged with its lines, and without what its variables held: that may be recovery data."""
    configure_structlog(load(log_format=style))
    data = {"call_sid": "CA-" + "secret"}
    try:
        raise KeyError("sequence" + str(len(data)))
    except KeyError as error:
        structlog.get_logger().error("handler_failed", exc_info=error)
    written = capsys.readouterr().err
    assert "KeyError" in written
    assert "CA-secret" not in written


def test_a_worker_logs_as_its_settings_say(capsys: pytest.CaptureFixture[str]) -> None:
    """In a program that has not set structlog up itself: format and level of the worker's settings."""
    Worker("redis://localhost:1", name="a", log_format="json", log_level="error")
    structlog.get_logger().warning("quiet")
    structlog.get_logger().error("loud")
    assert json.loads(capsys.readouterr().err)["event"] == "loud"


@pytest.mark.parametrize("style", ["console", "json"])
def test_nothing_that_is_logged_controls_a_terminal(capsys: pytest.CaptureFixture[str], style: str) -> None:
    """Names and values from Redis, errors, tracebacks and other packages' messages: printable, one event a line."""
    configure_logging(load(log_format=style))
    log = structlog.get_logger()
    log.info(
        EVIL,
        **{EVIL: EVIL},
        texts=[EVIL],
        pairs={EVIL: EVIL},
        error=ValueError(EVIL),
        raw=RAW,
        odd=type("E", (), {"__repr__": lambda _: EVIL})(),
    )
    logging.getLogger("other").warning("%s", EVIL)
    logging.getLogger("other").error("failed", exc_info=ValueError(EVIL))
    try:
        raise ValueError(EVIL)
    except ValueError:
        log.exception("failed", error=EVIL)
    written = capsys.readouterr().err
    assert not hidden_in(written)
    events = [line for line in written.splitlines() if not line.startswith(" ")]
    assert len([line for line in events if line]) == 4
    assert written.count("room") >= 8
    if style == "json":  # whoever reads it may print the texts that it says
        texts = json.loads(events[0])
        assert not hidden_in("".join([texts["event"], *texts["texts"], texts["error"], texts["raw"]]), lines="")


def test_a_traceback_looks_like_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    """A line that an error's text forges stands within its traceback."""
    configure_logging(load(log_format="console"))
    try:
        raise ValueError("x\n2026-01-01T00:00:00Z [info     ] all is well")
    except ValueError:
        structlog.get_logger().exception("failed")
    lines = [line for line in capsys.readouterr().err.splitlines() if "all is well" in line]
    assert lines
    assert all(line.startswith("    ") for line in lines)


@pytest.mark.parametrize("style", ["console", "json"])
def test_an_error_that_cannot_be_told_is_logged(capsys: pytest.CaptureFixture[str], style: str) -> None:
    """Its class says that much."""

    class OddError(Exception):
        def __repr__(self) -> str:
            raise RecursionError

        __str__ = __repr__

    configure_logging(load(log_format=style))
    structlog.get_logger().error("failed", error=OddError(), exc_info=OddError())
    assert "OddError" in capsys.readouterr().err


def test_no_program_formats_an_error_by_itself() -> None:
    """An error of somebody else's class may fail while it is told of, so `told` and `trace` do that everywhere."""
    for path in (Path(__file__).parents[2] / "coordinator").rglob("*.py"):
        if path.name in ("logs.py", "printable.py"):
            continue
        text = path.read_text()
        assert not re.search(r"exc_info=|log\.exception\(|repr\(error\)|repr\(failure\)", text), path
