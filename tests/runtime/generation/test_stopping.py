"""When sequences end, why, and what they hold then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import ByT5Tokenizer

from seq2edge.export import export_checkpoint
from seq2edge.runtime import Choices, Generation, Seq2SeqModel
from seq2edge.runtime.generation import generator, stopping
from seq2edge.runtime.generation.stopping import StoppingRule

DEMO = Path(__file__).parents[3] / "examples" / "g2p" / "model"
TEXTS = ["x", "a longer text, ü", "one more"]
#: Tokens that are no ASCII byte: without them the random model writes ASCII.
NOT_ASCII = [0, 2, *range(131, 384)]
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "sampling": {"do_sample": True, "seed": 3},
    "lookup": {"prompt_lookup_num_tokens": 3},
}
every_way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(scope="module")
def model(byte_bundle: Path) -> Iterator[Seq2SeqModel]:
    with Seq2SeqModel.load(byte_bundle, num_threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seq2SeqModel]:
    bundle = tmp_path_factory.mktemp("demo") / "bundle"
    export_checkpoint(DEMO, bundle, validate=False)
    with Seq2SeqModel.load(bundle, num_threads=1) as loaded:
        yield loaded


def generate(
    model: Seq2SeqModel, texts: Sequence[str] = TEXTS, call: Any = None, **options: Any
) -> list[Generation]:
    config = replace(model.generation_config, **{"max_new_tokens": 24, **options})
    return model.generate(texts, config, **call or {})


def written(*texts: str) -> Callable[[int, Any], list[int]]:
    """``prefix_allowed_tokens`` that has source n write text n, byte by byte."""

    def allowed(source: int, tokens: Any) -> list[int]:
        rest = texts[source].encode()[len(tokens) - 1 :]
        return [rest[0] + 3] if rest else [1]

    return allowed


def ends(found: list[Generation]) -> list[tuple[str | None, str | None]]:
    return [(row.text, row.finish_reason) for row in found]


# End tokens and the limit.


def test_each_of_several_end_tokens_ends_a_sequence(
    model: Seq2SeqModel,
    variant_of: Callable[..., tuple[Path, Path]],
    reference_of: Callable[[Path], Any],
) -> None:
    rows = [model.tokenize([text])[0] for text in TEXTS]
    free = [model.generate_ids([row], max_new_tokens=24)[0].token_ids for row in rows]
    # A token that one source reaches and the other does not, for each of two sources.
    first = next(token for token in free[0][3:] if token not in free[1])
    second = next(token for token in free[1][5:] if token not in free[0])
    checkpoint, bundle = variant_of("t5-v1.1", eos_token_id=[first, second])
    width = max(map(len, rows))
    ids = [row + [0] * (width - len(row)) for row in rows]
    with Seq2SeqModel.load(bundle, num_threads=1) as several:
        found = several.generate_ids(ids, max_new_tokens=24)
    mask = (torch.tensor(ids) != 0).long()
    with torch.inference_mode():
        expected = reference_of(checkpoint).generate(
            input_ids=torch.tensor(ids), attention_mask=mask, max_new_tokens=24
        )
    for row, wanted in zip(found, expected[:, 1:].tolist(), strict=True):
        assert row.token_ids == wanted[: len(row.token_ids)]
        assert set(wanted[len(row.token_ids) :]) <= {0}
        assert (row.finish_reason == "eos") == (row.token_ids[-1] in (first, second))
    assert [row.token_ids[-1] for row in found[:2]] == [first, second]
    assert [row.finish_reason for row in found[:2]] == ["eos", "eos"]
    assert not {first, second} & {token for row in found for token in row.token_ids[:-1]}


@every_way
def test_an_end_token_in_the_last_place_is_no_limit(way: str, model: Seq2SeqModel) -> None:
    """Four bytes and the end token, in five, four and three places."""
    for limit, text, reason in [(5, "abcd", "eos"), (4, "abcd", "length"), (3, "abc", "length")]:
        found = generate(
            model, ["x"], prefix_allowed_tokens=written("abcd"), max_new_tokens=limit, **WAYS[way]
        )
        assert ends(found) == [(text, reason)]


# Stop strings.


@every_way
def test_sequences_stop_each_at_its_own_string(way: str, model: Seq2SeqModel) -> None:
    """The string spans four tokens here; the text keeps it, and nothing follows it."""
    script = written("one STOP two", "a longer one, STOP", "no STO P", "STOP", "STOPSTOP")
    found = generate(
        model,
        ["x", "a longer text, ü", "a", "b", "c"],
        prefix_allowed_tokens=script,
        stop_strings=("STOP",),
        **WAYS[way],
    )
    assert ends(found) == [
        ("one STOP", "stop_string"),
        ("a longer one, STOP", "stop_string"),
        ("no STO P", "eos"),
        ("STOP", "stop_string"),
        ("STOP", "stop_string"),
    ]


@every_way
@pytest.mark.parametrize(
    ("text", "strings", "kept"),
    [
        ("Grüße", ("ü",), "Grü"),  # two bytes, a token each
        ("日本語 x", ("本",), "日本"),
        ("ok 👍 yes", ("👍 y",), "ok 👍 y"),
        ("first then second", ("second", "then", "thenceforth"), "first then"),
        ("aaab", ("aab",), "aaab"),
        ("line\nnext", ("\n",), "line\n"),
        ("a b", (" ",), "a "),
    ],
)
def test_the_first_string_ends_the_text(
    text: str, strings: tuple[str, ...], kept: str, way: str, model: Seq2SeqModel
) -> None:
    found = generate(
        model, ["x"], prefix_allowed_tokens=written(text), stop_strings=strings, **WAYS[way]
    )
    assert ends(found) == [(kept, "stop_string")]
    assert found[0].token_ids == [byte + 3 for byte in kept.encode()]


def test_a_string_in_the_last_place_is_no_limit(model: Seq2SeqModel) -> None:
    options = {"prefix_allowed_tokens": written("abSTOP"), "stop_strings": ["STOP"]}
    assert ends(generate(model, ["x"], **options, max_new_tokens=6)) == [("abSTOP", "stop_string")]
    assert ends(generate(model, ["x"], **options, max_new_tokens=5)) == [("abSTO", "length")]


@pytest.mark.parametrize("beams", [1, 3])
def test_stop_strings_give_the_tokens_of_transformers(
    beams: int,
    model: Seq2SeqModel,
    checkpoint_of: Callable[[str], Path],
    reference_of: Callable[[Path], Any],
) -> None:
    reference, tokenizer = reference_of(checkpoint_of("t5-v1.1")), ByT5Tokenizer()
    options = {"num_beams": beams, "suppress_tokens": NOT_ASCII, "max_new_tokens": 24}
    plain = generate(model, **options)
    reasons = set()
    for text, row in zip(TEXTS, plain, strict=True):
        assert row.text is not None
        for string in (row.text[3:5], row.text[6:9], row.text[10:11]):
            found = generate(model, [text], stop_strings=(string,), **options)[0]
            with torch.inference_mode():
                expected = reference.generate(
                    input_ids=torch.tensor([tokenizer(text)["input_ids"]]),
                    stop_strings=[string],
                    tokenizer=tokenizer,
                    **options,
                )[0, 1:].tolist()
            assert found.token_ids == expected
            assert (found.finish_reason == "stop_string") == (string in (found.text or ""))
            reasons.add(found.finish_reason)
    assert "stop_string" in reasons


@pytest.mark.parametrize(
    ("string", "text"),
    [("T", "G EY T"), ("EY T", "G EY T"), ("Y T", "G EY T"), ("T W", "G EY T W")],
)
@pytest.mark.parametrize("beams", [1, 3])
def test_strings_that_begin_within_a_token_of_the_demo_model(
    string: str, text: str, beams: int, demo: Seq2SeqModel
) -> None:
    found = generate(demo, ["gateway"], stop_strings=(string,), num_beams=beams)[0]
    assert (found.text, found.finish_reason) == (text, "stop_string")
    found = generate(demo, ["gateway"], stop_strings=("QQ",), num_beams=beams)[0]
    assert (found.text, found.finish_reason) == ("G EY T W EY", "eos")


@every_way
def test_a_string_in_the_decoder_prefix_does_not_stop_what_follows(
    way: str, model: Seq2SeqModel
) -> None:
    def allowed(_: int, tokens: Any) -> list[int]:
        return [byte + 3 for byte in b"...xy."[len(tokens) - 1 :][:1]]

    prefix = [byte + 3 for byte in b"..."]
    found = generate(
        model,
        ["x"],
        prefix_allowed_tokens=allowed,
        stop_strings=(".",),
        decoder_prefix=prefix,
        **WAYS[way],
    )
    assert ends(found) == [("...xy.", "stop_string")]  # as in transformers


# Time and the caller's own wish.


@every_way
def test_no_time_at_all_still_gives_a_token(way: str, model: Seq2SeqModel) -> None:
    found = generate(model, max_time=1e-9, **WAYS[way])
    assert {row.finish_reason for row in found} == {"time"}
    assert all(row.token_ids for row in found)
    again = generate(model, max_new_tokens=5, **WAYS[way])
    assert {row.finish_reason for row in again} == {"length"}


@every_way
def test_time_counts_from_the_start_of_the_batch(
    way: str, model: Seq2SeqModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that goes on by a second whenever it is read: once a step of a batch."""
    monkeypatch.setattr(generator, "row_backend", lambda _backend: None)
    seconds = iter(range(10**6))
    clock = SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr(stopping, "time", clock)
    for _ in range(2):
        found = generate(model, max_time=5.0, **WAYS[way])
        assert {row.finish_reason for row in found} == {"time"}
        steps = {len(row.token_ids) for row in found}
        assert min(steps) >= 5 if way == "lookup" else steps == {5}


@every_way
@pytest.mark.parametrize("polls", [1, 2, 7])
def test_a_cancelled_call_ends_with_that_step(polls: int, way: str, model: Seq2SeqModel) -> None:
    plain = generate(model, **WAYS[way])
    asked = []

    def cancelled() -> bool:
        asked.append(None)
        return len(asked) == polls

    found = generate(model, call={"cancelled": cancelled}, **WAYS[way])
    assert {row.finish_reason for row in found} == {"cancelled"}
    assert len(asked) == polls
    lengths = {len(row.token_ids) for row in found}
    # With lookup a step may find several tokens.
    assert polls <= min(lengths) <= max(lengths) <= (4 * polls if way == "lookup" else polls)
    if way != "beams":  # whose best beam may be another one later
        for row, whole in zip(found, plain, strict=True):
            assert row.token_ids == whole.token_ids[: len(row.token_ids)]
    assert generate(model, **WAYS[way]) == plain


@every_way
def test_what_has_ended_before_the_cancellation_keeps_its_reason(
    way: str, model: Seq2SeqModel
) -> None:
    polls = iter([False] * 5 + [True] * 100)
    found = generate(
        model,
        prefix_allowed_tokens=written("abc", "a long text to the limit", "STOP"),
        stop_strings=("STOP",),
        call={"cancelled": lambda: next(polls)},
        **WAYS[way],
    )
    assert ends(found)[::2] == [("abc", "eos"), ("STOP", "stop_string")]
    assert found[1].finish_reason == "cancelled"
    assert found[1].text is not None
    assert "a long text to the limit".startswith(found[1].text)


def test_batches_after_the_cancellation_end_at_once(model: Seq2SeqModel) -> None:
    polls = iter([False] * 2 + [True] * 100)
    found = generate(model, call={"cancelled": lambda: next(polls), "batch_size": 1})
    assert {row.finish_reason for row in found} == {"cancelled"}
    assert sorted(len(row.token_ids) for row in found) == [1, 1, 3]


def test_a_cancellation_ends_a_constrained_text(model: Seq2SeqModel) -> None:
    polls = iter([False, True])
    found = generate(
        model, ["x"], constraint=Choices(("yes",)), call={"cancelled": lambda: next(polls)}
    )
    assert ends(found) == [("ye", "cancelled")]


# The rule itself.


def letters(tokens: Sequence[int]) -> str:
    """Tokens from 97 on are letters, the others have no text."""
    return "".join(chr(token) for token in tokens if token >= 97)


def test_an_end_token_goes_before_a_stop_string() -> None:
    rule = StoppingRule((1, 2), stop_strings=("ab",), decode=letters)
    assert rule.reason([97, 98, 2]) == "eos"
    assert rule.reason([97, 98]) == "stop_string"
    assert rule.reason([1, 97]) is None
    assert StoppingRule((1, 2)).reason([97, 98]) is None


def test_a_string_is_found_over_tokens_without_text_and_at_the_end_of_long_ones() -> None:
    rule = StoppingRule((1,), stop_strings=("abc", "é"), decode=letters)
    assert rule.reason([97, 5, 98, 5, 5, 99]) == "stop_string"
    assert rule.reason([97] * 500 + [98, 99]) == "stop_string"
    assert rule.reason([97] * 500 + [98]) is None
    assert rule.reason([97] * 500 + [0xE9]) == "stop_string"


def test_cancellation_goes_before_time() -> None:
    rule = StoppingRule((1,), max_time=1e-9, cancelled=lambda: True)
    assert rule.interrupted() == "cancelled"
    assert StoppingRule((1,), max_time=1e-9, cancelled=lambda: False).interrupted() == "time"
    assert StoppingRule((1,), max_time=1e9).interrupted() is None
    assert StoppingRule((1,)).interrupted() is None
