"""What a process takes on before it has the first words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_what_first_words_do_not_need_is_not_imported(speaking_bundle: Path) -> None:
    code = """
import sys
import numpy as np
before = set(sys.modules)
from seq2edge.runtime import SpeechModel
with SpeechModel.load(sys.argv[1]) as model:
    model.transcribe(np.zeros(16000, np.float32), beam_size=1, temperature=0.0)
print(*(set(sys.modules) - before), sep="\\n")
"""
    found = subprocess.check_output([sys.executable, "-c", code, speaking_bundle], text=True)
    unneeded = {"asyncio", "difflib", "hashlib", "lzma", "shutil", "tempfile"}
    assert not unneeded & set(found.split())
