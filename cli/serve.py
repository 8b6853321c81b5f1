"""Answer requests over HTTP with one or several bundles.

Text: /v1/generate, LibreTranslate's /translate. Speech: OpenAI's /v1/audio/transcriptions, and the
Wyoming protocol of Home Assistant. /health, /ready and /metrics for who looks after it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import (
    add_device,
    add_max_memory,
    add_threads,
    device_options,
    memory_size,
    positive,
    positive_number,
)

if TYPE_CHECKING:
    from seq2edge.deploy.serve.settings import Limits, Pair, Settings

#: Flag, type, metavar, and what it says with its default; the limit has the flag's name.
_LIMITS: tuple[tuple[str, Any, str, str], ...] = (
    ("--max-batch", positive, "N", "texts of a bundle that are decoded at once (8)"),
    ("--max-recordings", positive, "N", "recordings that are transcribed in turns (4)"),
    ("--max-queue", positive, "N", "texts of a bundle that may wait; then it says 429 (64)"),
    ("--max-texts", positive, "N", "texts of a request (32)"),
    ("--max-characters", positive, "N", "of a text (20000)"),
    ("--max-source-tokens", positive, "N", "of a text (4096)"),
    ("--max-new-tokens", positive, "N", "of a result (1024)"),
    ("--max-beams", positive, "N", "beams and results of a text (8)"),
    ("--max-body", memory_size, "SIZE", "of a request without a recording (1M)"),
    ("--max-audio-body", memory_size, "SIZE", "of a request with a recording (64M)"),
    ("--max-audio-seconds", positive_number, "S", "of a recording (3600)"),
    ("--timeout", positive_number, "S", "of a request, waiting included (300)"),
    ("--max-connections", positive, "N", "at once (512)"),
    ("--drain-timeout", positive_number, "S", "for what was accepted, on SIGTERM (30)"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bundles",
        nargs="+",
        metavar="BUNDLE",
        help="a bundle's folder, or NAME=FOLDER (default: the folder's name, without .bundle)",
    )
    address = parser.add_argument_group("address")
    address.add_argument(
        "--host", default="127.0.0.1", help="default: 127.0.0.1, for this machine alone"
    )
    address.add_argument("--port", type=int, default=8080, metavar="N", help="default: 8080")
    address.add_argument(
        "--unix-socket", metavar="PATH", help="listen at a Unix socket in place of host and port"
    )
    address.add_argument(
        "--wyoming",
        metavar="HOST:PORT",
        help="speak the Wyoming protocol there, with the speech bundles",
    )
    keys = parser.add_argument_group("who may ask")
    keys.add_argument(
        "--api-keys",
        type=Path,
        metavar="FILE",
        help="clients need one of these keys, one a line; also in SEQ2EDGE_API_KEYS",
    )
    keys.add_argument(
        "--without-keys",
        action="store_true",
        help="let everyone ask who reaches an address that is not of this machine alone",
    )
    limits = parser.add_argument_group("limits (defaults in brackets)")
    for flag, kind, metavar, text in _LIMITS:
        limits.add_argument(flag, type=kind, metavar=metavar, help=text)
    add_max_memory(parser)
    parser.add_argument(
        "--translates",
        action="append",
        default=[],
        metavar="NAME=SOURCE[:TARGET]",
        help="the languages of a bundle that does not name them, for /translate, such as"
        " opus=en:de (may be repeated)",
    )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="of the lines of JSON on standard error (default: info)",
    )
    add_device(parser)
    add_threads(parser)


def run(options: argparse.Namespace) -> int:
    from seq2edge.runtime.dependencies import needs

    bundles = _bundles(options.bundles)
    with needs("serve", "serve"):
        from seq2edge.deploy.serve.logs import log_as_json
        from seq2edge.deploy.serve.run import run_service

        if options.wyoming is not None:
            import wyoming  # noqa: F401
    settings = _settings(options)
    log_as_json(options.log_level)
    run_service(
        settings,
        bundles,
        **device_options(options),
        num_threads=options.threads,
        max_memory=options.max_memory,
    )
    return 0


def _bundles(words: list[str]) -> dict[str, Path]:
    from seq2edge.runtime import InputError

    found: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or "/" in name:
            path = word
            folder = Path(word) if Path(word).name not in ("", "..") else Path(word).resolve()
            name = folder.name.removesuffix(".bundle")
        _check_name(name)
        if name in found:
            raise InputError(f"two bundles are named {name!r}: give NAME={path}")
        found[name] = Path(path)
    return found


def _check_name(name: str) -> None:
    import re

    from seq2edge.runtime import InputError

    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(
            f"{name!r} is no name of a bundle: use letters, digits, '.', '_' and '-', as in"
            " NAME=FOLDER"
        )


def _settings(options: argparse.Namespace) -> Settings:
    from seq2edge.deploy.serve.gate import is_loopback
    from seq2edge.deploy.serve.keys import read_keys
    from seq2edge.deploy.serve.settings import Settings
    from seq2edge.runtime import InputError

    keys = read_keys(options.api_keys)
    wyoming = None if options.wyoming is None else _address(options.wyoming)
    hosts = [] if options.unix_socket is not None else [options.host]
    open_hosts = [host for host in hosts if not keys and not is_loopback(host)]
    if wyoming is not None and not is_loopback(wyoming[0]):
        open_hosts.append(f"{wyoming[0]} (Wyoming, which has no keys)")
    if open_hosts and not options.without_keys:
        raise InputError(
            f"everyone who reaches {' and '.join(open_hosts)} could use the models: give"
            " --api-keys FILE for HTTP, or --without-keys if that is meant"
        )
    return Settings(
        host=options.host,
        port=options.port,
        unix_socket=options.unix_socket,
        wyoming=wyoming,
        keys=keys,
        without_keys=options.without_keys,
        limits=_limits(options),
        pairs=_pairs(options.translates),
    )


def _limits(options: argparse.Namespace) -> Limits:
    from seq2edge.deploy.serve.settings import Limits

    given = {
        name: getattr(options, name)
        for flag, *_ in _LIMITS
        if getattr(options, name := flag[2:].replace("-", "_")) is not None
    }
    return Limits(**given)


def _pairs(words: list[str]) -> dict[str, Pair]:
    from seq2edge.deploy.serve.settings import Pair
    from seq2edge.runtime import InputError

    found = {}
    for word in words:
        name, equals, languages = word.partition("=")
        source, colon, target = languages.partition(":")
        if not (equals and name and source) or (colon and not target):
            raise InputError(f"--translates takes NAME=SOURCE or NAME=SOURCE:TARGET, not {word!r}")
        found[name] = Pair(source, target or None)
    return found


def _address(text: str) -> tuple[str, int]:
    from seq2edge.runtime import InputError

    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise InputError(f"--wyoming takes HOST:PORT, not {text!r}")
    return host.strip("[]"), int(port)
