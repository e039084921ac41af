"""Which server a partition's connections go to: the decision, without a connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from coordinator.errors import StoreUnavailableError
from coordinator.store.address import Address
from coordinator.store.discovery import AskNode, AskSentinels, Search, learnt_server
from coordinator.store.url_source import UrlSource

KEY = "{recovery:0}:meta"
PRIMARY = [b"10.0.0.9", 7009, b"id"]


def found(url: str, answer: Callable[[AskSentinels | AskNode], Any], asked: list[Any] | None = None) -> Address:
    """Drives the search as a connection would."""
    search = Search(UrlSource(url), KEY)
    while search.question is not None:
        if asked is not None:
            asked.append(search.question)
        try:
            told = answer(search.question)
        except Exception as error:  # noqa: BLE001 - as a connection raises
            search.failed(error)
        else:
            search.answered(told)
    return search.address


def refuse(question: object) -> Any:
    """No question is expected."""
    raise AssertionError(question)


def test_a_single_server_needs_no_question() -> None:
    """Its address stands in the URL."""
    assert found("redis://one:7001/0", refuse) == Address("one", 7001)


def test_sentinels_are_asked_through_the_lookout() -> None:
    """What it answers is the server, and what it raises is raised."""
    url = "redis+sentinel://s1:26379,s2:26379/voice"
    assert found(url, lambda question: Address("primary", 7000)) == Address("primary", 7000)
    silent = StoreUnavailableError("cluster_down", "none answers", sent=False)

    def nobody(question: object) -> Any:
        raise silent

    with pytest.raises(StoreUnavailableError) as raised:
        found(url, nobody)
    assert raised.value is silent


def test_the_next_node_is_asked_after_one_that_fails() -> None:
    """A node that does not answer, one that answers nonsense and one that does not know the slot are passed over."""
    answers: dict[str, Any] = {
        "n1": redis.ConnectionError("refused"),
        "n2": b"nonsense",
        "n3": [],
        "n4": [[0, 16383, PRIMARY]],
    }

    def answer(question: Any) -> Any:
        told = answers[question.node.host]
        if isinstance(told, Exception):
            raise told
        return told

    asked: list[Any] = []
    assert found("redis+cluster://n1:1,n2:2,n3:3,n4:4", answer, asked) == Address("10.0.0.9", 7009)
    assert [question.node.host for question in asked] == ["n1", "n2", "n3", "n4"]


def test_nodes_that_do_not_know_are_named() -> None:
    """The error has what became of each node, and says that nothing was sent."""

    def answer(question: Any) -> Any:
        if question.node.host == "n1":
            raise redis.ConnectionError("refused")
        return []

    with pytest.raises(StoreUnavailableError) as raised:
        found("redis+cluster://n1:1,n2:2", answer)
    assert raised.value.kind == "cluster_down"
    assert not raised.value.sent
    assert "n1:1: " in raised.value.detail
    assert "n2:2 does not know" in raised.value.detail


def test_after_the_first_server_that_is_told_none_goes_on_without() -> None:
    """A right that is taken away later is an error; one that never was there is not."""
    source = UrlSource("redis://one/0")
    refused = redis.ResponseError("NOPERM no permission for 'info'")
    assert learnt_server(refused, source) == b""
    assert learnt_server(b"# Server\r\nrun_id:abc\r\n", source) == b"abc"
    with pytest.raises(StoreUnavailableError):
        learnt_server(refused, source)
