"""What quantization asks of a bundle that hears speech: sounds to run it on, and its answers."""

from __future__ import annotations

from .outliers import outlier_layers
from .sounds import RECORDINGS, SYNTHETIC, Sounds, read_recordings, synthetic_sounds
from .teacher import spoken_pairs

__all__ = [
    "RECORDINGS",
    "SYNTHETIC",
    "Sounds",
    "outlier_layers",
    "read_recordings",
    "spoken_pairs",
    "synthetic_sounds",
]
