"""Tokenizer files of a checkpoint, turned into what the device reads."""

from __future__ import annotations

from .files import TokenizerFile, find_tokenizer, tokenizer_at, vocabulary

__all__ = ["TokenizerFile", "find_tokenizer", "tokenizer_at", "vocabulary"]
