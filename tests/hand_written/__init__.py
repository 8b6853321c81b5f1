"""Small models in the layouts that projects have: their tensors' names and their computation.

Each class is written for these tests after what the project's own models compute; ``forward``
takes (source [B, S], True where it is padding [B, S], target [B, T]) and gives logits.
"""

from .annotated import Annotated
from .common import LENGTH, SOURCE_VOCAB, TOKENS, WIDTH, randomized
from .fairseq import Fairseq
from .opennmt import OpenNmt
from .own import Own
from .tutorial import Tutorial
from .x_transformers import XTransformers

__all__ = [
    "LENGTH",
    "SOURCE_VOCAB",
    "TOKENS",
    "WIDTH",
    "Annotated",
    "Fairseq",
    "OpenNmt",
    "Own",
    "Tutorial",
    "XTransformers",
    "randomized",
]
