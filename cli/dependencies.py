"""Commands that need more than the runtime say what to install."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs(command: str, extras: str) -> Iterator[None]:
    """Around the imports of ``command``: a package that is missing is an error that says so.

    Raises:
        MissingDependencyError: which one, and the ``extras`` that bring it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        from seq2edge.runtime.errors import MissingDependencyError

        raise MissingDependencyError(
            f"{command} needs {error.name}: pip install 'seq2edge[{extras}]'"
        ) from None
