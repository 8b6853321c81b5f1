"""Errors of export, beside those of the runtime."""

from __future__ import annotations

from seq2edge.runtime.errors import Seq2EdgeError


class CheckpointError(Seq2EdgeError, ValueError):
    """A checkpoint that cannot be read or does not fit its own config."""


class ParityError(Seq2EdgeError, ArithmeticError):
    """The exported graphs do not compute what PyTorch computes."""
