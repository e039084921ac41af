"""Tests of the worker library in one process."""
