"""Structured logs: one JSON object a line on standard error, the client libraries' rate-limited."""

import json
import logging
import sys
import time
from typing import Any

import orjson

from agents.runtime.settings import LogSettings

CLIENTS = ("aiokafka", "faust", "mode", "kafka", "aiohttp", "asyncio", "opentelemetry")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Json(logging.Formatter):
    """A log record as JSON; what was passed as `extra` (stage, topic, partition, offset, code) becomes fields."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self._stage = stage

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "stage": self._stage,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(fields, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # half a surrogate pair, a number of more than 64 bits, a key of bytes: said in other words
            return json.dumps(
                {name: value if isinstance(value, str) else repr(value) for name, value in fields.items()}
            )


FRAMEWORK = ("faust", "mode")
"""Who says with which exception the process ends: once, and often in the midst of a storm."""


class Limited(logging.Filter):
    """So many lines a second from the client libraries; how many were left out is said when one passes again."""

    def __init__(self, lines_per_s: float) -> None:
        super().__init__()
        self._rate = lines_per_s
        self._room = 10.0
        self._at = time.monotonic()
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line goes out."""
        if not record.name.startswith(CLIENTS):
            return True
        if record.exc_info and record.name.startswith(FRAMEWORK):
            return True
        now = time.monotonic()
        self._room = min(10.0, self._room + (now - self._at) * self._rate)
        self._at = now
        if self._room < 1:
            self._left_out += 1
            return False
        self._room -= 1
        if self._left_out:
            record.msg = f"{record.getMessage()} (and {self._left_out} lines of the clients left out)"
            record.args = ()
            self._left_out = 0
        return True


def configure(stage: str, settings: LogSettings) -> None:
    """Send this process's logs to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Json(stage))
    handler.addFilter(Limited(settings.client_lines_per_s))
    level = settings.level.upper()
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in CLIENTS:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
