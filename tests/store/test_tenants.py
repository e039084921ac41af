"""Instances that are bound to a tenant: the scripts themselves refuse them what is another's."""

from __future__ import annotations

import pytest

from coordinator.store import calls
from tests.store.answers import Answer
from tests.store.harness import LEASE, Bench

A, B, ANY = "a~1", "b~1", "any~1"


@pytest.fixture
def tenants(bench: Bench) -> Bench:
    """Three instances, one of them bound to nobody; a call of ``acme`` and one without a tenant, both of the last."""
    bench.init(hold_ms=1)
    for instance, tenant in ((A, "acme"), (B, "globex"), (ANY, "")):
        assert _join(bench, instance, tenant).word == "OK"
    for session, tenant in (("acme's", "acme"), ("nobody's", "")):
        call = calls.open(
            bench.keys, session=session, instance=ANY, request=bench.request(), floor=0, pool="default", tenant=tenant,
            requires="", data=b"",
        )  # fmt: skip
        assert bench.run(call).word == "OK"
    return bench


def _join(bench: Bench, instance: str, tenant: str, again: bool = False) -> Answer:
    return bench.run(
        calls.join(
            bench.keys, instance=instance, name=instance.split("~")[0], pool="default", capacity=10, labels="{}", address="",
            dead_after=60, trust=0.75, tenant=tenant, again=again,
        )
    )  # fmt: skip


def _ask(bench: Bench, session: str, heir: str) -> str:
    call = calls.ask(bench.keys, session=session, instance=heir, owner=ANY, request="r", lease=LEASE)
    return bench.run(call).word


@pytest.mark.parametrize(("session", "who"), [("acme's", B), ("nobody's", A), ("nobody's", B)])
def test_a_foreign_adopter_is_refused(tenants: Bench, session: str, who: str) -> None:
    """Alive or an orphan, by id or by its offer: it learns nothing of the session, and changes nothing."""
    assert tenants.adopt(session, who, None).word == "FOREIGN"
    tenants.release(session, ANY, int(tenants.record(session)["epoch"]))
    before = tenants.record(session)
    for epoch in (None, int(before["epoch"])):
        answer = tenants.adopt(session, who, epoch)
        assert (answer.word, dict(answer.fields)) == ("FOREIGN", {})
    assert tenants.record(session) == before


@pytest.mark.parametrize(
    ("session", "who", "word"), [("acme's", B, "FOREIGN"), ("nobody's", A, "FOREIGN"), ("acme's", A, "OK")]
)
def test_a_foreign_heir_may_not_ask(tenants: Bench, session: str, who: str, word: str) -> None:
    """The owner is not told, and goes on."""
    assert _ask(tenants, session, who) == word
    assert tenants.record(session)["state"] == ("active" if word == "FOREIGN" else "handing_over")


@pytest.mark.parametrize("who", [A, ANY])
def test_its_own_and_who_is_bound_to_none_may_adopt(tenants: Bench, who: str) -> None:
    """As they did before there were bound ones."""
    tenants.release("acme's", ANY, int(tenants.record("acme's")["epoch"]))
    assert tenants.adopt("acme's", who, None).word == "OK"


def test_an_entry_names_the_tenant(tenants: Bench) -> None:
    """However the session comes to be offered, so that readers can tell without a look at its record."""

    def named() -> set[bytes]:
        entries = tenants.client.xrange(tenants.keys.offers("default"))
        return {fields[b"tenant"] for _, fields in entries}

    def epoch() -> int:
        return int(tenants.record("acme's")["epoch"])

    tenants.release("acme's", ANY, epoch())
    assert named() == {b"acme"}  # release
    tenants.read_offers(B)
    tenants.decline("acme's", B, epoch(), counts=False)
    assert named() == {b"acme"}  # decline
    tenants.read_offers(B)
    tenants.end_lease("acme's")
    tenants.expire("acme's")
    assert named() == {b"acme"}  # expire
    tenants.end_lease("acme's")
    tenants.expire("acme's", give_up_after_ms=0)
    replay = calls.replay(tenants.keys, session="acme's", pool="default", lease=LEASE)
    assert tenants.run(replay).word == "OK"
    assert named() == {b"acme"}  # replay
    tenants.adopt("acme's", ANY, None)
    tenants.run(
        calls.hand_over(tenants.keys, session="acme's", instance=ANY, epoch=epoch(), pool="default", lease=0.009)
    )
    assert named() == {b"acme"}  # hand_over
    tenants.certify(ANY)
    tenants.claim(ANY, ["acme's"])
    assert named() == {b"acme"}  # claim


def test_an_instance_stays_bound_when_it_registers_anew(tenants: Bench) -> None:
    """Its record lost, or set aside: what it says of itself is written again, the tenant too."""
    tenants.client.delete(tenants.keys.instance(B))
    assert tenants.adopt("acme's", B, None).word == "UNKNOWN"
    _join(tenants, B, "globex", again=True)
    assert tenants.adopt("acme's", B, None).word == "FOREIGN"
