"""Errors that a user can act on. Each says what is wrong and what to do.

Every class inherits :class:`Seq2EdgeError` and the builtin that fits, so that callers may
catch either. The command line turns any of them into one line and exit code 2.
"""

from __future__ import annotations


class Seq2EdgeError(Exception):
    """Base of all errors that seq2edge raises on purpose."""


class BundleError(Seq2EdgeError, ValueError):
    """A bundle that cannot be read: missing, truncated, changed, or of another format."""


class OutputExistsError(Seq2EdgeError, FileExistsError):
    """The output folder is already there and may not be replaced."""


class OutputError(Seq2EdgeError, OSError):
    """The output could not be written, for example because the disk is full."""


class InputError(Seq2EdgeError, ValueError):
    """Text, token ids or options that the model cannot take."""


class _OfSource(Exception):  # noqa: N818 - the base of an error and of a warning
    """Something about one of several source texts.

    Attributes:
        index: its place among them, from 0.
        reason: what, as the rest of a sentence about it.
    """

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"text {index + 1} {reason}")
        self.index = index
        self.reason = reason


class SourceError(_OfSource, InputError):
    """One of several source texts cannot be taken."""


class SourceWarning(_OfSource, UserWarning):
    """One of several source texts may not be what the model is for."""


class BackendError(Seq2EdgeError, RuntimeError):
    """The inference engine is missing, too old, or refuses the model."""


class MissingDependencyError(Seq2EdgeError, ImportError):
    """A package that this command needs is not installed."""
