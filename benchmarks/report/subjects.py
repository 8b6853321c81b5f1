"""What a report says of the bundles that were measured."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from seq2edge.runtime.bundle.manifest import MANIFEST_NAME
from seq2edge.runtime.bundle.reader import Bundle

from .schema import Entry


def names_of(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Names of the folders, or their paths where two have one name."""
    folders = [Path(path) for path in paths]
    names = [folder.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder) for folder in folders]


def manifest_hash(bundle: Bundle) -> str | None:
    """SHA-256 of the manifest, which has the hashes of all other files; None: there is none."""
    try:
        return hashlib.sha256((Path(bundle.directory) / MANIFEST_NAME).read_bytes()).hexdigest()
    except OSError:
        return None


def scheme_of(bundle: Bundle) -> str:
    """How it was quantized; ``float32`` if it was not."""
    return str(bundle.manifest.quantization.get("scheme") or "float32")


def unsteady(entries: Sequence[Entry]) -> tuple[str, ...]:
    """A note on the entries whose warm-up ended without steady times; none, if there are none."""
    found = [entry for entry in entries if entry.settings.get("steady") is False]
    if not found:
        return ()
    rounds = max(entry.settings["warmup_rounds"] for entry in found)
    who = "times" if len(found) == len(entries) else ", ".join(entry.name for entry in found)
    return (f"{who} were not steady after {rounds} rounds of warm-up",)
