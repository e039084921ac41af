"""`coordinator certify`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.store.harness import Bench


@pytest.mark.parametrize("named", ["voice-1~1", "voice-1"])
def test_an_instance_is_certified_by_id_or_name(run: Any, bench: Bench, named: str) -> None:
    """It is dead at once, with who said so and why; its calls are a grave's."""
    result = run("certify", named, "--reason", "node lost", "--json")
    assert result.exit_code == 0
    [row] = json.loads(result.stdout)["certificates"]
    assert (row["instance"], row["outcome"], row["sessions"]) == ("voice-1~1", "certified", 1)
    stored = bench.client.hgetall(bench.keys.instance("voice-1~1"))
    assert (stored[b"state"], stored[b"cause"], stored[b"reason"]) == (b"dead", b"operator", b"node lost")
    assert stored[b"by"]
    assert bench.members(bench.keys.graves) == {"voice-1~1"}


def test_a_certificate_is_written_once(run: Any, bench: Bench) -> None:
    """A second one changes nothing: exit status 1, and the cause of the first."""
    bench.certify("voice-1~1", cause="exited")
    result = run("certify", "voice-1~1", "--json")
    assert result.exit_code == 1
    [row] = json.loads(result.stdout)["certificates"]
    assert (row["outcome"], row["cause"]) == ("already_dead", "exited")
    assert bench.client.hget(bench.keys.instance("voice-1~1"), "cause") == b"exited"


@pytest.mark.parametrize("named", ["nobody", "nobody~1"])
def test_an_unknown_instance(run: Any, bench: Bench, named: str) -> None:
    """None has that id or name: exit status 1 with a sentence, and nothing is made."""
    result = run("certify", named)
    assert (result.exit_code, result.stderr) == (1, f"coordinator: no living instance has the id or name {named}\n")
    assert not bench.client.exists(bench.keys.instance("nobody~1"))


def test_nonsense_is_wrong_usage(run: Any, bench: Bench) -> None:
    """What can be neither id nor name is exit status 2."""
    assert run("certify", "two words").exit_code == 2
