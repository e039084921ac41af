"""The only place that knows Redis: keys, scripts, connections."""

PROTOCOL = 1
"""Version of keys and scripts; a program works with its own version and the neighbouring ones."""
