"""Tables for people."""

from __future__ import annotations

import pytest
from rich.console import Group

from coordinator.cli.tables import table, writer

ID, INSTANCE, AT = "call-" + "1" * 27, "worker-1~01M8KQ6262S84A3G0ZA8SW67BY", "2026-11-29 13:00:00"
REASON = "the code that adopted it raised ValueError after it had run for a while"


@pytest.mark.parametrize("width", [20, 80, 200])
def test_what_is_copied_is_never_cut(capsys: pytest.CaptureFixture[str], width: int) -> None:
    """However narrow the terminal is, ids, names and times stand there whole, and all words of a sentence."""
    writer(width=width).print(table(("session", "owner", "opened", "reason"), [(ID, INSTANCE, AT, REASON)]))
    said = capsys.readouterr().out
    for text in (ID, INSTANCE, AT, *REASON.split()):
        assert text in said
    assert "…" not in said


def test_sentences_are_folded_where_there_is_little_room(capsys: pytest.CaptureFixture[str]) -> None:
    """A narrow terminal has room for a table with one long text."""
    writer(width=60).print(table(("check", "advice"), [("persistence", f"{REASON}, {REASON}, {REASON}")]))
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 60


ADVICE = "set maxmemory below the machine's memory: better refused writes than a killed server"


@pytest.mark.parametrize("width", range(20, 120, 7))
@pytest.mark.parametrize("grouped", [False, True], ids=["alone", "in-a-group"])
def test_no_letter_is_lost_at_an_edge(capsys: pytest.CaptureFixture[str], width: int, grouped: bool) -> None:
    """At every width each word of a sentence and each column stand there whole, also where notes follow the table."""
    columns = ("check", "level", "found", "advice", "hold", "protocol")
    made = table(columns, [("maxmemory", "warn", "no limit", ADVICE, "another_primary", 1)])
    writer(width=width).print(Group(made, "a note") if grouped else made)
    said = capsys.readouterr().out.split()
    assert {*columns, "another_primary", *ADVICE.split()} <= {*said}
