"""Models of CTranslate2, read by the names that transformers has."""

from __future__ import annotations

from .folder import PACKAGE, TOLD, Converted, find_model, read_model
from .vocabulary import ids_of, read_vocabularies, read_vocabulary

__all__ = [
    "PACKAGE",
    "TOLD",
    "Converted",
    "find_model",
    "ids_of",
    "read_model",
    "read_vocabularies",
    "read_vocabulary",
]
