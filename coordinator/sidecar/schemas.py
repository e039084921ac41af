"""Models of bodies: requests are read by them, and the OpenAPI document is made from them."""

from __future__ import annotations

import base64
import binascii
import contextlib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from coordinator import bounds
from coordinator.errors import InvalidDataError
from coordinator.printable import HIDDEN
from coordinator.worker.data import RecoveryData, decode
from coordinator.worker.sealer import is_sealed, key_of

__all__ = [
    "BASE64", "RULES", "Adopt", "Alive", "Certificate", "Certified", "Checkpoint", "Data", "Decline", "Drain", "Drained", "LetGo",
    "Moved", "Offered", "Offers", "Open", "Owned", "Owner", "ProblemDocument", "Record", "Register", "Registered", "Release",
    "Sessions", "Watch", "data_of", "shown",
]  # fmt: skip

NAME = f"^{bounds.NAME}$"
INSTANCE = f"^{bounds.INSTANCE}$"
VISIBLE = f"^[^{HIDDEN}]*$"
PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
LOCAL_URL = rf"^http://(localhost|127\.0\.0\.1|\[::1\]):{PORT}/[!-~]{{0,200}}$"
BASE64 = r"^[A-Za-z0-9+/]*={0,2}$"

RULES = {
    NAME: bounds.NAME_RULE,
    INSTANCE: "an instance id: its name, ~ and a ULID",
    VISIBLE: "text of printable characters",
    LOCAL_URL: "a URL of this machine: http://, then localhost, 127.0.0.1 or [::1], a port and a path, as in http://localhost:8080/healthz",
    f"^{bounds.LABEL}$": f"the name of a label: {bounds.LABEL_RULE}",
    f"^{bounds.REQUIREMENT}$": f"a label, as name or name=value; a name is {bounds.LABEL_RULE}",
}
"""The texts that these patterns describe, in words."""

Name = Annotated[str, StringConstraints(pattern=NAME)]
Instance = Annotated[str, StringConstraints(pattern=INSTANCE)]
Text = Annotated[str, StringConstraints(max_length=bounds.MOST_TEXT, pattern=VISIBLE)]
Reason = Annotated[str, StringConstraints(max_length=bounds.MOST_REASON, pattern=VISIBLE)]
Label = Annotated[str, StringConstraints(pattern=f"^{bounds.LABEL}$")]
Requirement = Annotated[str, StringConstraints(pattern=f"^{bounds.REQUIREMENT}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Data(_Strict):
    """Recovery data: a JSON object, or bytes in base64; not both."""

    recovery_data: dict[str, Any] | None = Field(None, description="a JSON object; kept as a value")
    recovery_data_base64: str | None = Field(None, description="bytes, kept as they are", pattern=BASE64)


class Health(_Strict):
    """A URL of this machine that answers 2xx as long as the worker is well."""

    url: str = Field(pattern=LOCAL_URL)
    interval_ms: int = Field(1000, ge=50, le=60_000, description="time between two requests to the URL")
    timeout_ms: int = Field(1000, ge=10, le=60_000)
    failures: int = Field(3, ge=1, le=100, description="failed requests in a row after which the worker is dead")


StreamEnd = Literal["grace", "exit"]


class Register(_Strict):
    """A worker."""

    name: Name = Field(description="stable name, unique among all live workers")
    pool: Name | None = Field(
        None, description="pool of the worker; the offers of a pool go only to its instances; default: the sidecar's"
    )
    capacity: int | None = Field(
        None, ge=0, le=1_000_000, description="number of sessions up to which the worker takes offers"
    )
    labels: dict[Label, Text] = Field(default_factory=dict, max_length=bounds.MOST_LABELS)
    address: Text = Field("", description="address of the worker, which a look-up by session id returns")
    tenant: Text = Field(
        "", description="tenant whose sessions the worker opens and takes; default: the sidecar's, else any"
    )
    pid: int | None = Field(
        None,
        ge=1,
        le=2**22,
        description="process number of the worker, when the sidecar can see it: the end of the process is proof",
    )
    health: Health | None = None
    lets_go: bool = Field(
        False,
        description="true: the worker answers `letting_go` with let-go before its heir may speak; false: it is not asked",
    )
    stream_end: StreamEnd = Field(
        "grace",
        description="what the end of the stream means: grace: it is opened again within `grace_ms`, or the worker has ended; "
        "exit: the worker has ended, since it promises never to close its stream while it lives",
    )


class Watch(_Strict):
    """Instances that live and die with the asking process, and beat for themselves."""

    instances: list[Instance] = Field(
        max_length=256,
        description="instance ids, one for each partition, in order; none when the instances have ended before their process",
    )


class Open(Data):
    """A call that begins."""

    pool: Name | None = None
    tenant: Text = Field("", description="tenant of the call; default: the worker's")
    requires: list[Requirement] = Field(
        default_factory=list,
        max_length=bounds.MOST_LABELS,
        description="labels that an adopter should have, as name or name=value",
    )


class Checkpoint(Data):
    """Newer recovery data."""

    sequence: int | None = Field(
        None,
        ge=1,
        le=bounds.MOST_WHOLE,
        description="number of the checkpoint within the epoch; a number that is not newer changes nothing",
    )


class LetGo(Data):
    """The last recovery data of an owner that hands over; without data the last checkpoint counts."""


class Release(_Strict):
    """Why a session is given up."""

    reason: Reason = ""


class Decline(_Strict):
    """Why an offer is given back."""

    reason: Reason = ""
    counts: bool = Field(True, description="false for want of room: no attempt is counted")


class Adopt(_Strict):
    """An adoption, which has no fields."""


class Alive(_Strict):
    """The ping that the worker answers."""

    ping: int | None = Field(None, ge=0)


class Drain(_Strict):
    """How to drain."""

    timeout_ms: int | None = Field(
        None, ge=0, le=86_400_000, description="time for the drain; default: the setting DRAIN_TIMEOUT"
    )
    reason: Reason = ""


class Certificate(_Strict):
    """An exit that the caller states."""

    instance: str = Field(pattern=INSTANCE)
    reason: Reason = ""


def data_of(body: Data) -> RecoveryData | None:
    """The recovery data of a body; None when it has none.

    Raises:
        InvalidDataError: the body has both forms, or a text that is not base64.
    """
    if body.recovery_data is not None and body.recovery_data_base64 is not None:
        raise InvalidDataError("give recovery_data or recovery_data_base64, not both")
    if body.recovery_data_base64 is not None:
        try:
            return base64.b64decode(body.recovery_data_base64, validate=True)
        except binascii.Error as error:
            raise InvalidDataError(f"recovery_data_base64 is not base64: {error}") from None
    return body.recovery_data


def shown(raw: bytes, encoding: str) -> dict[str, Any]:
    """Recovery data as answers and events carry it: in the form in which it was given; as bytes where it is not a JSON object.

    For sealed data that was not opened it is the key's id.
    """
    if is_sealed(encoding):
        return {"sealed_with": key_of(encoding)}
    if encoding == "json":
        with contextlib.suppress(InvalidDataError):  # otherwise it is shown as it is stored
            return {"recovery_data": decode(raw, encoding)}
    return {"recovery_data_base64": base64.b64encode(raw).decode()}


class Registered(BaseModel):
    """A worker that is registered."""

    instance: str
    worker_token: str = Field(description="token of the worker for the header Worker-Token; also for attaching again")
    heartbeat_ms: int = Field(description="time between two pings on the stream")
    answer_within_ms: int = Field(
        description="time without an answer to a ping after which the worker is taken for frozen"
    )
    grace_ms: int = Field(description="time for attaching again after the stream ended")


class Owned(BaseModel):
    """A session of a worker."""

    session: str
    epoch: int
    held: bool
    may_speak: bool
    recovered: bool
    planned: bool
    checkpoint: int
    pool: str
    tenant: str
    gap_ms: int = Field(description="time that the session had no owner before its adoption")
    data_age_ms: int
    previous_owner: str
    cause: str
    attempt: int
    recovery_data: dict[str, Any] | None = None
    recovery_data_base64: str | None = None
    sealed_with: str | None = Field(None, description="id of the key, where the sidecar cannot open the data")


class Sessions(BaseModel):
    """The sessions that a worker owns."""

    instance: str
    sessions: list[Owned]


class Record(BaseModel):
    """A session as the store knows it."""

    session: str
    state: str
    owner: str
    epoch: int
    pool: str
    tenant: str
    requires: list[str]
    checkpoint: int
    cause: str
    opened_at_ms: int
    updated_at_ms: int
    recovery_data: dict[str, Any] | None = None
    recovery_data_base64: str | None = None
    sealed_with: str | None = Field(None, description="id of the key, where the sidecar cannot open the data")


class Owner(BaseModel):
    """The owner of a session, and its address."""

    session: str
    state: str
    instance: str
    address: str


class Offered(BaseModel):
    """The right to adopt a session, until its lease ends."""

    session: str
    epoch: int
    attempt: int
    cause: str
    planned: bool
    previous_owner: str
    requires: list[str]
    recovery_data: dict[str, Any] | None = None
    recovery_data_base64: str | None = None


class Offers(BaseModel):
    """Offers that were not delivered before."""

    offers: list[Offered]


class Moved(BaseModel):
    """What a drain did with one worker's sessions."""

    instance: str
    state: str = Field(description="serving, draining or drained")
    left: int
    handed_over: dict[str, str] = Field(default_factory=dict, description="heirs by session")
    silence_ms: dict[str, int] = Field(default_factory=dict, description="time without an owner, by session")
    released: list[str] = Field(
        default_factory=list, description="sessions that were offered as orphans when the time was over"
    )
    failed: dict[str, str] = Field(default_factory=dict)
    closed: list[str] = Field(default_factory=list)


class Drained(BaseModel):
    """The progress of a drain."""

    draining: bool
    done: bool
    workers: list[Moved]


class Certified(BaseModel):
    """What a certificate did."""

    instance: str
    outcome: str = Field(description="certified, already_dead or unknown")


class ProblemDocument(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
