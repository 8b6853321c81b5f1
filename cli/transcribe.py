"""Transcribe speech: audio files to text, subtitles or JSON, with a speech bundle.

Segments are printed as soon as they are final. With --output-dir each recording has files of its
own, NAME.FORMAT. A recording that cannot be read does not stop the others; it is named at the end,
and the exit code is 2.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .arguments import (
    add_bundle,
    add_device,
    add_force,
    add_json,
    add_threads,
    device_options,
    positive,
)
from .progress import Progress
from .texts import write
from .transcription import add_transcription, transcription_options

if TYPE_CHECKING:
    from seq2edge.runtime.speech.model import SpeechModel
    from seq2edge.runtime.speech.options import TranscriptionOptions
    from seq2edge.runtime.speech.segment_stream import SegmentStream

#: As seq2edge.runtime.speech.formats has them; importing it would load numpy for --help.
_FORMATS = ("txt", "srt", "vtt", "tsv", "json")
_ENCODINGS = ("s16le", "s16be", "s24le", "s32le", "u8", "f32le", "alaw", "mulaw")
_STDIN = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle(parser)
    parser.add_argument(
        "audio", nargs="+", metavar="AUDIO", help="audio files; -: one on standard input"
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--format",
        choices=(*_FORMATS, "all"),
        dest="form",
        help="of the files, or of what is printed (default: txt)",
    )
    output.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="write NAME.FORMAT there for each recording"
    )
    add_force(parser, "replace existing files")
    add_json(parser)
    add_transcription(parser)
    raw = parser.add_argument_group("samples without a header, on standard input")
    raw.add_argument("--live", action="store_true", help="transcribe - while it is spoken")
    raw.add_argument(
        "--encoding", choices=_ENCODINGS, help="- has no header: how its samples are stored"
    )
    raw.add_argument("--sampling-rate", type=positive, metavar="HZ", help="default: 16000")
    raw.add_argument("--channels", type=positive, metavar="N", help="default: 1")
    add_device(parser)
    add_threads(parser)


def run(options: argparse.Namespace) -> int:
    chosen = transcription_options(options)
    recordings = [_Recording(name, options) for name in options.audio]
    _check(options, recordings)
    if options.live:
        return _transcribe_live(options, chosen)
    with (
        _open_model(options.bundle, options) as model,
        _open_draft(options) as draft,
        # On a terminal the segments themselves show how far it is.
        Progress(not (sys.stdout and sys.stdout.isatty())) as progress,
    ):
        chosen = replace(chosen, draft_model=draft)
        return _transcribe_all(model, recordings, chosen, progress)


class _Recording:
    """One of the command line's, and where its transcription goes."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self._is_stdin = name == _STDIN
        self._options = options
        self.name = "standard input" if self._is_stdin else name
        form = options.form or "txt"
        self.forms = _FORMATS if form == "all" else (form,)
        folder: Path | None = options.output_dir
        stem = "stdin" if self._is_stdin else Path(name).stem
        #: Where its files go, without their extensions; None: none are written.
        self.stem = None if folder is None else folder / stem
        self.as_json = options.json or (folder is None and form == "json")

    @property
    def paths(self) -> list[Path]:
        """The files that it is written to."""
        if self.stem is None:
            return []
        return [self.stem.with_name(f"{self.stem.name}.{form}") for form in self.forms]

    def source(self) -> Any:
        """What the model opens."""
        if not self._is_stdin:
            return Path(self.name)
        stream = _stdin()
        given = _raw_options(self._options)
        if not given:
            return stream
        import numpy as np

        from seq2edge.runtime.audio import read_pcm

        return np.concatenate([np.zeros(0, np.float32), *read_pcm(stream, **given)])

    def print(self, segments: SegmentStream, several: bool) -> None:
        """Print segments as they come, in the way that was asked for."""
        from seq2edge.runtime.speech.formats import lines, timestamp

        if self.as_json:
            for _ in segments:
                pass
            return
        if self.stem is not None:
            for segment in segments:
                times = f"{timestamp(segment.start)} --> {timestamp(segment.end)}"
                write(f"[{times}] {segment.text.strip()}\n")
            return
        if several:
            write(f"==> {self.name} <==\n")
        for part in lines(segments, self.forms[0]):
            write(part)

    def finish(self, segments: SegmentStream) -> None:
        """Write the files, and print JSON."""
        from seq2edge.runtime.speech.formats import document, write_files

        if self.stem is not None:
            _make_folder(self.stem.parent)
            write_files(segments.result, self.stem, self.forms)
        if self.as_json:
            found = {"audio": self.name, **document(segments.result)}
            write(json.dumps(found, ensure_ascii=False) + "\n")


def _check(options: argparse.Namespace, recordings: list[_Recording]) -> None:
    """Refuse what cannot be done before anything is loaded or written."""
    from seq2edge.runtime import InputError
    from seq2edge.runtime.bundle.atomic_write import check_file, check_parent

    if options.audio.count(_STDIN) > 1:
        raise InputError("standard input can be read once: give - once")
    given = [name for name in ("encoding", "sampling_rate", "channels") if getattr(options, name)]
    if options.live and options.audio != [_STDIN]:
        raise InputError("--live reads standard input: give - in place of audio files")
    if options.live and options.output_dir is not None:
        raise InputError("--live prints what it hears, and writes no files: no --output-dir")
    if given and _STDIN not in options.audio:
        flag = given[0].replace("_", "-")
        raise InputError(f"--{flag} is for samples on standard input (-); files say theirs")
    if given and not options.encoding and not options.live:
        raise InputError("samples without a header need --encoding, such as s16le")
    if options.force and options.output_dir is None:
        raise InputError("--force replaces files, and only --output-dir writes any")
    if options.output_dir is None:
        if options.form == "all":
            raise InputError("--format all writes several files: give --output-dir")
        if len(recordings) > 1 and options.form in ("srt", "vtt", "tsv") and not options.json:
            raise InputError(
                f"several recordings are no one {options.form} file: give --output-dir"
            )
        return
    paths: dict[Path, str] = {}
    for recording in recordings:
        for path in recording.paths:
            if path in paths:
                raise InputError(
                    f"{paths[path]} and {recording.name} would both be written to {path};"
                    " transcribe them into two folders"
                )
            paths[path] = recording.name
            if options.output_dir.exists():
                check_file(path, options.force)
            else:
                check_parent(path)


def _transcribe_all(
    model: SpeechModel,
    recordings: list[_Recording],
    chosen: TranscriptionOptions,
    progress: Progress,
) -> int:
    from seq2edge.runtime import InputError, MissingDependencyError

    failures: list[Exception] = []
    for recording in recordings:
        try:
            _transcribe(model, recording, chosen, progress, several=len(recordings) > 1)
        except (InputError, MissingDependencyError) as error:
            if len(recordings) == 1:
                raise
            failures.append(error)
    if not failures:
        return 0
    reasons = dict.fromkeys(str(error) for error in failures)
    raise InputError(
        f"{len(failures)} of {len(recordings)} recordings could not be transcribed:"
        f" {'; '.join(reasons)}"
    )


def _transcribe(
    model: SpeechModel,
    recording: _Recording,
    chosen: TranscriptionOptions,
    progress: Progress,
    *,
    several: bool,
) -> None:
    def show(done: float, total: float) -> None:
        progress(f"{recording.name}, seconds of audio", int(done), int(total))

    with model.segments(recording.source(), chosen, progress=show) as segments:
        if segments.language_probability is not None:
            print(
                f"seq2edge: {recording.name}: language {segments.language}"
                f" (probability {segments.language_probability:.2f})",
                file=sys.stderr,
            )
        recording.print(segments, several)
        recording.finish(segments)


def _transcribe_live(options: argparse.Namespace, chosen: TranscriptionOptions) -> int:
    from seq2edge.runtime.audio import read_pcm

    from .live import InBackground, at_interrupt, print_live, unbuffered

    chunks = InBackground(read_pcm(unbuffered(_stdin()), **_raw_options(options)))
    with (
        _open_model(options.bundle, options) as model,
        _open_draft(options) as draft,
        at_interrupt(chunks.end),
        model.stream(chunks, replace(chosen, draft_model=draft)) as updates,
    ):
        print_live(updates, options.form or "txt", options.json or options.form == "json")
    return 0


def _open_draft(options: argparse.Namespace) -> AbstractContextManager[SpeechModel | None]:
    """The model of --draft; None without one."""
    return nullcontext() if options.draft is None else _open_model(options.draft, options)


def _open_model(bundle: Path, options: argparse.Namespace) -> SpeechModel:
    from seq2edge.runtime.speech.model import SpeechModel

    return SpeechModel.load(bundle, **device_options(options), num_threads=options.threads)


def _stdin() -> BinaryIO:
    from seq2edge.runtime import InputError

    if sys.stdin is None:
        raise InputError("cannot read -: standard input is closed")
    return sys.stdin.buffer


def _raw_options(options: argparse.Namespace) -> dict[str, Any]:
    """Of :func:`.read_pcm`; none where standard input holds a file."""
    if not (options.live or options.encoding):
        return {}
    names = ("encoding", "sampling_rate", "channels")
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _make_folder(folder: Path) -> None:
    from seq2edge.runtime.bundle.atomic_write import write_error

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from None
