"""Tables for people."""

from __future__ import annotations

import pytest
from rich.console import Group

from coordinator.cli.tables import coloured, table, writer

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


@pytest.mark.parametrize("grouped", [False, True], ids=["alone", "in-a-group"])
def test_a_terminal_that_is_too_narrow_shows_row_by_row(capsys: pytest.CaptureFixture[str], grouped: bool) -> None:
    """At 80 columns no line of a wide table goes on in the next: each row is lines of a name and its value, without what has none."""
    rows = [(ID, INSTANCE, AT, REASON, None), (f"{ID}-2", INSTANCE, AT, coloured("short", "red"), 0)]
    made = table(("session", "owner", "opened", "reason", "orphaned"), rows)
    writer(width=80, force_terminal=True, color_system=None).print(Group(made, "a note") if grouped else made)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 80
    first, second = lines.index(f"session   {ID}"), lines.index(f"session   {ID}-2")
    assert lines[first + 1 : first + 3] == [f"owner     {INSTANCE}", f"opened    {AT}"]
    assert lines[second - 1] == ""
    assert [line for line in lines if line.startswith("orphaned")] == ["orphaned  0"]
    assert "reason    short" in lines
    assert lines[-1] == ("a note" if grouped else "orphaned  0")


def test_a_table_that_fits_stays_one(capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal that is wide enough, and in a pipe of any width, a row is a line."""
    made = table(("session", "owner", "opened", "reason"), [(ID, INSTANCE, AT, "left")])
    writer(width=120, force_terminal=True, color_system=None).print(made)
    writer(width=40).print(made)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == 2 * [
        ["session", "owner", "opened", "reason"],
        [ID, INSTANCE, *AT.split(), "left"],
    ]
