"""Tones: what an agent under test sounds like, and by which a caller tells two of them apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

RATE = 48_000
FRAME = RATE // 50
"""Samples of 20 ms."""
PITCHES = (500, 900, 1300, 1700)
"""Of the workers, by their order, and of the control."""
LOUD = 300.0


class Tone:
    """An endless tone, frame by frame, without a click."""

    def __init__(self, pitch: int, samples: int = FRAME) -> None:
        self._pitch, self._at, self._samples = pitch, 0, samples

    def frame(self) -> bytes:
        at = np.arange(self._at, self._at + self._samples)
        self._at += self._samples
        return bytes((8000 * np.sin(2 * np.pi * self._pitch * at / RATE)).astype(np.int16).tobytes())


def heard(samples: bytes, pitches: Sequence[int] = PITCHES) -> list[int]:
    """The tones in one frame."""
    wave = np.frombuffer(samples, dtype=np.int16).astype(np.float64)
    if not len(wave):
        return []
    at = np.arange(len(wave)) / RATE
    return [pitch for pitch in pitches if 2 * abs(np.dot(wave, np.exp(-2j * np.pi * pitch * at))) / len(wave) > LOUD]
