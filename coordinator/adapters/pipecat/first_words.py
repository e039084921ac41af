"""What a bot does first when it takes up a call that began elsewhere. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

__all__ = ["FirstWords", "first_words"]


class FirstWords(Enum):
    """HOOK: the program decides. SENTENCE: it says the sentence. ANSWER: the model answers the caller. NOTHING: the caller's turn."""

    HOOK = "hook"
    SENTENCE = "sentence"
    ANSWER = "answer"
    NOTHING = "nothing"


def first_words(
    messages: Sequence[Any], *, returned: bool, planned: bool, has_hook: bool, has_sentence: bool
) -> FirstWords:
    """Decides.

    Args:
        messages: of the context.
        returned: whether the call began before this bot.
        planned: whether its worker handed it over on purpose: the caller was not cut off, and needs no explanation.
        has_hook, has_sentence: what the program gave.
    """
    if not returned:
        return FirstWords.NOTHING
    if has_hook:
        return FirstWords.HOOK
    if has_sentence and not planned:
        return FirstWords.SENTENCE
    last = messages[-1] if messages else None
    return FirstWords.ANSWER if isinstance(last, dict) and last.get("role") == "user" else FirstWords.NOTHING
