"""Options of generation: names and meanings of ``transformers``' ``GenerationConfig``."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from ..manifest import Manifest

#: New tokens when neither the caller nor the checkpoint's generation_config says how many.
DEFAULT_MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class GenerationConfig:
    """How to decode.

    Attributes:
        max_new_tokens: upper limit of tokens after the decoder prompt, the end token included.
        forced_bos_token_id: the first generated token, if set (BART, language codes).
        forced_eos_token_id: the token put in the last place when ``max_new_tokens`` is
            reached, if set (BART).
        decoder_prefix: token ids put after the decoder start token, before anything is
            generated; they are part of the result and do not count as new.
        return_scores: also compute each sequence's log-probability. It reads all logits of
            every step, which plain greedy decoding does not.
    """

    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    decoder_prefix: tuple[int, ...] = ()
    return_scores: bool = False

    @classmethod
    def resolve(
        cls,
        manifest: Manifest,
        *,
        max_new_tokens: int | None = None,
        decoder_prefix: tuple[int, ...] = (),
        return_scores: bool = False,
    ) -> GenerationConfig:
        """The caller's options over the bundle's defaults, checked against the model.

        Raises:
            InputError: a limit below 1 or beyond what the model can hold, or a prefix token
                outside the vocabulary.
        """
        defaults = manifest.generation
        limit = manifest.dimensions.max_target_length
        # The decoder start token takes a position and the last new token needs none.
        room = None if limit is None else limit - len(decoder_prefix)
        if max_new_tokens is None:
            if defaults.get("max_new_tokens") is not None:
                max_new_tokens = int(defaults["max_new_tokens"])
            elif defaults.get("max_length") is not None:
                # transformers counts the whole decoder prompt in max_length.
                prompt = 1 + len(decoder_prefix)
                max_new_tokens = max(1, int(defaults["max_length"]) - prompt)
            else:
                max_new_tokens = DEFAULT_MAX_NEW_TOKENS
            if room is not None:
                max_new_tokens = min(max_new_tokens, max(room, 1))
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
        if room is not None and max_new_tokens > room:
            raise InputError(
                f"max_new_tokens={max_new_tokens} is more than the model allows:"
                f" it has {limit} target positions, {len(decoder_prefix)} of them taken by"
                f" the prefix; ask for at most {max(room, 0)}"
            )
        vocabulary = manifest.dimensions.vocab_size
        wrong = [token for token in decoder_prefix if not 0 <= token < vocabulary]
        if wrong:
            raise InputError(f"decoder_prefix holds {wrong}, outside the {vocabulary} token ids")
        return cls(
            max_new_tokens=max_new_tokens,
            forced_bos_token_id=defaults.get("forced_bos_token_id"),
            forced_eos_token_id=defaults.get("forced_eos_token_id"),
            decoder_prefix=decoder_prefix,
            return_scores=return_scores,
        )
