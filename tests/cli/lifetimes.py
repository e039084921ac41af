"""What lies where for how long: every kind of key, and what is kept outside Redis; for the table in the docs."""

from __future__ import annotations

__all__ = ["KEYS", "lifetimes_table"]

IDS = "ids of calls"
WORDS = "words of workers (address, labels, reasons)"

KEYS: dict[str, tuple[str, str]] = {
    "session": (
        f"{IDS}, recovery data, tenant, {WORDS}",
        "the data goes when the call is closed or purged; the rest `CLOSED_TTL` after that; a dead letter, with its data, after "
        "`DEAD_LETTER_TTL`",
    ),
    "letter": (
        "the same, of a dead letter whose id was opened again",
        "`DEAD_LETTER_TTL` after it became one; purged, its data goes at once",
    ),
    "offers": (f"{IDS}, recovery data up to 8 KiB", "when the call is adopted, given up on or closed"),
    "events": (f"{IDS}, {WORDS}, no recovery data", "about 10,000 entries a partition; no time"),
    "instance": (f"{WORDS}, the SHA-256 hash of its Worker-Token", "`FENCED_TTL` after its death"),
    "owned": (IDS, "when the call has another owner or none, and with its instance"),
    "blamed": (IDS, "when the call has ended, and with its instance"),
    "leases": (IDS, "when the call is adopted, given up on or closed"),
    "orphans": (IDS, "when the call is adopted, given up on or closed"),
    "dead-letters": (IDS, "with the record, at the next look"),
    "quarantine": (IDS, "with what was set aside, at the next look; the oldest go above 1,000"),
    "set-aside": ("a record as it was, recovery data too", "7 days after it was set aside, or dropped"),
    "set-aside-key": ("a key of another type as it was", "7 days after it was set aside, or dropped"),
    "instances": ("nothing of a call", "when the instance is dead"),
    "graves": ("nothing of a call", "when its calls are claimed"),
    "names": ("nothing of a call", "with the instance, at the next look"),
    "meta": ("nothing of a call", "never"),
    "detector": ("nothing of a call", "never"),
    "mailbox": (IDS, "a channel: nothing stays"),
    "scratch": ("nothing", "nothing is ever there"),
}
"""Kind of key -> what of a person it can hold, and when that ends."""

OUTSIDE: dict[str, tuple[str, str]] = {
    "session store (`voicesession:…`)": (
        "conversations; sealed with `ENCRYPTION_KEYS`", "24 h after the last save or heartbeat (`ttl`)",
    ),
    "Redis's files and replicas, and backups of them": (
        "all of the above", "as long as you keep them: an expiry does not reach them",
    ),
    "memory of a worker or sidecar": (
        "data of its own calls; answers by Idempotency-Key", "with the call; ten minutes, 16 MiB at most",
    ),
    "`RECOVERY_SESSIONS_FILE`, `RECOVERY_SESSIONS`": (
        "data of the calls that a supervised process is started with", "when that process ends",
    ),
    "logs": (f"{IDS}, of instances, reasons; no recovery data, no token", "as long as you keep them"),
    "metrics": ("nothing of a call: no label is an id", "as long as you keep them"),
    "annotations of pods (`POD_DELETION_COST`)": ("a number of calls", "with the pod"),
}  # fmt: skip
"""Place -> the same."""


def lifetimes_table() -> str:
    """All of it."""
    rows = ["| where | what of a call or a person it can hold | until when |", "|---|---|---|"]
    rows += [f"| `{kind}` | {holds} | {ends} |" for kind, (holds, ends) in KEYS.items()]
    return "\n".join([*rows, *(f"| {place} | {holds} | {ends} |" for place, (holds, ends) in OUTSIDE.items())])
