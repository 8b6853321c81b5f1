"""The graphs of a bundle, authored from a spec (docs/design.md, sections 3 and 5)."""

from __future__ import annotations

from .build import (
    OPSET,
    build_alignment,
    build_decoder,
    build_encoder,
    build_features,
    build_logsumexp,
)

__all__ = [
    "OPSET",
    "build_alignment",
    "build_decoder",
    "build_encoder",
    "build_features",
    "build_logsumexp",
]
