"""Faults injected into real processes, and a checker that reads only the history that they wrote."""
