"""Tests of the coordinator loops, step by step."""
