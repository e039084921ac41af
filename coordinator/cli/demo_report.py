"""What the demo prints of its calls."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.cli.demo_calls import Calls, DemoCall
from coordinator.cli.figures import percentile, rounded
from coordinator.cli.tables import Writer, coloured

__all__ = ["as_data", "line_of", "print_summary"]

DATA = {
    "acknowledged": "equals the last checkpoint",
    "different": "DIFFERS from what was checkpointed",
    "unknown": "not seen",
}


def line_of(call: DemoCall) -> str:
    """One recovered call in one line; times count from the death of its owner."""
    return (
        f"{call.session}: {call.owner} died, +{call.since_death(call.declared_ms)} ms declared ({call.cause}), "
        f"+{call.since_death(call.offered_ms)} ms offered, "
        f"+{call.since_death(call.adopted_ms)} ms adopted by {call.adopter}, "
        f"epoch {call.epoch_before} -> {call.epoch_after}, data {DATA[call.verdict]}"
    )


def as_data(calls: Calls, killed: Mapping[str, str], seconds: float) -> dict[str, object]:
    """The whole run for ``--json``; ``ok`` is what the exit status says."""
    dead = [call for call in calls.by_session.values() if call.owner in killed]
    adopted = [at for call in dead if (at := call.since_death(call.adopted_ms)) is not None]
    undisturbed = [c for c in calls.by_session.values() if c.owner not in killed and not c.fenced and not c.adopter]
    recovered = [call for call in dead if call.recovered]
    return {
        "ok": bool(dead) and len(recovered) == len(dead) and len(undisturbed) + len(dead) == len(calls.by_session),
        "seconds": rounded(seconds, 2),
        "killed": dict(killed),
        "calls": len(calls.by_session),
        "orphaned": len(dead),
        "recovered": len(recovered),
        "undisturbed": len(undisturbed),
        "death_to_adopted_ms": {"p50": percentile(adopted, 0.5), "p99": percentile(adopted, 0.99)},
        "data": {verdict: sum(call.verdict == verdict for call in dead) for verdict in DATA},
        "recoveries": [call.as_data() for call in dead],
    }


def print_summary(out: Writer, calls: Calls, killed: Mapping[str, str], seconds: float) -> None:
    """The run summed up, and each call that was not recovered."""
    result = as_data(calls, killed, seconds)
    dead = [call for call in calls.by_session.values() if call.owner in killed]
    for call in dead:
        if not call.recovered:
            out.print(coloured("NOT RECOVERED", "red"), line_of(call))
    times = [at for call in dead if (at := call.since_death(call.adopted_ms)) is not None]
    p50, p99 = percentile(times, 0.5), percentile(times, 0.99)
    equal = sum(call.verdict == "acknowledged" for call in dead)
    out.print()
    out.print(f"{result['recovered']} of {result['orphaned']} orphaned calls recovered.")
    out.print(f"All in all it took {seconds:.1f} s, with the start of all processes.")
    if p50 is not None and p99 is not None:
        out.print(f"Death of the owner to adopted: p50 {p50:.0f} ms, p99 {p99:.0f} ms.")
    out.print(f"Data: {equal} of {len(dead)} adopters were given the checkpoint that Redis had accepted last.")
    out.print(f"{result['undisturbed']} calls of living workers were not disturbed.")
    out.print(coloured("OK", "green") if result["ok"] else coloured("FAILED", "red"))
