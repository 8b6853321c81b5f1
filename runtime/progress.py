"""How long work reports its progress to the caller."""

from __future__ import annotations

from collections.abc import Callable

#: Called with the number of items that are done and the number of all.
CountProgress = Callable[[int, int], None]
#: Called with the name of a stage, what is done of it and what there is to do (0: unknown).
StageProgress = Callable[[str, int, int], None]
