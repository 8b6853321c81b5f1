"""What fits says is what decoding uses: engines of exactly so many slots are enough."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from seq2edge.runtime import GenerationConfig, InputError
from seq2edge.runtime.backends.limits import Limits
from seq2edge.runtime.generation.engine_limits import fitted_new_tokens, num_tokens_of, slots_of

from .conftest import Load
from .test_decoding import MODES, OnCpu, batch

CONFIGS = MODES | {
    "prefix and beams": GenerationConfig(max_new_tokens=6, num_beams=3, decoder_prefix=(7, 9, 11)),
    "prefix and lookup": GenerationConfig(
        max_new_tokens=9, prompt_lookup_num_tokens=3, decoder_prefix=(7, 9, 11)
    ),
    "one token of beams": GenerationConfig(max_new_tokens=1, num_beams=4),
    "one token and its forced end": GenerationConfig(
        max_new_tokens=1, forced_bos_token_id=5, forced_eos_token_id=6
    ),
    "forced BOS and samples": GenerationConfig(
        max_new_tokens=5, forced_bos_token_id=5, do_sample=True, num_return_sequences=2, seed=3
    ),
    "lookup of sources that end apart": GenerationConfig(
        max_new_tokens=17, prompt_lookup_num_tokens=2, no_repeat_ngram_size=2
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_smallest_engine_that_fits_is_large_enough(
    name: str, on_gpu: Load, on_cpu: OnCpu
) -> None:
    config = CONFIGS[name]
    assert config.max_new_tokens is not None
    num_tokens = num_tokens_of(config)
    needed = max(slots_of(config, config.max_new_tokens), num_tokens)
    limits = Limits(4, 24, max_target_length=needed, max_num_tokens=num_tokens)
    # Sources that repeat themselves, so that lookup guesses, beside those that do not.
    sources = batch()
    sources[1] = np.resize([5, 6, 7], 12)
    expected = on_cpu("t5").generate_ids(sources, config=config)
    found = on_gpu("t5", limits).model.generate_ids(sources, config=config)
    assert [f.token_ids for f in found] == [e.token_ids for e in expected]
    if needed > num_tokens:
        with pytest.raises(InputError, match=rf"need {needed} cache slots.* {needed}$"):
            fitted_new_tokens(
                replace(limits, max_target_length=needed - 1), config, config.max_new_tokens
            )


def test_a_billion_tokens_are_refused_at_once() -> None:
    config = GenerationConfig(max_new_tokens=10**9)
    with pytest.raises(InputError, match="ask for at most 64 new tokens, or build it with"):
        fitted_new_tokens(Limits(1, 24, 64, 4), config, 10**9)


def test_a_prefix_that_fills_the_cache_is_said_to() -> None:
    config = GenerationConfig(max_new_tokens=4, decoder_prefix=tuple(range(1, 30)))
    with pytest.raises(InputError) as error:
        fitted_new_tokens(Limits(1, 24, 16, 4), config, 4)
    assert str(error.value).endswith(
        "for 16; give a shorter decoder_prefix, or build it with --max-target-length 33"
    )
