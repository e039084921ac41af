"""What providers say when a media stream begins and ends."""

from __future__ import annotations

import json

import pytest

from coordinator.adapters.pipecat.start_message import carries_audio, read_start, says_stop
from coordinator.errors import InvalidDataError

TWILIO = {
    "event": "start", "sequenceNumber": "1", "streamSid": "MZ1",
    "start": {"accountSid": "AC1", "streamSid": "MZ1", "callSid": "CA1", "tracks": ["inbound"],
              "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000}, "customParameters": {"user": "7"}},
}  # fmt: skip
TELNYX = {
    "event": "start", "sequence_number": "1", "stream_id": "s-1",
    "start": {"user_id": "u-1", "call_control_id": "v3:abc", "from": "+1", "to": "+2",
              "media_format": {"encoding": "PCMU", "sample_rate": 8000}},
}  # fmt: skip
PLIVO = {"event": "start", "start": {"callId": "c-1", "streamId": "s-2", "accountId": "p-1"}, "extra_headers": "{}"}
EXOTEL = {
    "event": "start", "stream_sid": "s-3",
    "start": {"stream_sid": "s-3", "call_sid": "e-1", "account_sid": "x-1", "custom_parameters": {"a": "b"}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (TWILIO, ("twilio", "CA1", "MZ1", "AC1", "audio/x-mulaw", {"user": "7"})),
        (TELNYX, ("telnyx", "v3:abc", "s-1", "u-1", "PCMU", {})),
        (PLIVO, ("plivo", "c-1", "s-2", "p-1", "", {})),
        (EXOTEL, ("exotel", "e-1", "s-3", "x-1", "", {"a": "b"})),
    ],
    ids=["twilio", "telnyx", "plivo", "exotel"],
)
def test_each_provider_names_its_call(message: dict[str, object], expected: tuple[object, ...]) -> None:
    """The id of the call, of the stream and of the account, and what the program gave along, as text or as bytes."""
    for text in (json.dumps(message), json.dumps(message).encode()):
        start = read_start(text)
        assert start is not None
        assert (
            start.provider,
            start.call_id,
            start.stream_id,
            start.account_id,
            start.encoding,
            start.parameters,
        ) == expected
        assert start.message == message


@pytest.mark.parametrize(
    "text", ["", "no json", "[1]", "7", '{"event": "connected"}', '{"start": 1}', b"\xff\xfe", "[" * 100_000]
)
def test_another_message_is_no_start(text: str | bytes) -> None:
    """Whatever comes, nothing is raised for what does not begin a stream."""
    assert read_start(text) is None


@pytest.mark.parametrize(
    "start", [{}, {"callSid": 7, "streamSid": "MZ1"}, {"callSid": "", "streamSid": "MZ1"}, {"callSid": "CA1"}]
)
def test_a_start_without_a_call_is_refused(start: dict[str, object]) -> None:
    """The error says which names were looked for."""
    with pytest.raises(InvalidDataError, match=r"callSid \(twilio\)"):
        read_start(json.dumps({"event": "start", "start": start}))


def test_a_stop_is_heard() -> None:
    """Only the event of that name ends a stream, not the word in a parameter."""
    assert says_stop('{"event": "stop", "stop": {"callSid": "CA1"}}')
    assert not says_stop('{"event": "start", "start": {"customParameters": {"stop": "stop"}}}')
    assert not says_stop('{"event": "media", "media": {"payload": "stop"}}')
    assert not says_stop('"stop" is no JSON')
    assert not says_stop('{"event": "stop", "padding": "' + "x" * 10_000 + '"}')


def test_audio_is_told_from_the_rest() -> None:
    """By each provider's name for it; bytes are audio."""
    assert carries_audio('{"event": "media", "media": {"payload": "//8="}}')
    assert carries_audio('{"event": "playAudio", "media": {}}')
    assert carries_audio(b"\x00")
    assert not carries_audio('{"event": "clear", "streamSid": "MZ1"}')
