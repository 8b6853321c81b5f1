"""Speech bundles on recordings: transcribed, scored, compared, timed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from seq2edge.benchmarks.quality.compare import Comparison, compare
from seq2edge.benchmarks.quality.evaluate import score
from seq2edge.benchmarks.quality.metrics import load_metric
from seq2edge.benchmarks.quality.recordings import read_data, read_recordings
from seq2edge.benchmarks.quality.report import markdown, table
from seq2edge.benchmarks.quality.settings import Settings
from seq2edge.benchmarks.quality.subjects import open_subject
from seq2edge.runtime import Bundle, InputError
from seq2edge.runtime.speech.model import SpeechModel

#: One temperature would do, but there is no such setting; the model passes most thresholds.
SETTINGS = Settings(language="en", num_beams=1, max_new_tokens=12, threads=1, speed_texts=2)


def test_recordings_are_found_beside_the_file_that_names_them(recordings: Path) -> None:
    found = read_recordings(recordings)
    assert [one.source for one in found] == ["1.wav", "2.wav", "33.wav"]
    assert [one.seconds for one in found] == [1, 2, 33]
    assert all(one.path.is_file() for one in found)
    assert [one.source for one in read_recordings(recordings, 1)] == ["1.wav"]


def test_all_audio_that_cannot_be_read_is_named_at_once(recordings: Path, tmp_path: Path) -> None:
    shutil.copy(recordings.with_name("1.wav"), tmp_path / "good.wav")
    (tmp_path / "text.wav").write_text("no sound")
    (tmp_path / "cut.wav").write_bytes(recordings.with_name("1.wav").read_bytes()[:30])
    names = ["good.wav", "none.wav", "text.wav", "cut.wav", *(f"{n}.wav" for n in range(4))]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"source": n, "target": "x"}) + "\n" for n in names))
    with pytest.raises(InputError) as caught:
        read_recordings(data)
    message = str(caught.value)
    assert message.startswith(f"{data}, line 2: cannot read {tmp_path / 'none.wav'}: No such file")
    assert f"line 3: {tmp_path / 'text.wav'} is a text file" in message
    assert f"line 4: {tmp_path / 'cut.wav'}" in message
    assert message.endswith("and 2 more")


def test_transcriptions_are_scored_without_case_and_punctuation(
    speaking_bundle: Path, recordings: Path, tmp_path: Path
) -> None:
    with SpeechModel.load(speaking_bundle, num_threads=1) as model:
        options = {"language": "en", "beam_size": 1, "max_new_tokens": 12, "seed": 0}
        heard = [
            model.transcribe(recordings.with_name(f"{n}.wav"), **options).text for n in (1, 2, 33)
        ]
    data = tmp_path / "data.jsonl"
    lines = [
        {"source": str(recordings.with_name(f"{n}.wav")), "target": text.swapcase() + " !"}
        for n, text in zip((1, 2, 33), heard, strict=True)
    ]
    data.write_text("\n".join(map(json.dumps, lines)))
    bundle = Bundle.open(speaking_bundle)
    examples = read_data(bundle, data)
    done: list[tuple[int, int]] = []
    with open_subject(bundle, SETTINGS) as subject:
        outputs = subject.answer(examples, lambda *counts: done.append(counts))
    assert [output.text for output in outputs] == heard
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert score(outputs, examples, load_metric("wer", normalize=True)).value == 0
    assert score(outputs, examples, load_metric("wer")).value > 0


@pytest.fixture(scope="module")
def comparison(
    speaking_bundle: Path,
    speech_variant: Path,
    recordings: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Comparison:
    copy = tmp_path_factory.mktemp("named") / "copy"
    shutil.copytree(speaking_bundle, copy)
    metric = load_metric("cer", normalize=True)
    return compare(
        [speaking_bundle, copy, speech_variant], read_recordings(recordings), metric, SETTINGS
    )


def test_a_copy_hears_the_same_and_a_variant_something_else(comparison: Comparison) -> None:
    reference, copy, variant = comparison.variants
    for one in (reference, copy):
        assert (one.difference, one.divergence, one.agreement.identical) == (0, 0, 1)
    assert variant.divergence > 0
    assert variant.agreement.prefix < 1
    assert (comparison.sources, comparison.examples, comparison.speed_texts) == ("recordings", 3, 2)


def test_times_are_those_of_speech(comparison: Comparison) -> None:
    for variant in comparison.variants:
        speech = variant.speed.speech
        assert speech is not None
        assert speech.encoder_ms > 0
        assert speech.token_ms > 0
        # Of the two recordings that are timed: 1 s and 2 s.
        assert 0 < speech.real_time_factor < 60
        assert variant.speed.milliseconds > 0
    titles = table(comparison).splitlines()[1]
    assert all(title in titles for title in ("encoder ms", "token ms", "real time"))
    page = markdown(comparison)
    assert "- real time: time of a recording by its length" in page
    assert "recording ms" in page
    assert "in lower case and without punctuation" in page


def test_bundles_of_speech_and_of_texts_are_not_compared(
    speaking_bundle: Path, reference_bundle: Path, recordings: Path
) -> None:
    examples = read_recordings(recordings, 1)
    with pytest.raises(InputError, match="one hears speech, the other one reads texts"):
        compare([speaking_bundle, reference_bundle], examples, load_metric("wer"))


def test_settings_for_the_other_kind_are_refused(
    speaking_bundle: Path, reference_bundle: Path
) -> None:
    for bundle, settings, message in (
        (speaking_bundle, Settings(source_lang="en"), "--source-lang: for bundles that read texts"),
        (speaking_bundle, Settings(skip_special_tokens=False), "--keep-special-tokens: for"),
        (reference_bundle, Settings(language="en"), "--language: for bundles that hear speech"),
        (reference_bundle, Settings(task="translate"), "--task: for bundles that hear speech"),
    ):
        with pytest.raises(InputError, match=message), open_subject(Bundle.open(bundle), settings):
            pass
