"""Bounds on what is written: each rule at its edge, and one clear sentence beyond it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator import bounds
from coordinator.errors import ConfigurationError, CoordinatorError, InvalidDataError, InvalidIdError, InvalidValueError
from coordinator.settings import load
from coordinator.store import calls
from coordinator.store.keys import Keys
from coordinator.worker.data import decode, encode
from tests.hostile import EVIL, HIDDEN_CHARACTERS, hidden_in

WHOLE = 2**53 - 1


def nested(depth: int, inner: object = 1) -> Any:
    """Objects within each other."""
    for _ in range(depth):
        inner = {"a": inner}
    return inner


def lists(depth: int) -> Any:
    """An object with lists within each other."""
    inner: Any = 1
    for _ in range(depth - 1):
        inner = [inner]
    return {"a": inner}


# -- ids and texts ---------------------------------------------------------------------------------------------------------


def text_of(value: Any) -> Any:
    return bounds.check_text("tenant", value)


@pytest.mark.parametrize("value", ["", "ACME GmbH & Co. ❤", "x" * 256])
def test_texts_that_fit(value: str) -> None:
    """Any printable text up to the limit is what it was."""
    assert text_of(value) == value


@pytest.mark.parametrize(
    "value", [*(f"a{c}" for c in HIDDEN_CHARACTERS), "a\ud800", "x" * 257, b"bytes", None, 5, ["x"]]
)
def test_texts_that_do_not(value: object) -> None:
    """Hidden characters, halves of characters, too many characters or another type: one line with name, value and rule."""
    with pytest.raises(
        InvalidValueError, match=r"^tenant: .* is not text of at most 256 characters, all of them printable$"
    ):
        text_of(value)


Check = Callable[[Any], Any]


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (bounds.check_instance, ["voice-1~1", "a.b_c-D~01JZX8Q2V7"], ["voice-1", "a~", "~1", "a~b~c", "a~\x1b[2J", None]),
        (bounds.check_epoch, [1, WHOLE], [0, -1, WHOLE + 1, "7", 7.0, True, None]),
        (bounds.check_session_id, ["+4930123456", "x" * 256], ["", "a b", "a{b}", "x" * 257, "a\n", "ä", "\ud800", None, [[]]]),
        (bounds.check_name, ["voice-1", "x" * 63], ["", "a~b", "x" * 64, "a\n", "ä", "\x00", 5]),
        (bounds.check_pool, ["default"], ["", "a b", "a\x1b", "x" * 64, None]),
    ],
    ids=["instance", "epoch", "session", "name", "pool"],
)  # fmt: skip
def test_ids(check: Check, good: list[object], bad: list[object]) -> None:
    """Inside their alphabets they are what they were; outside they are refused in one bounded line."""
    assert [check(value) for value in good] == good
    for value in bad:
        with pytest.raises(InvalidIdError) as refused:
            check(value)
        assert not hidden_in(str(refused.value), lines="")
        assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("labels", "fits"),
    [
        ({"zone": "north east", "v": ""}, True),
        ({f"l{n}": "x" for n in range(64)}, True),
        ({f"l{n}": "x" for n in range(65)}, False),
        ({"a b": "x"}, False), ({"a=b": "x"}, False), ({"": "x"}, False), ({"x" * 129: "x"}, False), ({"a\x1b": "x"}, False),
        ({"a": "x\n"}, False), ({"a": "x" * 257}, False), ({"a": 5}, False), ({5: "a"}, False), ([("a", "b")], False), ("a=b", False),
    ],
)  # fmt: skip
def test_labels(labels: Any, fits: bool) -> None:
    """Up to 64 names without white space and equals signs, each with a text."""
    if fits:
        assert bounds.check_labels(labels) == labels
        return
    with pytest.raises(InvalidValueError, match="label"):
        bounds.check_labels(labels)


@pytest.mark.parametrize(
    ("requires", "fits"),
    [
        ([], True), (("gpu", "zone=north east", "a=b=c"), True), (["x"] * 64, True), (["x"] * 65, False),
        ("zone=a", False), ("gpu", False),
        (["=a"], False), (["a b"], False), (["a=\x1b"], False), ([5], False), (None, False), ({"a": "b"}, False),
    ],
)  # fmt: skip
def test_requirements(requires: Any, fits: bool) -> None:
    """A list of labels; one text is no list, though it could be taken for one of characters."""
    if fits:
        assert bounds.check_requires(requires) == list(requires)
        return
    with pytest.raises(InvalidValueError, match=r"^requires: .* is not "):
        bounds.check_requires(requires)


def test_reasons_become_visible() -> None:
    """A reason is often another system's text: what cannot be seen in it is shown, and nothing is refused for that."""
    assert bounds.check_reason("no\x1b[2J room\n") == r"no\x1b[2J room\x0a"
    assert not hidden_in(bounds.check_reason(EVIL), lines="")


@pytest.mark.parametrize("reason", ["x" * 1025, "a\ud800", b"bytes", None, 5])
def test_reasons_that_are_none(reason: Any) -> None:
    """Too long, half a character, or no text at all."""
    with pytest.raises(InvalidValueError, match=r"reason: .* is not text of at most 1024 characters"):
        bounds.check_reason(reason)


@given(st.text(alphabet=st.characters(codec=None), max_size=50), st.integers(0, 3000))
def test_what_this_program_says_itself_always_fits(text: str, more: int) -> None:
    """A text about somebody else's error is made to fit, and fits when it is looked at again."""
    fitted = bounds.fitted(text + "x" * more)
    assert bounds.check_reason(fitted) == fitted


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1, "5", None, True, 1e12])
def test_times_that_are_none(seconds: Any) -> None:
    """Neither endless nor negative, and a number."""
    assert bounds.check_seconds("timeout", 0) == 0
    with pytest.raises(InvalidValueError, match=r"^timeout: .* is not a number of seconds"):
        bounds.check_seconds("timeout", seconds)


def test_no_reason_is_sent_that_does_not_fit() -> None:
    """Whoever sends one, the script gets a printable text of bounded length."""
    keys, long = Keys("recovery", 0), EVIL + "x" * 5000
    of: dict[str, Any] = {"session": "s", "instance": "a~1", "epoch": 1, "pool": "p", "reason": long, "lease": 0.001}
    sent = [
        calls.certify(keys, instance="a~1", cause="exited", by="b", reason=long),
        calls.drain(keys, instance="a~1", by="b", reason=long),
        calls.decline(keys, **of, counts=True, max_offers=1),
        calls.release(keys, **of, request="r", cause="released", max_recoveries=1, recovery_window=0.001),
    ]
    for call in sent:
        reason = dict(zip(call.script.header.args, call.args, strict=True))["reason"]
        assert isinstance(reason, str)
        assert not hidden_in(reason, lines="")
        assert len(reason) <= bounds.MOST_REASON


# -- recovery data ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [nested, lists])
@pytest.mark.parametrize("depth", [1, 2, 63, 64])
def test_nesting_up_to_the_limit(make: Callable[[int], Any], depth: int) -> None:
    """Data that is nested up to 64 deep comes back as it was."""
    assert decode(*encode(make(depth), 10**6)) == make(depth)


@pytest.mark.parametrize("make", [nested, lists])
@pytest.mark.parametrize("depth", [65, 500, 963, 1000, 20_000])
def test_nesting_beyond_it(make: Callable[[int], Any], depth: int) -> None:
    """One sentence with the rule, however deep it is: no end of a stack is reached."""
    with pytest.raises(InvalidDataError, match=r"^recovery data is nested more than 64 deep$"):
        encode(make(depth), 10**6)


def test_brackets_in_text_are_no_nesting() -> None:
    """What looks like JSON within a text, with quotes and backslashes around it, counts for nothing."""
    data = {"a": '{"' * 500 + '\\"[' * 500, "[" * 500: '\\\\"'}
    assert decode(*encode(data, 10**6)) == data


BRACKETS = st.text(alphabet='[]{}"\\a,:', max_size=8)
JSON = st.recursive(
    BRACKETS | st.none(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(BRACKETS, inner, max_size=3)
)


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(JSON)
def test_the_depth_that_is_counted_is_the_depth(value: object) -> None:
    """Of any JSON text the nesting is told exactly, however its texts look; so is that of the value itself."""
    raw, depth = json.dumps(value).encode(), depth_of(value)
    assert not bounds.is_nested_deeper(raw, depth)
    assert depth == 0 or bounds.is_nested_deeper(raw, depth - 1)


@given(st.binary())
def test_text_that_is_no_json_is_looked_at_too(raw: bytes) -> None:
    """Whatever comes, an answer."""
    assert bounds.is_nested_deeper(raw, 10**6) is False
    bounds.is_nested_deeper(raw, 1)


@pytest.mark.parametrize(
    "number", [0, -1, WHOLE, -WHOLE, 0.1, 1e300, -0.0, 9007199254740993.0, 0.12345678901234567, True]
)
def test_numbers_that_everybody_reads(number: float) -> None:
    """Whole numbers of 53 bits and all finite floats come back equal."""
    assert decode(*encode({"n": [number]}, 1000)) == {"n": [number]}


@pytest.mark.parametrize("number", [WHOLE + 1, -WHOLE - 1, 2**63, 10**400, float("nan"), float("inf"), float("-inf")])
def test_numbers_that_others_would_read_otherwise(number: float) -> None:
    """Refused with the rule, wherever they stand; the number itself, which may be a person's, is not shown."""
    with pytest.raises(InvalidDataError) as refused:
        encode({"a": [{"n": number}], "b": "12345678901234567890"}, 10**5)
    assert str(2**63) not in str(refused.value)
    assert encode({"b": "12345678901234567890"}, 1000)


def test_a_number_longer_than_python_writes_is_refused_alike() -> None:
    """More digits than its conversion takes: the same kind of error."""
    with pytest.raises(InvalidDataError, match="recovery data"):
        encode({"n": 10**5000}, 10**5)


@pytest.mark.parametrize(
    "data",
    [
        {"k": "canary\ud800"},
        {"canary\ud800": 1},
        {"canary": {1, 2}},
        nested(65, "canary"),
        {"canary": 2**60},
        {"x": object()},
    ],
)
def test_no_message_says_what_the_data_says(data: Any) -> None:
    """Messages end in logs: neither the error nor what it came from shows a value or a key."""
    with pytest.raises(InvalidDataError) as refused:
        encode(data, 10**6)
    assert refused.value.__context__ is None or refused.value.__suppress_context__
    assert "canary" not in str(refused.value)
    assert "\ud800" not in str(refused.value)


def test_data_from_before_there_was_a_limit_is_read() -> None:
    """What is stored and a little deeper than may be written now is still given to whoever adopts."""
    raw = json.dumps(nested(100)).encode()
    assert decode(raw, "json") == nested(100)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b"\xff",
        *(b'{"a":' * depth + b"1" + b"}" * depth for depth in (129, 300, 963)),
        b"[" * 100_000,
        b'{"a":1' + b"0" * 5000 + b"}",
    ],
)
def test_what_is_stored_and_no_data_is_said_to_be_none(raw: bytes) -> None:
    """One error of this package, never one of the parser's."""
    with pytest.raises(InvalidDataError, match="the stored recovery data is"):
        decode(raw, "json")


# -- records and settings --------------------------------------------------------------------------------------------------

RECORD: dict[str, Any] = {
    "pool": "default",
    "tenant": "",
    "requires": '["gpu"]',
    "data": b'{"a":1}',
    "encoding": "json",
}


@pytest.mark.parametrize(
    "change",
    [
        {"pool": ""}, {"pool": "a\x1b"}, {"tenant": "a\x9b"}, {"tenant": "\udcff"}, {"requires": "abc"}, {"requires": "{}"},
        {"requires": "[5]"}, {"requires": "[" * 5000}, {"data": b"{"}, {"data": b"[]"}, {"data": json.dumps(nested(65)).encode()},
        {"data": b'{"a":9007199254740992}'},
    ],
)  # fmt: skip
def test_a_record_is_offered_anew_only_if_it_could_be_read(change: dict[str, Any]) -> None:
    """Each field of a dead letter is looked at by the rule for what is written; bytes are nobody's business."""
    bounds.check_record(**RECORD)
    bounds.check_record(**{**RECORD, "encoding": "bytes", "data": b"\xff["})
    bounds.check_record(**{**RECORD, "requires": ""})
    with pytest.raises(CoordinatorError):
        bounds.check_record(**{**RECORD, **change})


@pytest.mark.parametrize(
    "setting",
    [
        {"address": "a\x1b"}, {"address": "x" * 257}, {"labels": {"a\x1b": "b"}}, {"labels": {"a": "\x9b"}},
        {"labels": '{"a":' * 5000},
        {"labels": "a b=c"}, {"name": "a\x00"}, {"pool": "a\u202e"}, {"prefix": "a\x1b"}, {"http_socket": "/tmp/a\x00b"},
        {"watcher_socket": "x" * 5000}, {"lease": "9" * 400}, {"closed_ttl": "9999d"}, {"lease": [[]]}, {"max_data_bytes": "1000MiB"},
        {"max_offers": 10**30}, {"max_data_bytes": "٣"}, {"lease": "٣s"},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_do_not_fit(setting: dict[str, Any]) -> None:
    """Texts, labels, times and sizes of settings are refused as what they name, in printable lines."""
    with pytest.raises(ConfigurationError) as refused:
        load(**setting)
    assert str(refused.value).startswith(next(iter(setting)))
    assert not hidden_in(str(refused.value))
