"""Recovery coordinator: live voice calls outlive the worker that served them."""

from typing import TYPE_CHECKING, Any

from coordinator.errors import (
    CallStateError,
    ConfigurationError,
    CoordinatorError,
    DataTooLargeError,
    DrainingError,
    FencedError,
    InvalidDataError,
    InvalidIdError,
    InvalidValueError,
    KeyUnknownError,
    NameInUseError,
    SealBrokenError,
    SessionGoneError,
    SessionHeldError,
    StoreUnavailableError,
    TenantError,
)
from coordinator.version import VERSION

if TYPE_CHECKING:
    from coordinator.child import ChildSession
    from coordinator.voice.duration import limit_duration
    from coordinator.worker import Offer, Session, Worker, certify

__version__ = VERSION

__all__ = [
    "CallStateError", "ChildSession", "ConfigurationError", "CoordinatorError", "DataTooLargeError", "DrainingError",
    "FencedError", "InvalidDataError", "InvalidIdError", "InvalidValueError", "KeyUnknownError", "NameInUseError", "Offer",
    "SealBrokenError", "Session", "SessionGoneError", "SessionHeldError", "StoreUnavailableError", "TenantError", "Worker",
    "__version__", "certify", "limit_duration",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The library is loaded when it is first used: the commands do not need it."""
    if name == "ChildSession":
        from coordinator.child import ChildSession

        return ChildSession
    if name == "limit_duration":
        from coordinator.voice.duration import limit_duration

        return limit_duration
    if name in ("Offer", "Session", "Worker", "certify"):
        from coordinator import worker

        return getattr(worker, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
