"""A few of the calls at which commands are killed or their disk fails; ``make faults`` does all."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys

import pytest

from . import faults

#: One in so many calls.
SHARE = 60
COMMANDS = [
    name
    for name in faults.COMMANDS
    if name != "build" or importlib.util.find_spec("tensorrt_rtx") is not None
]


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
