"""Every script that writes for an owner refuses everybody else, for each reason and in the same words."""

from __future__ import annotations

from importlib import resources

import pytest

from tests.store.harness import Bench
from tests.store.writers import OWNERS_CHECK, REASONS, WRITERS, Reason, Writer, asked, check_owner, check_refusal

CASES = [(writer, reason) for writer in WRITERS for reason in REASONS if asked(writer, reason)]


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.name)
def test_the_owner_is_let_through(bench: Bench, writer: Writer) -> None:
    """Else its refusals would say nothing."""
    check_owner(bench, writer)
    bench.client.flushall()


@pytest.mark.parametrize(("writer", "reason"), CASES, ids=[f"{w.name}-{r.name}" for w, r in CASES])
def test_nobody_else_is(bench: Bench, writer: Writer, reason: Reason) -> None:
    """It is answered by the one rule, nothing is written, and a refusal for good is told once."""
    check_refusal(bench, writer, reason)
    bench.client.flushall()


WRITES_FOR_AN_OWNER = {
    "checkpoint", "close", "hand_over", "let_go", "release", "resumed", "trust",
    "sessions.create", "sessions.delete", "sessions.heartbeat", "sessions.save",
}  # fmt: skip
"""At least these: another is found by itself."""


def test_no_writer_has_a_rule_of_its_own() -> None:
    """Whoever compares the owner and the epoch of a record with an instance's does it by the one rule."""
    assert {writer.name for writer in WRITERS} >= WRITES_FOR_AN_OWNER
    for package in ("coordinator.store", "coordinator.sessions"):
        folder = resources.files(package) / "lua"
        texts = [f for part in (folder, folder / "lib") for f in part.iterdir() if f.name.endswith(".lua")]
        own = {f.name for f in texts if "r.epoch ~= epoch" in f.read_text() and "r.owner ~= owner" in f.read_text()}
        assert own <= {f"{OWNERS_CHECK}.lua", "renew.lua"}, (
            "a renewal is what follows a re-assertion, with answers of its own"
        )
