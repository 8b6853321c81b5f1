"""The Wyoming protocol, by which Home Assistant asks for speech to text.

Source: github.com/OHF-Voice/wyoming. A client describes, or sends ``transcribe``, ``audio-start``,
``audio-chunk`` (PCM) and ``audio-stop`` and gets a ``transcript``. The protocol has no keys.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import wave
from typing import IO, Any

from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import AsrModel, AsrProgram, Attribution, Describe, Info
from wyoming.server import AsyncEventHandler, AsyncTcpServer

from seq2edge.runtime import SpeechModel
from seq2edge.runtime.bundle.version import package_version
from seq2edge.runtime.errors import BackendError
from seq2edge.runtime.speech.options import options_of

from .errors import ApiError, as_api_error, sentence
from .jobs import SpeechJob
from .routes.audio import check_length
from .service import Service

_log = logging.getLogger(__name__)

#: Bytes of an event's data or payload; Home Assistant's chunks have 2 kB.
_LONGEST_PART = 1 << 20
#: A recording is kept in memory up to here, and on disk beyond.
_IN_MEMORY = 1 << 20
#: Connections at once, of which each costs two file descriptors.
_MOST_CONNECTIONS = 32
#: Seconds after which it is looked whether a client still waits.
_LOOK = 0.5
_PROGRAM = "seq2edge"


class WyomingServer:
    """Answers at an address of its own, with the speech bundles of a service.

    Args:
        service: its models, limits and metrics are used.
    """

    def __init__(self, service: Service, host: str, port: int) -> None:
        self._service = service
        self._server = AsyncTcpServer(host, port)
        self._handlers: set[_Handler] = set()
        if not any(isinstance(s.model, SpeechModel) for s in service.models.values()):
            raise BackendError("no speech bundle is served, and Wyoming has nothing else to ask")

    async def start(self) -> None:
        """Listen.

        Raises:
            BackendError: the address cannot be used.
        """
        try:
            await self._server.start(self._new_handler)
        except OSError as error:
            where = f"{self._server.host}:{self._server.port}"
            raise BackendError(
                f"cannot listen at {where} for Wyoming: {error.strerror or error}"
            ) from None
        _log.info("ready for Wyoming", extra={"port": self.port})

    @property
    def port(self) -> int:
        """Where it listens."""
        server: Any = self._server._server
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Close all connections."""
        await self._server.stop()

    def _new_handler(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> AsyncEventHandler:
        return _Handler(self._service, self._handlers, reader, writer)


class _BoundedReader:
    """What the package reads events from; it takes any length for granted."""

    def __init__(self, reader: asyncio.StreamReader, seconds: float) -> None:
        self._reader, self._seconds = reader, seconds

    async def readline(self) -> bytes:
        """A line, which asyncio bounds (64 KiB)."""
        return await asyncio.wait_for(self._reader.readline(), self._seconds)

    async def readexactly(self, count: int) -> bytes:
        if count > _LONGEST_PART:
            raise ValueError(f"a part has at most {_LONGEST_PART} bytes")
        return await asyncio.wait_for(self._reader.readexactly(count), self._seconds)

    def at_eof(self) -> bool:
        return self._reader.at_eof()

    def feed_eof(self) -> None:
        self._reader.feed_eof()


class _Handler(AsyncEventHandler):
    """One connection: a recording at a time."""

    def __init__(
        self,
        service: Service,
        handlers: set[_Handler],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._bounded = _BoundedReader(reader, service.limits.timeout)
        stream: Any = self._bounded
        super().__init__(stream, writer)
        self._service, self._handlers = service, handlers
        self._asked = Transcribe()
        self._recording: _Recording | None = None

    async def run(self) -> None:
        """The connection, to its end. What a client does wrong ends it, and nothing else."""
        if len(self._handlers) >= _MOST_CONNECTIONS:
            self.writer.close()
            return
        self._handlers.add(self)
        try:
            await super().run()
        except (OSError, EOFError, asyncio.TimeoutError):
            pass  # the client has gone, or does nothing
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            _log.info("a Wyoming client sent no event: %s", error)
        except Exception:
            _log.exception("a Wyoming connection failed")
        finally:
            self._handlers.discard(self)

    async def disconnect(self) -> None:
        self._drop()

    async def handle_event(self, event: Event) -> bool:
        """Answer an event; False ends the connection."""
        if Describe.is_type(event.type):
            await self.write_event(describe(self._service).event())
        elif Transcribe.is_type(event.type):
            self._asked = Transcribe.from_event(event)
        elif AudioStart.is_type(event.type):
            self._drop()
            self._recording = _Recording(AudioStart.from_event(event))
        elif AudioChunk.is_type(event.type) and self._recording is not None:
            limits = self._service.limits
            self._recording.write(AudioChunk.from_event(event))
            if self._recording.seconds > limits.max_audio_seconds:
                return await self._refuse(
                    ApiError(413, f"a recording has at most {limits.max_audio_seconds:g} s")
                )
        elif AudioStop.is_type(event.type) and self._recording is not None:
            return await self._answer(self._recording)
        return True

    async def _answer(self, recording: _Recording) -> bool:
        service = self._service
        service.active += 1
        try:
            if service.draining:
                raise ApiError(503, "the service is being stopped")
            served, _model = service.find(self._asked.name or _first(service), SpeechModel)
            wanted = _options(self._asked)
            check_length(wanted.get("hotwords", ""), "the names and terms", service.limits)
            options = options_of(wanted)
            job = SpeechJob(recording.finished(), options, timeout=service.limits.timeout)
            service.submit(served, job)
            result = asyncio.ensure_future(job.result())
            try:
                while not (await asyncio.wait({result}, timeout=_LOOK))[0]:
                    if self._bounded.at_eof():  # the client has gone
                        served.metrics.cancelled.inc()
                        return False
                found = result.result()
            finally:
                result.cancel()
                service.left(served, job)
        except Exception as error:
            if not isinstance(error, (ApiError, ValueError)):
                _log.exception("a Wyoming request failed")
            return await self._refuse(as_api_error(error))
        finally:
            service.active -= 1
            self._drop()
        await self.write_event(Transcript(found.text, language=found.language).event())
        return not service.draining

    async def _refuse(self, error: ApiError) -> bool:
        self._drop()
        await self.write_event(Error(sentence(error), code=str(error.status)).event())
        return False

    def _drop(self) -> None:
        if self._recording is not None:
            self._recording.close()
            self._recording = None


def _first(service: Service) -> str:
    """The model of a client that names none: the first that is listed."""
    speech = (name for name, s in service.models.items() if isinstance(s.model, SpeechModel))
    return next(speech)


def describe(service: Service) -> Info:
    """What is served, as Home Assistant lists it."""
    attribution = Attribution(name="seq2edge", url="")
    version = package_version().partition(" ")[0]
    models = [
        AsrModel(
            name=served.name,
            attribution=attribution,
            installed=True,
            description=f"{served.manifest.family} {served.name}",
            version=version,
            languages=list(served.model.languages),
        )
        for served in service.models.values()
        if isinstance(served.model, SpeechModel)
    ]
    program = AsrProgram(
        name=_PROGRAM,
        attribution=attribution,
        installed=True,
        description="speech recognition with seq2edge",
        version=version,
        models=models,
    )
    return Info(asr=[program])


def _options(asked: Transcribe) -> dict[str, Any]:
    """Options of a transcription; the context of a conversation is nothing to a speech model."""
    words = [*(asked.transcript_names or ()), *(asked.transcript_terms or ())]
    options: dict[str, Any] = {"hotwords": ", ".join(map(str, words))} if words else {}
    if asked.language:
        options["language"] = str(asked.language).partition("-")[0].partition("_")[0].lower()
    return options


class _Recording:
    """PCM that arrives, as a WAV file."""

    def __init__(self, start: AudioStart) -> None:
        self._format = (start.rate, start.width, start.channels)
        if not (
            all(isinstance(value, int) for value in self._format)
            and 1000 <= start.rate <= 384_000
            and start.width in (1, 2, 3, 4)
            and 1 <= start.channels <= 16
        ):
            raise ValueError(f"no audio has the format {self._format}")
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115
        self._wave = wave.open(self._file, "wb")  # type: ignore[call-overload]  # noqa: SIM115
        self._wave.setframerate(start.rate)
        self._wave.setsampwidth(start.width)
        self._wave.setnchannels(start.channels)
        self.seconds = 0.0

    def write(self, chunk: AudioChunk) -> None:
        if (chunk.rate, chunk.width, chunk.channels) != self._format:
            raise ValueError("a chunk has another format than the recording")
        self._wave.writeframesraw(chunk.audio)
        self.seconds += chunk.seconds

    def finished(self) -> IO[bytes]:
        """The file, from its beginning; it is closed with the recording."""
        self._wave.close()
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        self._wave.close()
        self._file.close()
