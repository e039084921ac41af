"""Sizes and times with which a script is called by default; times in seconds."""

from __future__ import annotations

BATCH = 100
"""Most sessions that one script touches."""
MOST_SUSPECTS = 1000
"""Most suspects that one look names; the others are read page by page."""
DAY = 24 * 3600.0
DEAD_LETTER_TTL = 7 * DAY
GIVE_UP_AFTER = 5 * 60.0
INLINE_BYTES = 8192
