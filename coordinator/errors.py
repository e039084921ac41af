"""Every error that the library raises on purpose.

CoordinatorError
|- FencedError             this instance or session was taken over: stop, the answer is final
|- SessionHeldError        the session has another owner
|- SessionGoneError        the session ended or was never opened
|- StoreUnavailableError   Redis did not answer as it should: nothing is known, nothing is lost
|- DataTooLargeError       recovery data above the cap
|- InvalidDataError        recovery data that cannot be stored       (also a ValueError)
|  `- SealBrokenError      what is stored was sealed for another place, or was changed since
|- KeyUnknownError         the session is sealed with a key that this program lacks, which cannot serve it
|- TenantError             the session belongs to another tenant than this worker
|- InvalidIdError          an id or name outside its alphabet        (also a ValueError)
|- InvalidValueError       a text, label or number that breaks its rule (also a ValueError)
|- ConfigurationError      a setting, a URL or a Redis that does not fit (also a ValueError)
|- CallStateError          a call does not go from this state to that one (also a ValueError)
|- DrainingError           this instance takes nothing new
`- NameInUseError          another live process has the same name

Their messages can be shown to any person: characters that would act on a terminal are visible in them.
"""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.printable import named, printable

__all__ = [
    "CallStateError", "ConfigurationError", "CoordinatorError", "DataTooLargeError", "DrainingError", "FencedError",
    "InvalidDataError", "InvalidIdError", "InvalidValueError", "KeyUnknownError", "NameInUseError", "PodApiError", "SealBrokenError",
    "SessionGoneError", "SessionHeldError", "StoreUnavailableError", "TenantError", "first_error",
]  # fmt: skip


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error of a group that is worth reporting; the task group around it is not."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class CoordinatorError(Exception):
    """The root of all errors of this package."""

    def __init__(self, *said: object) -> None:
        super().__init__(*(self._told(one) if isinstance(one, str) else one for one in said))

    @staticmethod
    def _told(text: str) -> str:
        return printable(text)


class FencedError(CoordinatorError):
    """A write or adoption was refused for good: another worker has, or may have, the session.

    Attributes:
        session_id: the session, '' when the whole instance is meant.
        epoch: the epoch that was refused, None when the caller named none.
    """

    def __init__(self, session_id: str = "", epoch: int | None = None, detail: str = "") -> None:
        self.session_id, self.epoch, self.detail = session_id, epoch, detail
        what = f"session {session_id!r}" if session_id else "the instance"
        held = f" with epoch {epoch}" if epoch is not None else ""
        super().__init__(f"{what}{held} is fenced{': ' + detail if detail else ''}")


class SessionHeldError(CoordinatorError):
    """The session to be opened has another owner, or is an orphan under offer (then ``owner`` is '')."""

    def __init__(self, session_id: str, owner: str, state: str = "") -> None:
        self.session_id, self.owner, self.state = session_id, owner, state
        who = f"is owned by {owner!r}" if owner else f"is {state or 'offered'} and waits to be adopted"
        super().__init__(f"session {session_id!r} {who}")


class SessionGoneError(CoordinatorError):
    """The session ended, or was never opened."""

    def __init__(self, session_id: str, detail: str = "") -> None:
        self.session_id, self.detail = session_id, detail
        super().__init__(f"session {session_id!r} is gone{': ' + detail if detail else ''}")


class StoreUnavailableError(CoordinatorError):
    """Redis could not be asked, or did not answer. This means "unknown", never "dead".

    Attributes:
        kind: one of `STORE_ERROR_KINDS`.
        sent: False when the request certainly never left this process, and so was not applied.
    """

    def __init__(self, kind: str, detail: str = "", *, sent: bool = True) -> None:
        self.kind, self.detail, self.sent = kind, detail, sent
        super().__init__(f"the store is unavailable ({kind}){': ' + detail if detail else ''}")


STORE_ERROR_KINDS = (
    "connection", "timeout", "loading", "read_only", "cluster_down", "try_again", "no_replicas", "disk", "out_of_memory",
    "busy", "auth", "permission", "max_clients", "unsupported", "other",
)  # fmt: skip
"""Closed list of the values of ``StoreUnavailableError.kind`` and of the metric's label."""


class PodApiError(CoordinatorError):
    """The API server could not be asked, or refused, or gave an answer that makes no sense. This says nothing about any pod.

    Attributes:
        kind: one of `POD_API_ERROR_KINDS`.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        self.kind, self.detail = kind, detail
        super().__init__(f"the API server is unavailable ({kind}){': ' + detail if detail else ''}")


POD_API_ERROR_KINDS = (
    "unreachable", "timeout", "unauthorized", "forbidden", "not_found", "conflict", "gone", "closed", "malformed", "server",
    "refused", "other",
)  # fmt: skip
"""Closed list of the values of ``PodApiError.kind`` and of the metric's label."""


class DataTooLargeError(CoordinatorError):
    """Recovery data of ``size`` bytes is above the cap of ``limit`` bytes."""

    def __init__(self, size: int, limit: int) -> None:
        self.size, self.limit = size, limit
        super().__init__(f"recovery data of {size} bytes is above the limit of {limit} bytes (max_data_bytes)")


class InvalidDataError(CoordinatorError, ValueError):
    """Recovery data that is neither bytes nor a JSON-able mapping."""


class SealBrokenError(InvalidDataError):
    """Recovery data that was sealed for another deployment, tenant, session or epoch, or was changed since; no program can open it."""

    def __init__(self, session_id: str, detail: str) -> None:
        self.session_id, self.detail = session_id, detail
        super().__init__(f"the recovery data of session {session_id!r} cannot be opened: {detail}")


class KeyUnknownError(CoordinatorError):
    """The session is sealed with a key that this program does not have: it exists, and cannot be served here.

    The library never takes this for a missing session.
    """

    def __init__(self, session_id: str, key_id: str, *, has_another: bool = False) -> None:
        self.session_id, self.key_id, self.has_another = session_id, key_id, has_another
        why = "; this program has another key of that id" if has_another else ""
        super().__init__(
            f"session {session_id!r} cannot be served here: it is sealed with the unknown key {key_id!r}{why}"
        )


class TenantError(CoordinatorError):
    """The session belongs to another tenant than the one that this worker is bound to. Nothing was changed."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        super().__init__(f"session {session_id!r} belongs to another tenant than this worker")


class InvalidIdError(CoordinatorError, ValueError):
    """An id, name or pool that breaks its rule."""

    def __init__(self, value: object, rule: str) -> None:
        self.value, self.rule = value, rule
        super().__init__(f"{named(value)} is not {rule}")


class InvalidValueError(CoordinatorError, ValueError):
    """A text, label or number that breaks its rule; nothing was sent."""

    def __init__(self, name: str, value: object, rule: str) -> None:
        self.name, self.value, self.rule = name, value, rule
        super().__init__(f"{name}: {named(value)} is not {rule}")


class ConfigurationError(CoordinatorError, ValueError):
    """A setting, URL or Redis server that does not fit; one readable line for each fault."""

    @staticmethod
    def _told(text: str) -> str:
        return "\n".join(map(printable, text.split("\n")))


class CallStateError(CoordinatorError, ValueError):
    """A call was to go to a state that may not follow its present one. Nothing has changed.

    Attributes:
        before, after: the present state, and the refused one.
    """

    def __init__(self, before: str, after: str, allowed: Sequence[str]) -> None:
        self.before, self.after = before, after
        rule = f"from there it goes to {', '.join(allowed)}" if allowed else "its end is final"
        super().__init__(f"a call that is {before} does not become {after}: {rule}")


class DrainingError(CoordinatorError):
    """This instance is draining and takes nothing new."""


class NameInUseError(CoordinatorError):
    """Another live process beats under the same name."""

    def __init__(self, name: str, instance: str) -> None:
        self.name, self.instance = name, instance
        super().__init__(
            f"the name {name!r} is in use by the live instance {instance!r}: give this process another name"
        )
