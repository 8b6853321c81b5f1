"""Structured logs: a line of JSON for each record, on standard error."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

#: Attributes that every record has; others were given as ``extra``.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class JsonFormatter(logging.Formatter):
    """Time (UTC), level, logger, message, and what else a record has."""

    def format(self, record: logging.LogRecord) -> str:
        milliseconds = int(record.created * 1000) % 1000
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{milliseconds:03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((name, value) for name, value in vars(record).items() if name not in _USUAL)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # Escaped, so that nothing a client wrote reaches a terminal as it is.
        return json.dumps(line, default=str)


def log_as_json(level: str) -> None:
    """Let the loggers of seq2edge and of what it stands on write JSON; warnings are logged too.

    Args:
        level: debug, info, warning or error.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("seq2edge").setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.captureWarnings(True)
