"""A few of the calls at which commands are killed or their disk fails; ``make faults`` does all."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from . import faults

#: One in so many calls.
SHARE = 60
#: A build takes seconds each time, and writes with what the others write with.
COMMANDS = [name for name in faults.COMMANDS if name != "build"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler (cc)")
@pytest.mark.skipif(sys.platform != "linux", reason="calls are counted with LD_PRELOAD")
def test_a_fault_leaves_the_old_result_or_the_new_one() -> None:
    done = subprocess.run(
        [sys.executable, faults.__file__, *COMMANDS, "--share", str(SHARE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in COMMANDS:
        assert f"{name}: {{'kill': " in done.stdout
