"""Languages by code: the tokens in sources and outputs are those that transformers would put."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from seq2edge.runtime import Bundle, GenerationConfig, InputError, Seq2SeqModel
from seq2edge.runtime.text.languages import chooses_its_target

from ...multilingual import CLASSES, FIRST, export_multilingual


@pytest.fixture
def bundle(checkpoint_of: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """A function from a tokenizer class, and settings of its own, to a bundle of its family."""

    def make(kind: str, **settings: Any) -> Path:
        shape, _ = CLASSES[kind]
        return export_multilingual(kind, checkpoint_of(shape), tmp_path, **settings)

    return make


CAT = [4, 5]  # "the cat"
EN, FR = FIRST, FIRST + 1


@pytest.mark.parametrize(
    ("kind", "settings", "plain", "french"),
    [
        ("MBartTokenizer", {}, [*CAT, 2, EN], [*CAT, 2, FR]),
        ("MBartTokenizer", {"src_lang": "fr_XX"}, [*CAT, 2, FR], [*CAT, 2, FR]),
        ("MBart50Tokenizer", {}, [EN, *CAT, 2], [FR, *CAT, 2]),
        ("NllbTokenizer", {}, [EN, *CAT, 2], [FR, *CAT, 2]),
        ("NllbTokenizer", {"legacy_behaviour": True}, [*CAT, 2, EN], [*CAT, 2, FR]),
        ("M2M100Tokenizer", {}, [EN, *CAT, 2], [FR, *CAT, 2]),
        ("M2M100Tokenizer", {"src_lang": "fr"}, [FR, *CAT, 2], [FR, *CAT, 2]),
        ("PLBartTokenizer", {}, [*CAT, 2], [*CAT, 2, FR]),
        ("PLBartTokenizer", {"language_codes": "multi"}, [*CAT, 2, EN], [*CAT, 2, FR]),
    ],
)
def test_sources_have_the_language_where_the_tokenizer_class_puts_it(
    kind: str,
    settings: dict[str, Any],
    plain: list[int],
    french: list[int],
    bundle: Callable[..., Path],
) -> None:
    code = list(CLASSES[kind][1])[1]
    with Seq2SeqModel.load(bundle(kind, **settings)) as model:
        config = replace(model.generation_config, source_lang=code)
        assert model.tokenize(["the cat"]) == [plain]
        assert model.tokenize(["the cat"], config) == [french]


@pytest.mark.parametrize("kind", CLASSES)
def test_it_is_known_whether_a_language_to_write_is_named(
    kind: str, bundle: Callable[..., Path]
) -> None:
    manifest = Bundle.open(bundle(kind)).manifest
    plain = GenerationConfig.of_bundle(manifest)
    code = list(CLASSES[kind][1])[1]
    assert chooses_its_target(plain, manifest)
    assert not chooses_its_target(replace(plain, target_lang=code), manifest)
    if kind != "MarianTokenizer":
        assert not chooses_its_target(replace(plain, forced_bos_token_id=FR), manifest)
        assert not chooses_its_target(replace(plain, decoder_start_token_id=FR), manifest)


def test_a_marian_source_begins_with_the_target_language(bundle: Callable[..., Path]) -> None:
    with Seq2SeqModel.load(bundle("MarianTokenizer")) as model:
        config = replace(model.generation_config, target_lang="deu")
        plain = model.tokenize(["the cat"])
        assert model.tokenize(["the cat"], config) == [[FIRST + 1, *plain[0]]]
        with pytest.raises(InputError, match=r"source_lang='deu'.*one source language"):
            model.generate("the cat", replace(config, source_lang="deu"))


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("MBartTokenizer", "decoder_start_token_id"),
        ("MBart50Tokenizer", "forced_bos_token_id"),
        ("NllbTokenizer", "forced_bos_token_id"),
        ("M2M100Tokenizer", "forced_bos_token_id"),
        ("PLBartTokenizer", "decoder_start_token_id"),
    ],
)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_target_language_gives_what_transformers_gives_with_its_token(
    kind: str,
    option: str,
    num_beams: int,
    bundle: Callable[..., Path],
    checkpoint_of: Callable[[str], Path],
) -> None:
    shape, languages = CLASSES[kind]
    target = list(languages)[-1]
    with Seq2SeqModel.load(bundle(kind)) as model:
        config = replace(
            model.generation_config,
            target_lang=target,
            num_beams=num_beams,
            max_new_tokens=8,
            return_scores=True,
        )
        texts = ["the cat", "a dog ran home"]
        results = model.generate(texts, config)
        found = [result.token_ids for result in results]
        streamed = model.stream("the cat", config)
        list(streamed)
        sources = model.tokenize(texts, config)
        token = FIRST + list(languages).index(target)
        plain = model.generate(texts, replace(config, target_lang=None))
    assert streamed.result is not None
    assert streamed.result.token_ids == found[0]
    assert [result.score for result in plain] != [result.score for result in results]
    reference = AutoModelForSeq2SeqLM.from_pretrained(checkpoint_of(shape)).eval()
    for source, tokens in zip(sources, found, strict=True):
        with torch.inference_mode():
            expected = reference.generate(
                input_ids=torch.tensor([source]),
                num_beams=num_beams,
                max_new_tokens=8,
                **{option: token},
            )[0, 1:].tolist()
        assert tokens == expected


@pytest.mark.parametrize(
    ("code", "nearest"), [("fr", "fr_XX"), ("FR_xx", "fr_XX"), ("german", "de_DE"), (7, "en_XX")]
)
@pytest.mark.parametrize("option", ["source_lang", "target_lang"])
def test_an_unknown_code_is_refused_with_the_nearest(
    code: Any, nearest: str, option: str, bundle: Callable[..., Path]
) -> None:
    with Seq2SeqModel.load(bundle("MBartTokenizer")) as model:
        config = replace(model.generation_config, **{option: code})
        with pytest.raises(InputError, match=f"{option}={code!r}.*3 languages.*{nearest}"):
            model.generate("the cat", config)


@pytest.mark.parametrize("option", ["source_lang", "target_lang"])
def test_a_bundle_without_languages_says_so(option: str, bundle_of: Callable[[str], Path]) -> None:
    with Seq2SeqModel.load(bundle_of("bart")) as model:
        config = replace(model.generation_config, **{option: "fr"})
        with pytest.raises(InputError, match=rf"{option} is for models of several languages.*bart"):
            model.generate_ids([[5, 6, 2]], config=config)


def test_a_source_that_its_language_token_makes_too_long_is_refused(
    bundle: Callable[..., Path],
) -> None:
    with Seq2SeqModel.load(bundle("MarianTokenizer")) as model:
        config = replace(model.generation_config, target_lang="fra")
        text = " ".join(["cat"] * 80)  # as many tokens as there are positions
        assert len(model.tokenize([text])[0]) == 80
        with pytest.raises(InputError, match="81 tokens"):
            model.tokenize([text], config)
