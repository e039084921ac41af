"""Sizes and times that a script is called with where its caller says nothing else."""

from __future__ import annotations

BATCH = 100
"""Most sessions that one script touches."""
MOST_SUSPECTS = 1000
"""Most suspects that one look names; the others are read page by page."""
DAY_MS = 24 * 3600 * 1000
DEAD_LETTER_TTL_MS = 7 * DAY_MS
GIVE_UP_AFTER_MS = 5 * 60 * 1000
INLINE_BYTES = 8192
