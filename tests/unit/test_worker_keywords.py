"""The keywords of `Worker`: those of the settings that a worker uses, with the types that these accept."""

from __future__ import annotations

import typing
from typing import Any

import pytest
from pydantic import SecretStr

from coordinator import ConfigurationError, Worker
from coordinator.keyring import KeySource
from coordinator.settings import Settings, parse_duration, parse_labels, parse_size
from coordinator.settings.groups import Program, is_used
from coordinator.settings.keywords import GivenDuration, GivenLabels, GivenSecret, GivenSize, WorkerSettings
from tests.typed import faults_in

RIGHT = """
from datetime import timedelta
from coordinator import Worker
from coordinator.keyring import KeyRing

def keys() -> KeyRing: return KeyRing.parse("")

Worker()
Worker("redis://h", name="a", pool="p", capacity=50, labels={"zone": "a"}, dead_after=2, lease="3s", heartbeat_interval=0.25)
Worker(redis_url="redis://h", labels="zone=a", max_data_bytes="64KiB", log_format="json", profile="fast", name=None)
Worker(encryption_keys="k:a2V5"), Worker(encryption_keys=keys()), Worker(encryption_keys=keys)
"""
WRONG = {
    'Worker(nmae="a")': 'Unexpected keyword argument "nmae" for "Worker"',
    "Worker(http_port=9410)": 'Unexpected keyword argument "http_port" for "Worker"',
    'Worker(capacity="many")': 'Argument "capacity" to "Worker" has incompatible type "str"; expected "int | None"',
    "Worker(dead_after=timedelta(seconds=2))": 'Argument "dead_after" to "Worker" has incompatible type "timedelta"',
    'Worker(labels=["zone"])': 'Argument "labels" to "Worker" has incompatible type "list[str]"',
    'Worker(log_level="loud")': 'Argument "log_level" to "Worker" has incompatible type "Literal[\'loud\']"',
}


def test_a_type_checker_tells_right_keywords_from_wrong_ones() -> None:
    """A misspelt keyword, one that is not a worker's and one of a wrong type are faults, each on its line; the others are not."""
    found = faults_in(RIGHT + "\n".join(WRONG))
    first = len(RIGHT.splitlines()) + 1
    assert [line for line, _ in found] == [*range(first, first + len(WRONG))]
    for (_, said), expected in zip(found, WRONG.values(), strict=True):
        assert said.startswith(expected)


@pytest.mark.parametrize("values", [{"deadafter": "2s"}, {"nmae": "a"}])
def test_a_misspelt_keyword_is_told_at_run_time(values: dict[str, Any]) -> None:
    """Where no type checker looks: with the one that was meant."""
    with pytest.raises(ConfigurationError, match=r"is not a setting; did you mean (dead_after|name)\?"):
        Worker("redis://h", **values)


def given_as(name: str) -> Any:
    """The type that the keyword of a setting should have."""
    field = Settings.model_fields[name]
    parsers = {getattr(one, "func", None) for one in field.metadata}
    if name == "encryption_keys":
        return GivenSecret | KeySource
    for parser, kind in ((parse_duration, GivenDuration), (parse_size, GivenSize), (parse_labels, GivenLabels)):
        if parser in parsers or parser.__name__ in str(field.annotation):
            return kind
    return GivenSecret if SecretStr in typing.get_args(field.annotation) else typing.Optional[field.annotation]  # noqa: UP045


def test_the_keywords_are_the_settings_of_a_worker() -> None:
    """By name and type: a setting that comes, goes or changes takes its keyword along."""
    hints = typing.get_type_hints(WorkerSettings)
    wanted = {name: given_as(name) for name, field in Settings.model_fields.items() if is_used(field, Program.WORKER)}
    assert hints == wanted
