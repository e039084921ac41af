"""The command ``coordinator``."""
