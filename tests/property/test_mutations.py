"""A rule taken out of a script on purpose: the state machine must notice each; and of the owner's check, the tests of every writer."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import pytest
import redis

from tests.property import planted
from tests.property.test_state_machine import ProtocolMachine
from tests.store.harness import Bench
from tests.store.writers import REASONS, WRITERS, Writer, asked, check_owner, check_refusal

STEPS = 50

MUTATIONS = {
    "an older checkpoint overwrites": ("checkpoint", "if tonumber(sequence) > stored or", "if true or"),
    "a checkpoint of another epoch counts": ("checkpoint", "or r.epoch ~= epoch or", "or"),
    "a dead worker may write": ("checkpoint", "if state == 'dead' then", "if state == 'none' then"),
    "a stale offer is adopted": ("adopt", "(epoch ~= '' and r.epoch ~= epoch)", "false"),
    "an adopted session stays an orphan": ("adopt", "redis.call('ZREM', orphans, id)", ""),
    "a repeated adoption is another one": (
        "adopt",
        "r.owner == owner and (r.request == request or",
        "false and (r.request == request or",
    ),
    "a claim leaves the index": ("claim", "redis.call('SREM', owned, unpack(removed))", ""),
    "a claim forgets its leases": ("claim", "redis.call('ZADD', leases, unpack(leased))", ""),
    "a claim takes the sessions of others": ("claim", "if r.owner ~= grave or", "if"),
    "an epoch stands still": ("claim", "own_epoch(stored) + 1,", "0, (function() now = 0; return 0 end)(),"),
    "an owner lets go to the dead": (
        "let_go",
        "if read_instance(heir, 'state', 'roll').state ~= 'alive' then",
        "if false then",
    ),
    "the dead let go": ("let_go", "if state == 'dead' then", "if state == 'none' then"),
    "a lease ends early": ("expire", "return { 'EARLY' }", ""),
    "a death is written twice": ("certify", "return { 'ALREADY'", "if false then return {} end return { 'OK'"),
    "opening takes a call from its owner": ("open", "return { 'OWNED'", "if false then return {} end return { 'OK'"),
}

LONG = {"an owner lets go to the dead"}
"""It takes a minute, and tests of its script notice it too: `make model` runs it as well."""

FOUND = {
    "an older checkpoint overwrites": 30,
    "a checkpoint of another epoch counts": 8,
    "a dead worker may write": 2,
    "a stale offer is adopted": 4,
    "an adopted session stays an orphan": 3,
    "a repeated adoption is another one": 3,
    "a claim leaves the index": 17,
    "a claim forgets its leases": 17,
    "a claim takes the sessions of others": 1,
    "an epoch stands still": 17,
    "the dead let go": 3,
    "a lease ends early": 3,
    "a death is written twice": 1,
    "opening takes a call from its owner": 1,
}
"""A seed that finds each at once. When the machine or a rule changes, others find it, and it takes seconds."""


class Machine(ProtocolMachine):
    """On the server of the test."""


@pytest.fixture(autouse=True)
def server(redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the test."""
    monkeypatch.setattr(Machine, "client", redis_client, raising=False)


@pytest.mark.parametrize("mutation", [m for m in MUTATIONS if m not in LONG or os.environ.get("ALL_MUTATIONS")])
def test_a_planted_mutation_is_noticed(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state machine fails when a script has lost this rule."""
    script, old, new = MUTATIONS[mutation]
    planted.plant(monkeypatch, {script: (old, new)})
    with pytest.raises((AssertionError, ExceptionGroup, redis.ResponseError, KeyError, ValueError)):
        planted.run(Machine, STEPS, [FOUND.get(mutation, 0), *range(planted.SEEDS)])


def test_without_a_mutation_nothing_is_noticed() -> None:
    """What finds them finds nothing in the scripts as they are."""
    planted.run(Machine, STEPS, sorted(set(FOUND.values())))


@dataclass(frozen=True)
class Mutation:
    """A rule of ``owner.lua`` or ``refuse.lua`` that is not there.

    Attributes:
        old, new: its text, and what stands in its place.
        noticed: in the refusals for this reason.
        unnoticed: writers that do not have the rule, or not from there.
    """

    old: str
    new: str
    noticed: str
    unnoticed: tuple[str, ...] = ()


NOT_TRUST = ("trust",)  # it permits to believe for a moment, and knows neither lost writes nor events
ANSWER_HELD = ("hand_over", "let_go", "release")  # before the owner's check
OWNERS_CHECK = {
    "another owner counts": Mutation("if r.owner ~= owner or", "if", "another owner"),
    "another epoch counts": Mutation("or r.epoch ~= epoch or", "or", "a newer epoch of the same owner"),
    "an older epoch of the same owner counts": Mutation(
        " or r.epoch ~= epoch", " or tonumber(r.epoch) < tonumber(epoch)", "a newer epoch of the same owner"
    ),
    "what its owner no longer has counts": Mutation(
        "(state ~= 'active' and state ~= 'handing_over' and state ~= ended)", "false", "it is a dead letter"
    ),
    "what was handed to others counts": Mutation("and state ~= ended", "and state ~= 'offered'", "it is offered"),
    "a dead instance counts": Mutation("elseif state == 'dead' then", "elseif false then", "its owner is dead"),
    "an unknown instance counts": Mutation("if not state then\n    return 'unknown'", "if false then", "its owner is unknown"),
    "what the store forgot fences the writer": Mutation(
        "not r.state or tonumber(r.epoch) < tonumber(epoch) then", "not r.state then", "the store has an older epoch", NOT_TRUST
    ),
    "a hold holds nobody": Mutation(
        "elseif held or why == 'behind'", "elseif why == 'behind'", "there is a hold", (*NOT_TRUST, *ANSWER_HELD)
    ),
    "what was stated again is written at once": Mutation(
        "elseif r.anew == '1' then", "elseif false then", "it was stated again", NOT_TRUST
    ),
    "a refusal is told nobody": Mutation(
        "event_of_refusal(events, now, operation, id, owner, epoch, r)", "", "another owner", NOT_TRUST
    ),
}  # fmt: skip
NOTICED = [(m, writer) for m, rule in OWNERS_CHECK.items() for writer in WRITERS if writer.name not in rule.unnoticed]


@pytest.mark.parametrize(("mutation", "writer"), NOTICED, ids=[f"{m}-{w.name}" for m, w in NOTICED])
def test_each_writer_notices_a_rule_taken_out_of_the_owner_s_check(
    redis_client: redis.Redis, mutation: str, writer: Writer
) -> None:
    """The tests of each that has the check fail by themselves, while it still lets the owner through."""
    rule, bench = OWNERS_CHECK[mutation], Bench(redis_client)
    mutant = replace(writer, script=planted.mutant(writer.script, rule.old, rule.new))
    [reason] = [one for one in REASONS if one.name == rule.noticed and asked(writer, one)]
    check_owner(bench, mutant)
    with pytest.raises(AssertionError):
        check_refusal(bench, mutant, reason)
    redis_client.flushall()
