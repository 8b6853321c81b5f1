"""What a kind of cases is."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: Runs what a user would do, and says which of several results it was.
Case = Callable[[], str]


@dataclass(frozen=True)
class Kind:
    """A kind of case.

    Attributes:
        seed: of which a copy is made for each case.
        make: changes the copy; gives what to run, and what was changed.
        modules: what a case imports, imported once.
        slowness: of so many cases that are asked for one is made: it takes as long as they.
        needs: a module that may be missing; the kind is then left out, and told so.
    """

    seed: str
    make: Callable[[Path, random.Random], tuple[Case, str]]
    modules: tuple[str, ...] = ("seq2edge.runtime",)
    slowness: int = 1
    needs: str | None = None


def one(folder: Path, rnd: random.Random) -> Path:
    """A random entry."""
    return rnd.choice(sorted(folder.iterdir()))
