"""Makes what onnx-asr runs of a checkpoint of Whisper; runs where optimum-onnx is.

python make_onnx_asr.py onnx-asr CHECKPOINT FOLDER
"""

# mypy: allow-untyped-calls, disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import json
import sys
from pathlib import Path


def write(checkpoint: Path, folder: Path) -> None:
    """Write what ``optimum-cli export onnx`` writes, and the vocabulary in two files."""
    from optimum.exporters.onnx import main_export

    task = "automatic-speech-recognition-with-past"
    main_export(str(checkpoint), str(folder), task=task, do_validation=False)
    described = json.loads((checkpoint / "tokenizer.json").read_bytes())
    added = {token["content"]: token["id"] for token in described["added_tokens"]}
    for name, tokens in (("vocab", described["model"]["vocab"]), ("added_tokens", added)):
        (folder / f"{name}.json").write_text(json.dumps(tokens), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[2]), Path(sys.argv[3]))
