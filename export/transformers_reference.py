"""Runs a checkpoint's model in transformers, on the inputs of every comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers import GenerationConfig as TorchConfig
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from seq2edge.runtime.bundle.manifest import Manifest

from .checkpoint import Checkpoint
from .errors import CheckpointError, ParityError
from .parity import Inputs, Reference, greedy_options, make_inputs, until_end
from .rounding import greedy_ties, measure

#: Families that transformers has no class for, and the one that computes the same with one token
#: table for both sides.
_STAND_INS = {"opennmt": "pegasus"}
_SOURCE_TABLE = "model.encoder.embed_tokens.weight"


def run_transformers(checkpoint: Checkpoint, manifest: Manifest) -> Reference:
    """Load a checkpoint with transformers and run it.

    Raises:
        ParityError: transformers cannot load it.
    """
    kinds: dict[str | None, Any] = {"encoder": AutoModel, "decoder": AutoModelForCausalLM}
    model = load_model(checkpoint, kinds.get(manifest.single_stack, AutoModelForSeq2SeqLM))
    inputs = make_inputs(manifest, manifest.dimensions.source_tokens)
    with torch.no_grad():
        if manifest.single_stack == "decoder":
            return _run_decoder(model, inputs, manifest)
        arguments = {
            "input_ids": torch.tensor(inputs.input_ids),
            "attention_mask": torch.tensor(inputs.mask).long(),
        }
        if manifest.single_stack == "encoder":
            (states,) = measure(lambda: [model(**arguments).last_hidden_state], keep=1)
            return Reference(inputs, states)
        inputs = _without_pad(inputs, getattr(model.config, "decoder", None))
        targets = torch.tensor(inputs.decoder_ids)

        def run() -> Sequence[Tensor]:
            outputs = model(**arguments, decoder_input_ids=targets, use_cache=False)
            return outputs.encoder_last_hidden_state, outputs.logits

        states, logits = measure(run, keep=1)
        # transformers 5 sizes T5's cache by the encoder's depth: a deeper decoder fails.
        cached = manifest.dimensions.decoder_layers <= manifest.dimensions.encoder_layers
        written, scores = _generate(model, {**arguments, "use_cache": cached}, manifest)

        encoded = BaseModelOutput(torch.from_numpy(states.exact))

        def score() -> Tensor:
            rescored: Tensor = model(
                attention_mask=arguments["attention_mask"],
                encoder_outputs=encoded,
                decoder_input_ids=written[:, :-1],
                use_cache=False,
            ).logits
            return rescored

        ties = greedy_ties(score, scores, logits)
    tokens = [until_end(row, manifest.special_tokens.eos) for row in written[:, 1:].tolist()]
    return Reference(inputs, states, logits, tokens, ties)


def load_model(checkpoint: Checkpoint, kind: Any) -> Any:
    """The model that ``kind``, one of transformers' Auto classes, makes of the checkpoint.

    Raises:
        ParityError: transformers cannot load it.
    """
    try:
        return _load_model(checkpoint, kind).eval()
    except CheckpointError:
        raise
    except Exception as error:  # transformers raises many classes
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ParityError(
            f"transformers cannot load {checkpoint.directory}, so the bundle cannot be compared"
            f" ({reason}); pass --no-validate to export without the comparison"
        ) from None


def _load_model(checkpoint: Checkpoint, kind: Any) -> Any:
    """The model of transformers, with the checkpoint's tensors."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options: dict[str, Any] = {"attn_implementation": "eager", "dtype": torch.float32}
    if checkpoint.as_saved:
        return kind.from_pretrained(checkpoint.directory, local_files_only=True, **options)
    # Not the folder's config.json: one of CTranslate2 says nothing of the model.
    values = dict(checkpoint.config)
    stand_in = _STAND_INS.get(str(values.get("model_type")))
    if stand_in is not None:
        values["model_type"] = stand_in
    outputs, pad = values.get("decoder_vocab_size"), values.get("pad_token_id")
    if outputs is not None and pad is not None:
        # Padding is masked, so its token may be any, but transformers wants one of both sides'.
        values["pad_token_id"] = min(pad, outputs - 1)
    config = AutoConfig.for_model(**values)
    model_class = kind._model_mapping[type(config)]
    state = {name: torch.from_numpy(checkpoint.load(name)) for name in checkpoint.names}
    source = state.pop(_SOURCE_TABLE, None) if stand_in is not None else None
    if source is not None:
        state["model.shared.weight"] = state.pop("model.decoder.embed_tokens.weight")
        config.vocab_size = len(state["model.shared.weight"])
    model = model_class.from_pretrained(None, config=config, state_dict=state, **options)
    if source is not None:
        model.get_encoder().embed_tokens = torch.nn.Embedding.from_pretrained(source)
    return model


def _run_decoder(model: Any, inputs: Inputs, manifest: Manifest) -> Reference:
    """A decoder-only model; its prompts are filled up on the left, as transformers wants them."""
    rows = zip(inputs.input_ids, inputs.mask, strict=True)
    ids = np.stack([np.roll(row, np.count_nonzero(~mask)) for row, mask in rows])
    arguments = {
        "input_ids": torch.tensor(ids),
        "attention_mask": torch.tensor(inputs.mask[:, ::-1].copy()).long(),
    }
    (logits,) = measure(lambda: [model(torch.tensor(inputs.decoder_ids), use_cache=False).logits])
    written, scores = _generate(model, arguments, manifest)
    new, lengths = scores.shape[1], inputs.mask.sum(1)

    def score() -> Tensor:
        unpadded = [row[-new - length : -1] for row, length in zip(written, lengths, strict=True)]
        scored = [model(row[None], use_cache=False).logits[0, -new:] for row in unpadded]
        return torch.stack(scored)

    ties = greedy_ties(score, scores, logits)
    tokens = [until_end(row, manifest.special_tokens.eos) for row in written[:, -new:].tolist()]
    return Reference(inputs, None, logits, tokens, ties)


def _without_pad(inputs: Inputs, decoder: Any) -> Inputs:
    """A pair's decoder may have a pad token of its own, which RoBERTa gives no position."""
    pad = getattr(decoder, "pad_token_id", None)
    if pad is None:
        return inputs
    ids = inputs.decoder_ids
    return replace(inputs, decoder_ids=np.where(ids == pad, np.roll(ids, 1, axis=0), ids))


def _generate(
    model: Any, arguments: dict[str, Any], manifest: Manifest
) -> tuple[Tensor, NDArray[np.float32]]:
    """Greedy decoding: all tokens of its rows [B, prompt + T], and its logits [B, T, V]."""
    special, options = manifest.special_tokens, greedy_options(manifest)
    model.generation_config = TorchConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=options.max_new_tokens,
        # After an end anything may stand, that the decoder has: its tokens may be fewer.
        pad_token_id=min(special.pad, manifest.dimensions.vocab_size - 1),
        eos_token_id=list(special.eos),
        decoder_start_token_id=special.decoder_start,
        forced_bos_token_id=options.forced_bos_token_id,
        forced_eos_token_id=options.forced_eos_token_id,
    )
    generated = model.generate(**arguments, return_dict_in_generate=True, output_logits=True)
    return generated.sequences, torch.stack(generated.logits, dim=1).float().numpy()
