"""Records of decisions: one form, an index that lists them all, and successors that are there."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "adr"
RECORDS = sorted(path.name for path in FOLDER.glob("*.md") if path.name != "README.md")
HEAD = re.compile(
    r"# (?P<number>\d+)\. (?P<title>.+)\n\n- Status: (?P<status>.+)\n- Date: (?P<date>\d{4}-\d\d-\d\d)\n\n"
)
LINK = r"\[ADR (?P<number>\d+)\]\((?P<file>[\w.-]+)\)"
STATUS = re.compile(
    rf"accepted(; (amended by|superseded in part by) {LINK}: .+)?|superseded by {LINK.replace('P<', 'P<next_')}"
)


def head(name: str) -> re.Match[str]:
    """The lines with which a record begins."""
    found = HEAD.match((FOLDER / name).read_text())
    assert found, f"{name} does not begin with its title, '- Status:' and '- Date:'"
    return found


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_begins_with_its_number_status_and_date(name: str) -> None:
    """The number is that of its file, the status one of four, the date a day that has been."""
    found = head(name)
    assert int(found["number"]) == int(name[:4])
    assert STATUS.fullmatch(found["status"]), found["status"]
    day = datetime.date.fromisoformat(found["date"])
    assert day <= datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=1)


def test_numbers_are_without_a_gap() -> None:
    """None is missing or given twice."""
    assert [int(name[:4]) for name in RECORDS] == list(range(1, len(RECORDS) + 1))


@pytest.mark.parametrize("name", RECORDS)
def test_a_successor_is_there_and_later(name: str) -> None:
    """Who names one names it by its number and its file."""
    for number, file in re.findall(LINK, head(name)["status"]):
        assert file in RECORDS
        assert int(file[:4]) == int(number) > int(name[:4])


def test_the_index_lists_all() -> None:
    """Each with its title, its status without what of it, and its date."""
    rows = re.findall(r"^\| \d.*$", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert rows == [
        f"| {h['number']} | [{h['title']}]({name}) | {h['status'].split(': ')[0]} | {h['date']} |"
        for name, h in ((name, head(name)) for name in RECORDS)
    ]
