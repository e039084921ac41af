"""Tests of what needs no Redis."""
