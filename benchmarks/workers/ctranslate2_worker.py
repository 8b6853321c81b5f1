"""CTranslate2 as a baseline, in an environment without torch.

The vocabulary is made up (make.py): the token of number 7 is called "7".
"""

# mypy: disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seq2edge.benchmarks.workers.worker import Loaded, Task, serve
else:
    from worker import Loaded, Task, serve


def load(task: Task) -> Loaded:
    import ctranslate2

    if "torch" in sys.modules:
        raise RuntimeError("torch is in CTranslate2's process; its threads would compete")
    translator = ctranslate2.Translator(
        task.model,
        device="cpu",
        compute_type=task.precision,
        inter_threads=1,
        intra_threads=task.threads,
    )
    sources = [[str(token) for token in source] for source in task.sources]

    def generate(number: int) -> list[int]:
        # The end token is forbidden until the last step, one write into each step's scores.
        # An end token that never comes, named by end_token, took as long within 3 %.
        (result,) = translator.translate_batch(
            [sources[number]],
            beam_size=task.num_beams,
            min_decoding_length=task.new_tokens,
            max_decoding_length=task.new_tokens,
        )
        return [int(token) for token in result.hypotheses[0]]

    loaded_bytes = sum(file.stat().st_size for file in Path(task.model).iterdir())
    return Loaded(generate, {"ctranslate2": version("ctranslate2")}, loaded_bytes)


if __name__ == "__main__":
    serve(load)
