"""How bundles are measured: decoding, data, samples."""

from __future__ import annotations

from dataclasses import dataclass

from seq2edge.runtime.bundle.reader import Bundle
from seq2edge.runtime.errors import InputError


@dataclass(frozen=True)
class Settings:
    """How variants are compared.

    Attributes:
        data: what the examples are called in reports, such as their file's name.
        max_new_tokens, num_beams: in place of the bundles' own; None: theirs, or the defaults of
            a transcription.
        batch_size: texts, or windows of a recording, at once where quality is measured; None: 32
            texts, or one window after the other.
        skip_special_tokens: False: texts are scored with their special tokens.
        threads: of an operator; None: the engine's own choice.
        divergence_examples: most examples that the divergence is averaged over.
        speed_texts: most texts (or recordings) that are timed.
        source_lang, target_lang: of texts, as of :class:`.GenerationConfig`.
        language, task: of recordings, as of :class:`.TranscriptionOptions`.
    """

    data: str = ""
    max_new_tokens: int | None = None
    num_beams: int | None = None
    batch_size: int | None = None
    skip_special_tokens: bool = True
    threads: int | None = None
    divergence_examples: int = 200
    speed_texts: int = 20
    source_lang: str | None = None
    target_lang: str | None = None
    language: str | None = None
    task: str | None = None

    def check(self, bundle: Bundle) -> None:
        """Refuse what means nothing to a bundle.

        Raises:
            InputError: an option for texts and a bundle that hears speech, or the reverse.
        """
        hears = bundle.manifest.speech is not None
        texts, sound = ("source_lang", "target_lang"), ("language", "task")
        wrong = [name for name in (texts if hears else sound) if getattr(self, name) is not None]
        if hears and not self.skip_special_tokens:
            wrong.append("keep_special_tokens")
        if wrong:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
            kind = "read texts" if hears else "hear speech"
            raise InputError(f"{names}: for bundles that {kind}, and {bundle.directory} does not")
