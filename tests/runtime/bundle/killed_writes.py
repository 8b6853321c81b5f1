"""Write a folder or a file, and be killed before the N-th change to the file system.

``python killed_writes.py folder|file|in-two-steps PATH`` does that in children of its own for
N = 1, 2, ... until one is not killed, and prints for each what its readers found: a line of JSON.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from seq2edge.runtime.bundle import hidden_output
from seq2edge.runtime.bundle.atomic_write import OutputFolder, check_parent, output_file

#: Audit events (sys.addaudithook) of calls that change the file system. The exchange of two paths
#: goes through the C library: it is the last event before the removal of what it replaced.
_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def main(kind: str, path: Path) -> None:
    number = 1
    while True:
        prepare(kind, path)
        child = os.fork()
        if child == 0:
            kill_before(number)
            write(kind, path, b"new")
            os._exit(0)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found = read(path)
        write(kind, path, b"next")
        print(json.dumps({"killed": killed, "found": found, "next": read(path)}))
        left = sorted(entry.name for entry in path.parent.iterdir())
        if left != [path.name]:
            raise SystemExit(f"the next run has left {left}")
        if not killed:
            return
        number += 1


def prepare(kind: str, path: Path) -> None:
    if kind == "in-two-steps":  # a file system that cannot exchange two paths

        def cannot(*_: object) -> None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        hidden_output.exchange = cannot
    write(kind, path, b"old")


def write(kind: str, path: Path, data: bytes) -> None:
    check_parent(path)  # as each command does first
    if kind == "file":
        with output_file(path) as file:
            file.write(data)
        return
    with OutputFolder(path, overwrite=True, marker="marker", kind="a result") as out:
        (out.directory / "within").mkdir()
        for name in ("marker", "within/other"):
            (out.directory / name).write_bytes(data)
        out.publish()


def read(path: Path) -> str | None:
    """What all of the files at ``path`` say; None: there is nothing."""
    if not path.exists():
        return None
    files = [path] if path.is_file() else [path / "marker", path / "within" / "other"]
    (said,) = {file.read_text() for file in files}
    return said


def kill_before(number: int) -> None:
    left = number

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in _CHANGES or (event == "open" and (arguments[2] or 0) & _WRITES):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
