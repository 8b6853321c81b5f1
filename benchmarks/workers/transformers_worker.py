"""The checkpoint in PyTorch, by ``generate`` of transformers: eager, or its step compiled.

As transformers does it for everyone: some T5 tensors (``wo``) stay in float32 in a float16 model.
"""

# mypy: allow-untyped-calls, disable-error-code="import-not-found, import-untyped"

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seq2edge.benchmarks.workers.generate import generator
    from seq2edge.benchmarks.workers.worker import Loaded, Task, serve
else:
    from generate import generator
    from worker import Loaded, Task, serve


def load(task: Task) -> Loaded:
    import torch
    import transformers

    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    if task.device == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError(
                f"torch {torch.__version__} finds no CUDA GPU on this machine (see nvidia-smi)"
            )
        versions["GPU"] = torch.cuda.get_device_name()
    torch.set_num_threads(task.threads)
    if task.audio:
        return _hearing(task, versions)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(
        task.model, dtype=getattr(torch, task.precision)
    )
    model.to(task.device).eval()
    # The checkpoint's own options would make times hard to compare.
    own = model.generation_config
    model.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=own.decoder_start_token_id, pad_token_id=own.pad_token_id
    )
    options = _compiled(model, task.num_beams) if task.mode == "compile" else {}
    generate = generator(model, task, **options)
    if options:
        _compile(generate)
    weights = (*Path(task.model).glob("*.safetensors"), *Path(task.model).glob("*.bin"))
    loaded = Loaded(generate, versions, sum(file.stat().st_size for file in weights))
    if task.device == "cuda":
        return replace(loaded, synchronize=torch.cuda.synchronize)
    return loaded


def _hearing(task: Task, versions: dict[str, str]) -> Loaded:
    """Whisper on one window, without timestamps; features are part of the work."""
    import numpy as np
    import torch
    import transformers

    model = transformers.WhisperForConditionalGeneration.from_pretrained(
        task.model, dtype=getattr(torch, task.precision)
    ).eval()
    extract = transformers.WhisperFeatureExtractor.from_pretrained(task.model)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(Path(task.model) / "tokenizer.json")
    )
    recordings = [np.load(file) for file in task.audio]
    multilingual = getattr(model.generation_config, "is_multilingual", False)
    spoken = {"language": "en", "task": "transcribe"} if multilingual else {}

    def generate(number: int) -> list[int]:
        features = extract(recordings[number], sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            found = model.generate(
                features.input_features.to(model.dtype),
                num_beams=task.num_beams,
                do_sample=False,
                max_new_tokens=task.new_tokens,
                return_timestamps=False,
                **spoken,
            )
        tokens = [token for token in found[0].tolist() if token < model.config.eos_token_id]
        text = str(tokenizer.decode(tokens))
        return list(text.encode())

    weights = Path(task.model) / "model.safetensors"
    return Loaded(generate, versions, weights.stat().st_size)


def _compiled(model: Any, num_beams: int) -> dict[str, Any]:
    """Options of ``generate`` whose steps are compiled: a static cache, which has fixed shapes.

    Greedy decoding compiles the forward pass of all steps but the first by itself, on a GPU with
    ``mode="reduce-overhead"`` (CUDA graphs). Beam search does not (5.24), so there ``forward`` is
    compiled in the same mode, for all steps. Source: transformers, "LLM inference optimization",
    section "Static KV cache and torch.compile", and ``CompileConfig``.
    """
    import torch
    from transformers import CompileConfig

    if not getattr(model, "_can_compile_fullgraph", False):
        raise RuntimeError(
            f"transformers has no static cache for {type(model).__name__}: leave out ':compile'"
        )
    options = {"cache_implementation": "static"}
    config = CompileConfig()
    if num_beams > 1:
        model.forward = torch.compile(model.forward, **config.to_dict())
        return {**options, "disable_compile": True}
    if model.device.type == "cpu":
        # It leaves a CPU out unless it is asked by this attribute, which its type calls None.
        config._compile_all_devices = True  # type: ignore[assignment]
    return {**options, "compile_config": config}


def _compile(generate: Callable[[int], list[int]]) -> None:
    """Generate once, which compiles.

    Raises:
        RuntimeError: it does not work here, or nothing was compiled; in one line.
    """
    from torch._dynamo.utils import counters

    try:
        generate(0)
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        raise RuntimeError(
            f"torch.compile does not work here: {type(error).__name__}: {reason.strip()}"
        ) from None
    # Where its conditions are not met, transformers only warns.
    if not counters["stats"]["unique_graphs"]:
        raise RuntimeError("transformers compiled nothing: leave out ':compile'")


if __name__ == "__main__":
    serve(load)
