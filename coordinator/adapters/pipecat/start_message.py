"""What a telephony provider says of a call when it opens a media stream, and when it ends one. Pure.

Twilio, Telnyx, Plivo and Exotel open a websocket for each stream and say in a first message which call it belongs to. That id
stays the same when they connect again, and the id of the stream does not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coordinator.errors import InvalidDataError

__all__ = ["StartMessage", "carries_audio", "read_start", "says_stop"]

LONGEST_STOP = 8192
"""Characters; what is longer is audio, and is not parsed a second time."""
OF_AUDIO = ('"media"', '"playAudio"')
"""One of these is in each message that carries audio to a caller; neither can be in base64."""


@dataclass(frozen=True, slots=True)
class StartMessage:
    """The first message of a media stream.

    Attributes:
        provider: ``twilio``, ``telnyx``, ``plivo`` or ``exotel``.
        call_id: the provider's id of the call, the same for each stream of it.
        stream_id: the provider's id of this stream.
        account_id: the provider's id of the account; '' where it does not say so.
        encoding: of the caller's audio, such as ``PCMU``; '' where the provider does not say so.
        parameters: what the program gave to the stream (Twilio's ``<Parameter>``, for instance), as the provider gives it back.
        message: the whole message.
    """

    provider: str
    call_id: str
    stream_id: str
    account_id: str = ""
    encoding: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    message: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Names:
    """Under which names a provider says it; ``stream`` may stand beside ``start``."""

    provider: str
    call: str
    stream: str
    account: str = ""
    parameters: str = ""


_PROVIDERS = (
    _Names("twilio", "callSid", "streamSid", "accountSid", "customParameters"),
    _Names("telnyx", "call_control_id", "stream_id", "user_id", "custom_parameters"),
    _Names("plivo", "callId", "streamId", "accountId"),
    _Names("exotel", "call_sid", "stream_sid", "account_sid", "custom_parameters"),
)


def read_start(text: str | bytes) -> StartMessage | None:
    """Reads one message of a media stream.

    Returns:
        What it says of the call; None when it is another message, such as ``connected``.

    Raises:
        InvalidDataError: it begins a stream, and does not say of which call.
    """
    message = _parsed(text)
    start = message.get("start")
    if not isinstance(start, dict):
        return None
    for names in _PROVIDERS:
        call, stream = start.get(names.call), start.get(names.stream) or message.get(names.stream)
        if isinstance(call, str) and call and isinstance(stream, str):
            formats = start.get("media_format") or start.get("mediaFormat")
            given = start.get(names.parameters) if names.parameters else None
            return StartMessage(
                names.provider,
                call,
                stream,
                account_id=str(start.get(names.account) or ""),
                encoding=str(formats.get("encoding") or "") if isinstance(formats, dict) else "",
                parameters=given if isinstance(given, dict) else {},
                message=message,
            )
    known = ", ".join(f"{names.call} ({names.provider})" for names in _PROVIDERS)
    raise InvalidDataError(f"the start message of a media stream names no call: it has none of {known}")


def says_stop(text: str) -> bool:
    """Whether a message says that the stream has ended: the caller hung up, or the provider was told to do something else."""
    return '"stop"' in text and len(text) <= LONGEST_STOP and _parsed(text).get("event") == "stop"


def carries_audio(text: str | bytes) -> bool:
    """Whether a message to a provider is audio for the caller. Bytes are taken for audio."""
    return isinstance(text, bytes) or any(word in text for word in OF_AUDIO)


def _parsed(text: str | bytes) -> dict[str, Any]:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}
