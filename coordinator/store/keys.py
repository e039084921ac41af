"""Every key of a partition: name, type and whether it may stay for ever.

All keys of partition *p* carry the hash tag ``{prefix:p}``, so that one Cluster slot holds them and one script
sees everything that a decision needs. The kind comes before the id, and the id is last.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator.states import SERVED, InstanceState, SessionState

__all__ = ["KINDS", "PERMANENT", "PERMANENT_WHILE", "TYPES", "Keys", "kind_of"]

PERMANENT = (
    "meta",
    "instances",
    "graves",
    "leases",
    "orphans",
    "offers",
    "dead-letters",
    "events",
    "detector",
    "names",
    "quarantine",
    "owned",
    "blamed",
)
"""Kinds of keys that have no expiry: one of each a partition (or pool, or living instance), all bounded."""

PERMANENT_WHILE = {
    "session": (*SERVED, SessionState.OFFERED),
    "instance": tuple(InstanceState),
}
"""Kinds that have no expiry in these states; a dead instance has none only as long as it is a grave."""

TYPES = {
    "meta": "hash", "instances": "zset", "graves": "zset", "leases": "zset", "orphans": "zset", "offers": "stream",
    "dead-letters": "zset", "events": "stream", "detector": "hash", "names": "hash", "quarantine": "zset", "owned": "set",
    "blamed": "zset", "session": "hash", "instance": "hash", "letter": "hash",
}  # fmt: skip
"""Kind of a key -> its type, as ``TYPE`` says it."""

KINDS = frozenset({*PERMANENT, *PERMANENT_WHILE, "letter", "mailbox", "scratch", "set-aside", "set-aside-key"})
"""Every kind of key, and the channel."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one partition.

    Args:
        prefix: what all keys of a deployment begin with, ``recovery`` by default.
        partition: number of the partition, from 0.
    """

    prefix: str
    partition: int
    tag: str = field(init=False)
    meta: str = field(init=False)
    """HASH: partitions, protocol, lineage, server, epoch_floor, epoch_highest, lost_at_ms, hold_ms."""
    instances: str = field(init=False)
    """ZSET: instance id -> deadline (ms, server clock)."""
    graves: str = field(init=False)
    """ZSET: dead instance -> when to look again (ms)."""
    leases: str = field(init=False)
    """ZSET: offered session -> end of the lease (ms)."""
    orphans: str = field(init=False)
    """ZSET: session without an owner -> since when (ms)."""
    dead_letters: str = field(init=False)
    """ZSET: session given up on -> when (ms)."""
    events: str = field(init=False)
    """STREAM: what happened, bounded."""
    detector: str = field(init=False)
    """HASH: the last scan, the hold and its reason."""
    names: str = field(init=False)
    """HASH: instance name -> newest instance id, for succession."""

    quarantine: str = field(init=False)
    """ZSET: what does not parse and was set aside -> when (ms)."""

    def __post_init__(self) -> None:
        tag = f"{{{self.prefix}:{self.partition}}}"
        values = {
            "tag": tag,
            "meta": f"{tag}:meta",
            "instances": f"{tag}:instances",
            "graves": f"{tag}:graves",
            "leases": f"{tag}:leases",
            "orphans": f"{tag}:orphans",
            "dead_letters": f"{tag}:dead-letters",
            "events": f"{tag}:events",
            "detector": f"{tag}:detector",
            "names": f"{tag}:names",
            "quarantine": f"{tag}:quarantine",
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, key: str) -> Keys:
        """The partition of one of this project's keys.

        Raises:
            ValueError: it is not one of this project's keys.
        """
        kind_of(key)
        prefix, _, partition = key[1 : key.index("}:")].rpartition(":")
        return cls(prefix, int(partition))

    def set_aside(self, member: str) -> str:
        """HASH: what is in quarantine under this name: the reason, and the fields as they were."""
        return f"{self.tag}:set-aside:{member}"

    def set_aside_key(self, member: str) -> str:
        """ANY: a key of another type than its kind has, as it was."""
        return f"{self.tag}:set-aside-key:{member}"

    @property
    def scratch(self) -> str:
        """A key to try a right on; it exists only inside a script."""
        return f"{self.tag}:scratch"

    @property
    def session_prefix(self) -> str:
        """What the keys of all session records begin with."""
        return f"{self.tag}:session:"

    def session(self, session_id: str) -> str:
        """HASH: the session record."""
        return f"{self.tag}:session:{session_id}"

    def blamed(self, instance_id: str) -> str:
        """ZSET: sessions of an instance that have died with another one before -> when it got them (ms)."""
        return f"{self.tag}:blamed:{instance_id}"

    def letter(self, session_id: str, epoch: str | int) -> str:
        """HASH: a dead letter whose id was opened again, kept under its last epoch."""
        return f"{self.tag}:letter:{epoch}:{session_id}"

    @staticmethod
    def letter_member(session_id: str, epoch: str) -> str:
        """Its name in the index of dead letters; the id alone where ``epoch`` is ''."""
        return f"{session_id} {epoch}" if epoch else session_id

    def dead_letter(self, member: str) -> str:
        """HASH: the record of a member of the index of dead letters: an id, or an id and the epoch under which it is kept."""
        session_id, _, epoch = member.partition(" ")
        return self.letter(session_id, epoch) if epoch else self.session(session_id)

    def letter_or_record(self, session_id: str, epoch: str) -> str:
        """HASH: that dead letter; the session record where ``epoch`` is ''."""
        return self.letter(session_id, epoch) if epoch else self.session(session_id)

    def record(self, kind: str, name: str) -> str:
        """The key of a kind; ``name`` is what it is about, '' where there is one of a kind."""
        return f"{self.tag}:{kind}:{name}" if name else f"{self.tag}:{kind}"

    def index(self, name: str) -> str:
        """An index by what follows the tag, as ``graves`` or ``offers:default``."""
        return f"{self.tag}:{name}"

    def owned(self, instance_id: str) -> str:
        """SET: ids of the sessions that an instance owns."""
        return f"{self.tag}:owned:{instance_id}"

    def instance(self, instance_id: str) -> str:
        """HASH: the instance record; after a death it refuses the dead instance."""
        return f"{self.tag}:instance:{instance_id}"

    def offers(self, pool: str) -> str:
        """STREAM: offers to the instances of a pool, consumer group ``workers``."""
        return f"{self.tag}:offers:{pool}"

    def mailbox(self, instance_id: str) -> str:
        """Pub/sub channel by which an instance hears at once (``ask <session>``, ``yours <session>``)."""
        return f"{self.tag}:mailbox:{instance_id}"


def kind_of(key: str) -> str:
    """The kind of a key of any partition: ``{recovery:0}:session:abc`` is a ``session``.

    Raises:
        ValueError: it is not one of this project's keys.
    """
    if not key.startswith("{") or "}:" not in key:
        raise ValueError(f"{key!r} is not a key of a partition: it has no hash tag")
    return key.split("}:", 1)[1].split(":", 1)[0]
