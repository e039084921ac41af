"""A rule taken out of a script on purpose: the state machine must notice each."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from types import MappingProxyType

import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from coordinator.store import calls
from coordinator.store.scripts import SCRIPTS
from tests.property.test_state_machine import ProtocolMachine

MUTATIONS = {
    "an older checkpoint overwrites": ("checkpoint", "if tonumber(sequence) > stored then", "if true then"),
    "a checkpoint of another epoch counts": ("checkpoint", "or r.epoch ~= epoch or", "or"),
    "a dead worker may write": ("checkpoint", "if state == 'dead' then", "if state == 'none' then"),
    "a stale offer is adopted": ("adopt", "(epoch ~= '' and r.epoch ~= epoch)", "false"),
    "an adopted session stays an orphan": ("adopt", "redis.call('ZREM', orphans, id)", ""),
    "a repeated adoption is another one": ("adopt", "r.request == request or epoch == ''", "false"),
    "a claim leaves the index": ("claim", "redis.call('SREM', owned, unpack(removed))", ""),
    "a claim forgets its leases": ("claim", "redis.call('ZADD', leases, unpack(leased))", ""),
    "a claim takes the sessions of others": ("claim", "if r.owner ~= grave or", "if"),
    "an epoch stands still": ("claim", "(tonumber(stored) or 0) + 1,", "0, (function() now = 0; return 0 end)(),"),
    "an owner lets go to the dead": ("let_go", "'dead'", "'none'"),
    "a lease ends early": ("expire", "return { 'EARLY' }", ""),
    "a death is written twice": ("certify", "return { 'ALREADY'", "if false then return {} end return { 'OK'"),
    "opening takes a call from its owner": ("open", "return { 'OWNED'", "if false then return {} end return { 'OK'"),
}

LONG = {"a lease ends early", "an older checkpoint overwrites", "a stale offer is adopted"}
"""They take a minute together, and tests of their scripts notice them too: `make model` runs all."""


@pytest.mark.parametrize("mutation", [m for m in MUTATIONS if m not in LONG or os.environ.get("ALL_MUTATIONS")])
def test_a_planted_mutation_is_noticed(
    mutation: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state machine fails when a script has lost this rule."""
    name, old, new = MUTATIONS[mutation]
    script = SCRIPTS[name]
    text = script.source.decode()
    assert old in text, "the mutation names text that is not in the script"
    source = text.replace(old, new).encode()
    mutant = replace(script, source=source, sha=hashlib.sha1(source, usedforsecurity=False).hexdigest())
    monkeypatch.setattr(calls, "SCRIPTS", MappingProxyType({**SCRIPTS, name: mutant}))

    class Machine(ProtocolMachine):
        client = redis_client

    with pytest.raises((AssertionError, ExceptionGroup, redis.ResponseError, KeyError, ValueError)):
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=1500,
                stateful_step_count=50,
                deadline=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
                report_multiple_bugs=False,
            ),
        )
