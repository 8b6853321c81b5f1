"""``generate`` of transformers, which optimum's models have as well, as baselines call it."""

# mypy: allow-untyped-calls, disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seq2edge.benchmarks.workers.worker import Task
else:
    from worker import Task


def generator(model: Any, task: Task, **options: Any) -> Callable[[int], list[int]]:
    """New tokens from the source of a number; ``options`` are ``generate``'s own.

    The model has no end token: min_new_tokens would make as many tokens, but its logits processor
    walks the vocabulary at every step: 17 to 19 % more time than an ordinary call (of optimum's).
    Nor is one put at the end (Marian's and BART's ``forced_eos_token_id``).
    """
    import torch

    model.generation_config.eos_token_id = None
    model.generation_config.forced_eos_token_id = None

    sources = [torch.tensor([source], device=task.device) for source in task.sources]
    masks = [torch.ones_like(source) for source in sources]

    def generate(number: int) -> list[int]:
        output = model.generate(
            sources[number],
            attention_mask=masks[number],
            num_beams=task.num_beams,
            do_sample=False,
            max_new_tokens=task.new_tokens,
            **options,
        )
        tokens: list[int] = output[0, 1:].tolist()
        return tokens

    return generate
