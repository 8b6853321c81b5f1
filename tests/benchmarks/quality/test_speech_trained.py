"""Trained weights on recordings whose texts are known: int8 hears what float32 hears.

The texts are the beginning of Dickens's "A Tale of Two Cities" (1859) and of Kennedy's inaugural
address (1961), both in the public domain.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seq2edge.benchmarks.quality.evaluate import score
from seq2edge.benchmarks.quality.metrics import load_metric
from seq2edge.benchmarks.quality.recordings import read_recordings
from seq2edge.benchmarks.quality.settings import Settings
from seq2edge.benchmarks.quality.subjects import open_subject
from seq2edge.quantize import quantize_bundle
from seq2edge.runtime import Bundle
from tests import real_weights
from tests.conftest import export_unvalidated

TWO_CITIES = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age"
    " of foolishness, it was the epoch of belief, it was the epoch of incredulity, it was the"
    " season of Light, it was the season of Darkness, it was the spring of hope, it was the winter"
    " of despair, we had everything before us, we had nothing before us, we were all going direct"
    " to Heaven, we were all going direct the other way - in short, the period was so far like the"
    " present period, that some of its noisiest authorities insisted on its being received, for"
    " good or for evil, in the superlative degree of comparison only."
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (kennedy,) = (real_weights.JFK.parent / "data.jsonl").read_text().splitlines()
    spoken = {
        str(real_weights.JFK): json.loads(kennedy)["target"],
        str(real_weights.recording("two_cities")): TWO_CITIES,
    }
    path = tmp_path_factory.mktemp("known") / "data.jsonl"
    lines = [json.dumps({"source": file, "target": text}) for file, text in spoken.items()]
    path.write_text("\n".join(lines))
    return path


def test_int8_keeps_the_word_error_rate(data: Path, tmp_path: Path) -> None:
    export_unvalidated(real_weights.hugging_face_folder("tiny.en"), tmp_path / "float32")
    quantize_bundle(tmp_path / "float32", tmp_path / "int8", "int8", check=False)
    recordings, wer = read_recordings(data), load_metric("wer", normalize=True)
    settings, found = Settings(num_beams=1, threads=2), {}
    for name in ("float32", "int8"):
        with open_subject(Bundle.open(tmp_path / name), settings) as subject:
            found[name] = score(subject.answer(recordings), recordings, wer).value
    assert found["float32"] == 0  # as transformers' (docs/results/2026-11-29-speech.md)
    assert found["int8"] <= 0.5
