"""What the decoder of a speech model starts with: control tokens, earlier text, hints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..bundle.manifest import Manifest
from ..bundle.speech_info import SpeechInfo
from ..errors import BundleError, InputError
from ..text.tokenizer import Tokenizer
from .options import TranscriptionOptions


def speech_info(manifest: Manifest) -> SpeechInfo:
    """The bundle's ``speech``.

    Raises:
        BundleError: the bundle has none.
    """
    if manifest.speech is None:
        raise BundleError(
            f"a bundle of the family {manifest.family} reads text, not speech: use Seq2SeqModel, or"
            " export a speech model such as Whisper"
        )
    return manifest.speech


def plain_prompt(manifest: Manifest) -> list[int]:
    """The start token, English (or the first language), the task, and no times.

    For what needs any prompt that a speech model was trained on.
    """
    speech = speech_info(manifest)
    prompt = [manifest.special_tokens.decoder_start]
    if speech.languages:
        prompt.append(speech.languages.get("en", next(iter(speech.languages.values()))))
    if "transcribe" in speech.tasks:
        prompt.append(speech.tasks["transcribe"])
    if speech.no_timestamps is not None:
        prompt.append(speech.no_timestamps)
    return prompt


@dataclass(frozen=True)
class DecoderPrompt:
    """Tokens that a window's decoding starts with.

    Attributes:
        tokens: all of them.
        start: place of ``<|startoftranscript|>`` among them.
        text: those at their end that belong to the window's text: its ``prefix``, with the
            timestamp before it.
    """

    tokens: list[int]
    start: int
    text: list[int] = field(default_factory=list)


class Prompting:
    """Makes the prompts of one transcription, and remembers what was said.

    Args:
        manifest: of a speech bundle.
        tokenizer: the bundle's.
        options: as checked.

    Raises:
        InputError: an option about text before the recording, and the model takes none.
    """

    def __init__(
        self, manifest: Manifest, tokenizer: Tokenizer, options: TranscriptionOptions
    ) -> None:
        self._speech = speech = speech_info(manifest)
        self._options = options
        self._start = manifest.special_tokens.decoder_start
        positions = manifest.dimensions.max_target_length
        #: Earlier text takes less than half of the positions, as the model was trained.
        self._most = 0 if positions is None else positions // 2 - 1
        self._hotwords = self._prefix = None
        if speech.previous_text is None:
            for name in ("initial_prompt", "hotwords"):
                if getattr(options, name):
                    raise InputError(f"the model takes no text before a window: no {name}")
        initial = options.initial_prompt
        if isinstance(initial, str):
            initial = _spaced(tokenizer, initial)
        vocab_size = manifest.dimensions.vocab_size
        wrong = [token for token in initial or () if not 0 <= token < vocab_size]
        if wrong:
            raise InputError(f"initial_prompt holds {wrong}, outside the {vocab_size} token ids")
        if options.hotwords:
            self._hotwords = _spaced(tokenizer, options.hotwords)[: self._most]
        if options.prefix:
            self._prefix = _spaced(tokenizer, options.prefix)[: self._most]
        self._history = list(initial or ())
        self._forgotten = 0

    def of_window(self, language: str | None, *, first: bool = False) -> DecoderPrompt:
        """The prompt of the window that follows what was remembered."""
        prefix = self._prefix if first else None
        hotwords = [] if prefix is not None or self._hotwords is None else self._hotwords
        earlier = self._history[self._forgotten :]
        room = max(0, self._most - len(hotwords))
        earlier = [*hotwords, *earlier[max(0, len(earlier) - room) :]]
        before = []
        if earlier and self._speech.previous_text is not None:
            before = [self._speech.previous_text, *earlier]
        text = list(prefix or ())
        if text and not self._options.without_timestamps and self._speech.timestamp_begin:
            text.insert(0, self._speech.timestamp_begin)
        return DecoderPrompt([*before, *self.control(language), *text], len(before), text)

    def control(self, language: str | None) -> list[int]:
        """``<|startoftranscript|>`` and what follows it in the prompts of a language."""
        options = self._options
        return control_tokens(
            self._start, self._speech, language, options.task, options.without_timestamps
        )

    def remember(self, pieces: Sequence[Sequence[int]], temperature: float) -> None:
        """What a window was decoded to, at a temperature: the next prompts begin with it."""
        begin = self._speech.timestamp_begin
        for tokens in pieces:
            # The second one of a pair at the end is where the next window begins.
            pair = begin is not None and len(tokens) > 2 and tokens[-2] >= begin
            self._history += tokens[:-1] if pair else tokens
        options = self._options
        hot = temperature > options.prompt_reset_on_temperature
        if hot or not options.condition_on_previous_text:
            self._forgotten = len(self._history)


def control_tokens(
    start: int, speech: SpeechInfo, language: str | None, task: str, without_timestamps: bool
) -> list[int]:
    """``start`` (``<|startoftranscript|>``), then language and task where the model has some."""
    tokens = [start]
    if language is not None and language in speech.languages:
        tokens.append(speech.languages[language])
    if task in speech.tasks:
        tokens.append(speech.tasks[task])
    if without_timestamps and speech.no_timestamps is not None:
        tokens.append(speech.no_timestamps)
    return tokens


def _spaced(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of ``text`` as it stands within speech: after a space."""
    return tokenizer.encode(" " + text.strip(), special_tokens=False)


def checked_tokenizer(tokenizer: Tokenizer | None, where: object) -> Tokenizer:
    """``tokenizer``, which a speech model cannot do without.

    Raises:
        BundleError: there is none.
    """
    if tokenizer is None:
        raise BundleError(
            f"{where} has no tokenizer (the checkpoint had no tokenizer files); export it again"
            " with them beside the weights"
        )
    return tokenizer
