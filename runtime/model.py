"""The public face of the runtime: load a bundle, generate text or token ids."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from numpy.typing import ArrayLike

from .asynchronous import AsyncTextStream, run_in_thread
from .backends import Backend, load_backend
from .bundle.reader import Bundle
from .errors import InputError
from .generation import GenerationConfig, Generator
from .generation.batch import Hypothesis
from .generation.options import GenerationOptions, with_options
from .generation.prepared import PreparedCall
from .generation.result import Generation, generation_of
from .generation.workers import threads_of_worker
from .model_base import LoadedModel
from .progress import CountProgress
from .text.detokenizer import Detokenizer, TextStream
from .text.languages import LanguageTokens, resolve_languages
from .text.sources import TextSource, checked_ids, checked_sources, tokenize
from .text.tokenizer import Tokenizer, load_tokenizer

if TYPE_CHECKING:  # typing has it from Python 3.11 on
    from typing_extensions import Unpack


class Seq2SeqModel(LoadedModel[Backend]):
    """A loaded encoder-decoder, or a decoder-only model, which goes on with the texts it is given.

    Use it as a context manager, from one or several threads.

    >>> with Seq2SeqModel.load("g2p.bundle") as model:
    ...     print(model.generate(["hello"])[0].text)
    """

    def __init__(
        self, bundle: Bundle, backend: Backend, tokenizer: Tokenizer | None, num_workers: int = 1
    ) -> None:
        super().__init__(bundle, backend)
        self.tokenizer = tokenizer
        #: Of outputs: another one only where those have other tokens than sources.
        self.target_tokenizer = tokenizer
        if bundle.manifest.target_tokenizer is not None:
            self.target_tokenizer = load_tokenizer(bundle, target=True)
        target = self.target_tokenizer
        self.generator = Generator(backend, bundle.manifest, target, num_workers=num_workers)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        backend: str = "onnxruntime",
        device: str | None = None,
        strict: bool = False,
        num_threads: int | None = None,
        num_workers: int = 1,
        max_memory: int | None = None,
        encoder_backend: str | None = None,
        precision: str | None = None,
    ) -> Seq2SeqModel:
        """Open a bundle and load it into an engine.

        Args:
            path: the bundle's folder, or one that ``optimum-cli export onnx`` wrote.
            backend: ``onnxruntime``, or ``onnxruntime-tensorrt``: ONNX Runtime's TensorRT
                provider, with its engines kept beside the bundle in ``BUNDLE.ort-tensorrt``.
            device: ``cpu`` or ``cuda``; None: the engine's default, ``cpu`` for onnxruntime.
            strict: refuse a bundle of which parts would run on the CPU though the device is
                another one; else there is a warning.
            num_threads: threads within an operator; None: one for a small model, whose steps
                are too short to share, else as many as there are cores, divided by ``num_workers``.
            num_workers: threads that share out the texts of a call, over one set of weights: more
                texts a second where many are given at once (ONNX Runtime's CPU only). Functions
                among the options are called by all of them.
            max_memory: bytes that a call may take on the CPU, beside the weights; what would take
                more is an InputError. None: nine tenths of what is free then.
            encoder_backend: ``openvino``: the encoder runs there, on ``device`` (``cpu``, ``gpu``
                or ``npu``), and the rest on the CPU (docs/openvino.md).
            precision: that encoder's: ``f32``, ``bf16``, ``f16``; None: the device's own choice.

        Raises:
            BundleError: the bundle is missing, incomplete or of a newer format.
            BackendError: the engine is missing or too old for the bundle, or does not run on this
                GPU; with ``strict``, parts that would run on the CPU.
            InputError: ``num_workers`` below 1, or above where the backend has no workers.
        """
        bundle = Bundle.open(path, single_stack=("decoder",))
        bundle.require_text()
        tokenizer = load_tokenizer(bundle)
        loaded = load_backend(
            bundle,
            backend=backend,
            device=device,
            strict=strict,
            num_threads=threads_of_worker(num_threads, num_workers),
            max_memory=max_memory,
            encoder_backend=encoder_backend,
            precision=precision,
        )
        return cls(bundle, loaded, tokenizer, num_workers=num_workers)

    @property
    def generation_config(self) -> GenerationConfig:
        """The checkpoint's own generation options; keywords of a call put others in their place.

        Raises:
            InputError: the bundle's options make no sense.
        """
        return self.generator.default_config

    def generate(
        self,
        texts: str | Sequence[str],
        config: GenerationConfig | None = None,
        *,
        batch_size: int | None = None,
        skip_special_tokens: bool = True,
        progress: CountProgress | None = None,
        cancelled: Callable[[], bool] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> list[Generation]:
        """Generate a text for each of ``texts``.

        >>> model.generate(texts, num_beams=4, max_new_tokens=64)

        Args:
            texts: the sources; one string counts as a list of one.
            config: how to decode; None: the checkpoint's own options.
            options: fields of :class:`.GenerationConfig`, in place of those of ``config``.
            batch_size: sources decoded at once; None: all of them. An engine of fixed shapes takes
                no more than it was built for.
            skip_special_tokens: leave special tokens out of the texts; False: models mark up their
                outputs with them (REBEL's ``<triplet>``, T5's ``<extra_id_0>``), and an end token
                stands at the end.
            progress: called whenever texts end, by one thread at a time.
            cancelled: asked once a step; when it says True, all that is unfinished ends as it
                is (``finish_reason`` ``cancelled``). It may be called from any thread.

        Returns:
            ``num_return_sequences`` a text (fewer where a constraint allows no more): those of
            the first text, best first, then those of the second, and so on;
            ``Generation.source`` says whose each is.

        Raises:
            InputError: no tokenizer in the bundle, an empty text, a text that is too long, or
                an impossible option.
            BackendError: the engine failed, or the model was closed.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        config, languages = self._options(config, options)
        call = self.generator.prepare(config, self._text_sources(texts, languages))
        results = self.generator.run(
            call, batch_size=batch_size, progress=progress, cancelled=cancelled
        )
        return self.generations(results, call.config, skip_special_tokens)

    def generate_ids(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        config: GenerationConfig | None = None,
        *,
        batch_size: int | None = None,
        skip_special_tokens: bool = True,
        cancelled: Callable[[], bool] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> list[Generation]:
        """Generate from token ids, for callers who have their own tokenizer.

        Args:
            input_ids: [B, S] integers, padded on the right with the pad token.
            attention_mask: [B, S], nonzero where a token counts; None: all but padding (where the
                pad token is an end or bos token too, all).
            config: as in :meth:`generate`.
            options: as in :meth:`generate`.
            batch_size: as in :meth:`generate`.
            skip_special_tokens: as in :meth:`generate`.
            cancelled: as in :meth:`generate`.

        Raises:
            InputError: wrong shape, ids outside the vocabulary, a row with nothing in it, a
                source longer than the model allows, or an impossible option.
            BackendError: the engine failed, or the model was closed.
        """
        config, _ = self._options(config, options)
        sources = checked_sources(input_ids, attention_mask, self.manifest)
        call = self.generator.prepare(config, sources)
        results = self.generator.run(call, batch_size=batch_size, cancelled=cancelled)
        return self.generations(results, call.config, skip_special_tokens)

    def stream(
        self,
        text: str,
        config: GenerationConfig | None = None,
        *,
        skip_special_tokens: bool = True,
        cancelled: Callable[[], bool] | None = None,
        **options: Unpack[GenerationOptions],
    ) -> TextStream:
        """Generate one text, piece by piece.

        A piece never changes once it was given: words and characters come whole. Beam search
        knows its text only at the end and gives it as one piece.

        Args:
            text: the source.
            config: as in :meth:`generate`.
            options: as in :meth:`generate`.
            skip_special_tokens: as in :meth:`generate`.
            cancelled: as in :meth:`generate`.

        Returns:
            An iterator of pieces, with the whole :class:`Generation` as ``result`` at its end.
            Closing it stops the generation.

        Raises:
            InputError: as :meth:`generate`, or ``num_return_sequences`` above 1.
        """
        config, languages = self._options(config, options)
        if config.num_return_sequences != 1:
            raise InputError(
                f"a stream has one result: num_return_sequences={config.num_return_sequences}"
                " must be 1"
            )
        call = self.generator.prepare(config, self._text_sources([text], languages))
        return TextStream(
            self.detokenizer(skip_special_tokens=skip_special_tokens),
            self.generator.steps(call, cancelled),
            lambda found: self.generations([[found]], call.config, skip_special_tokens)[0],
        )

    async def agenerate(
        self,
        texts: str | Sequence[str],
        config: GenerationConfig | None = None,
        *,
        batch_size: int | None = None,
        skip_special_tokens: bool = True,
        **options: Unpack[GenerationOptions],
    ) -> list[Generation]:
        """:meth:`generate` in asyncio: it runs on a thread and never holds up the event loop.

        When the task is cancelled, generation stops at its next step, and the task ends after it.

        >>> results = await model.agenerate(texts, num_beams=4)
        """
        stopped = threading.Event()
        return await run_in_thread(
            lambda: self.generate(
                texts,
                config,
                batch_size=batch_size,
                skip_special_tokens=skip_special_tokens,
                cancelled=stopped.is_set,
                **options,
            ),
            stopped.set,
        )

    def astream(
        self,
        text: str,
        config: GenerationConfig | None = None,
        *,
        skip_special_tokens: bool = True,
        **options: Unpack[GenerationOptions],
    ) -> AsyncTextStream:
        """:meth:`stream` in asyncio: each piece is made on a thread while it is awaited.

        >>> async for piece in model.astream("a text"):
        ...     print(piece, end="", flush=True)

        Errors come with the first piece. A task that is cancelled while it waits stops the
        generation at its next step; whoever leaves the loop early may ``await stream.aclose()``.
        """
        return AsyncTextStream(
            lambda cancelled: self.stream(
                text,
                config,
                skip_special_tokens=skip_special_tokens,
                cancelled=cancelled,
                **options,
            )
        )

    def batch_decode(
        self, sequences: ArrayLike | Sequence[ArrayLike], *, skip_special_tokens: bool = True
    ) -> list[str]:
        """The text of each of ``sequences``: an array [B, T], or rows of any lengths.

        Args:
            sequences: token ids of outputs, as in :attr:`Generation.token_ids`.
            skip_special_tokens: as in :meth:`generate`.

        Raises:
            InputError: no tokenizer in the bundle, or what are no token ids of the model.
        """
        tokenizer = self._output_tokenizer()
        size, rows = self.manifest.dimensions.vocab_size, cast("Sequence[ArrayLike]", sequences)
        return [
            tokenizer.decode(checked_ids(row, size), skip_special_tokens=skip_special_tokens)
            for row in rows
        ]

    def decode(self, token_ids: ArrayLike, *, skip_special_tokens: bool = True) -> str:
        """The text of one sequence; as :meth:`batch_decode`."""
        return self.batch_decode([token_ids], skip_special_tokens=skip_special_tokens)[0]

    def tokenize(
        self,
        texts: Sequence[str],
        config: GenerationConfig | None = None,
        **options: Unpack[GenerationOptions],
    ) -> list[list[int]]:
        """Token ids of each text, checked as :meth:`generate` checks them.

        Args:
            texts: the sources.
            config: as in :meth:`generate`; their languages put tokens into the sources.
            options: as in :meth:`generate`; their languages put tokens into the sources.

        Raises:
            InputError: as in :meth:`generate`; the text is named by its place in ``texts``.
        """
        _, languages = self._options(config, options)
        return [source.tokens() for source in self._text_sources(texts, languages)]

    def prepared(
        self,
        source: str | Sequence[int],
        config: GenerationConfig | None = None,
        **options: Unpack[GenerationOptions],
    ) -> PreparedCall:
        """A call for one text, or its token ids; checked as by :meth:`generate`, and not run."""
        config, languages = self._options(config, options)
        if isinstance(source, str):
            sources = self._text_sources([source], languages)
        else:
            sources = checked_sources([source], [[1] * len(source)], self.manifest)
        return self.generator.prepare(config, sources)

    def detokenizer(self, *, skip_special_tokens: bool = True) -> Detokenizer:
        """What gives the pieces of :meth:`stream`; InputError without a tokenizer."""
        return Detokenizer(self._output_tokenizer(), skip_special_tokens=skip_special_tokens)

    def generations(
        self, results: list[list[Hypothesis]], config: GenerationConfig, skip_special_tokens: bool
    ) -> list[Generation]:
        """Each source's sequences, as the generator gives them, with their texts."""
        return [
            generation_of(
                found,
                config,
                self.target_tokenizer,
                skip_special_tokens=skip_special_tokens,
                source=source,
            )
            for source, sequences in enumerate(results)
            for found in sequences
        ]

    def _text_sources(self, texts: Sequence[str], languages: LanguageTokens) -> list[TextSource]:
        if self.tokenizer is None:
            raise self._no_tokenizer()
        rows = tokenize(texts, self.tokenizer, self.manifest, languages, self._length_warning)
        return [TextSource.of(tokens) for tokens in rows]

    def _output_tokenizer(self) -> Tokenizer:
        if self.target_tokenizer is None:
            raise self._no_tokenizer()
        return self.target_tokenizer

    def _no_tokenizer(self) -> InputError:
        return InputError(
            f"{self._bundle.directory} has no tokenizer (the checkpoint had no tokenizer files);"
            " export it again with them beside the weights, or use generate_ids"
        )

    def _options(
        self, config: GenerationConfig | None, options: GenerationOptions
    ) -> tuple[GenerationConfig, LanguageTokens]:
        """What a call asks for, not checked yet but for its languages, which are tokens now."""
        own = self.generation_config if config is None else config
        given, recent = cast("dict[str, Any]", options), self.generator.recent_options
        found = recent.find(own, given) or recent.keep(own, given, with_options(own, given))
        return resolve_languages(found, self.manifest, self.tokenizer, self.target_tokenizer)
