"""Logs: one line per request and per job, JSON for machines, colours for people. Fields are named, never formatted in.

No body, header, signature or secret is ever a field; what a sender chose is stripped of control characters.
"""

from __future__ import annotations

import logging
import sys
import time
from datetime import UTC, datetime
from functools import lru_cache, partial
from typing import Any, BinaryIO

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from gateway.settings import Settings

_encode = msgspec.json.Encoder(enc_hook=repr).encode
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
NAMES = {level: name for name, level in LEVELS.items()} | {logging.CRITICAL: "critical"}


def configure_logs(settings: Settings) -> None:
    """Send our own lines and those of the libraries to standard error, in the form the settings ask for."""
    pretty = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    level = LEVELS[settings.log_level]
    if pretty:
        structlog.configure(
            processors=_console(),
            wrapper_class=structlog.make_filtering_bound_logger(level),
            logger_factory=structlog.WriteLoggerFactory(sys.stderr),
            cache_logger_on_first_use=True,
        )
    else:
        structlog.configure(
            processors=[],
            wrapper_class=partial(JsonLogger, least=level),  # type: ignore[arg-type]
            logger_factory=lambda *_: sys.stderr.buffer,
            cache_logger_on_first_use=True,
        )
    root = logging.getLogger()
    root.handlers = [_Forward()]
    root.setLevel(max(level, logging.WARNING))


def _console() -> list[Any]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
        _printable,
        structlog.dev.ConsoleRenderer(),
    ]


class JsonLogger:
    """structlog's interface without its chain of processors: every request writes a line, and the chain is most of it."""

    def __init__(
        self, stream: BinaryIO, *, context: dict[str, Any], least: int = logging.INFO, processors: object = None
    ) -> None:
        self._stream = stream
        self._context = context
        self._least = least

    def bind(self, **fields: Any) -> JsonLogger:
        return JsonLogger(self._stream, context=self._context | fields, least=self._least)

    def debug(self, event: str, **fields: Any) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        self._write(logging.ERROR, event, {"exc_info": True, **fields})

    def log(self, level: int, event: str, **fields: Any) -> None:
        self._write(level, event, fields)

    def _write(self, level: int, event: str, fields: dict[str, Any]) -> None:
        if level < self._least:
            return
        if "exc_info" in fields:
            structlog.processors.format_exc_info(None, "", fields)
        line = {
            "time": _stamp(time.time()),
            "level": NAMES.get(level, "warning"),
            **self._context,
            **fields,
            "event": event,
        }
        self._stream.write(_encode(line) + b"\n")
        # At once: a process that is killed has said all it had to say.
        self._stream.flush()


def _stamp(now: float) -> str:
    whole = int(now)
    return f"{_write_second(whole)}.{int((now - whole) * 1000):03d}+00:00"


@lru_cache(maxsize=4)
def _write_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _printable(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {
        name: clean(value) if isinstance(value, str) and name != "exception" else value for name, value in event.items()
    }


def clean(text: str) -> str:
    """Text without control characters, so that no sender can draw on an operator's terminal."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter == "\n" else "�" for letter in text)


class _Forward(logging.Handler):
    """Hands the lines of libraries to structlog, from warnings up."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger()
        logger.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info or None)
