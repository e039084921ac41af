"""The session store: conversations that outlive their workers, readable by Go programs that use omnivoice-core.

Needs the extra ``sessions``: ``pip install ".[sessions]"`` in its sources.
"""

from coordinator.sessions import installed as installed  # first: it says what is missing

# isort: split
from coordinator.keyring import KeyFile, KeyRing
from coordinator.sessions.aliases import Alias
from coordinator.sessions.breaker import CircuitBreaker
from coordinator.sessions.configured import configured_keys
from coordinator.sessions.errors import (
    CircuitOpenError,
    CorruptSessionError,
    InvalidStateError,
    KeyUnknownError,
    PlaintextRefusedError,
    SealBrokenError,
    SessionConflictError,
    SessionEndedError,
    SessionExistsError,
    SessionLimitError,
    SessionNotFoundError,
    StoreClosedError,
    TenantError,
)
from coordinator.sessions.guard import RetryRule
from coordinator.sessions.manager import Restored, SessionManager
from coordinator.sessions.memory import MemoryStore
from coordinator.sessions.metrics import StoreMetrics
from coordinator.sessions.recovery import Recovered, recover, restore
from coordinator.sessions.redis import RedisStore
from coordinator.sessions.state import Direction, SessionMetrics, SessionState, SessionStatus, Turn, responses_ms
from coordinator.sessions.store import SessionStore
from coordinator.sessions.tenants import Tenants
from coordinator.sessions.timestamp import Timestamp
from coordinator.voice import CallProgress, CallState, LatencyTotals, PartTotal, TurnLatencies
from coordinator.voice.meter import TurnMeter, VoiceMetrics

__all__ = [
    "Alias",
    "CallProgress",
    "CallState",
    "CircuitBreaker",
    "CircuitOpenError",
    "CorruptSessionError",
    "Direction",
    "InvalidStateError",
    "KeyFile",
    "KeyRing",
    "KeyUnknownError",
    "LatencyTotals",
    "MemoryStore",
    "PartTotal",
    "PlaintextRefusedError",
    "Recovered",
    "RedisStore",
    "Restored",
    "RetryRule",
    "SealBrokenError",
    "SessionConflictError",
    "SessionEndedError",
    "SessionExistsError",
    "SessionLimitError",
    "SessionManager",
    "SessionMetrics",
    "SessionNotFoundError",
    "SessionState",
    "SessionStatus",
    "SessionStore",
    "StoreClosedError",
    "StoreMetrics",
    "TenantError",
    "Tenants",
    "Timestamp",
    "Turn",
    "TurnLatencies",
    "TurnMeter",
    "VoiceMetrics",
    "configured_keys",
    "recover",
    "responses_ms",
    "restore",
]  # fmt: skip
