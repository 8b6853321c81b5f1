"""Regular expressions that came with a checkpoint, matched within a time limit.

Python's engine backtracks: a short pattern can keep it busy for years, and nothing in the process
can stop it. Patterns that repeat something are therefore matched in a process of their own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence

from ..errors import CheckpointError

#: Far more than what names of modules take; the interpreter's start is in it.
_SECONDS = 5.0
#: Text, in which a dot is any character: nothing to go back for.
_PLAIN = re.compile(r"(\(\.\*\\\.\)\?)?\(?[\w.\\-]*\)?", re.ASCII)
#: Reads [patterns, names], writes for each pattern the places of the names that it matches.
_MATCH = """
import json, re, sys
patterns, names = json.load(sys.stdin)
try:
    found = [[i for i, name in enumerate(names) if re.fullmatch(p, name)] for p in patterns]
except (re.error, RecursionError, OverflowError, MemoryError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(json.dumps(found))
"""


def matching(
    patterns: Sequence[str], names: Iterable[str], where: str
) -> dict[str, frozenset[str]]:
    """For each pattern the names that it matches from end to end.

    Args:
        where: what has the patterns, for errors.

    Raises:
        CheckpointError: a pattern that is none, or that takes longer than 5 seconds.
    """
    names = list(names)
    if all(map(_PLAIN.fullmatch, patterns)):
        try:
            return {p: frozenset(n for n in names if re.fullmatch(p, n)) for p in patterns}
        except re.error as error:
            raise CheckpointError(f"{where} has no regular expression: {error}") from None
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _MATCH],
            input=json.dumps([list(patterns), names]),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CheckpointError(
            f"{where} has a regular expression that takes more than {_SECONDS:g} s on the names of"
            " this model's modules; list the modules by their names in place of it"
        ) from None
    if done.returncode != 0:
        reason = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise CheckpointError(f"{where} has no regular expression that can be matched: {reason}")
    found: list[list[int]] = json.loads(done.stdout)
    return {
        pattern: frozenset(names[place] for place in places)
        for pattern, places in zip(patterns, found, strict=True)
    }
