"""The log format of all processes: one JSON object a line, with the process's name."""

import json
import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from infra.secrecy import Redactor

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


LONGEST_TEXT = 4_000
"""The limit for a message or a field, in characters. An error may quote input of a client or an engine."""
LONGEST_EXCEPTION = 20_000
"""The limit for a traceback, in characters. Its end, which has the error, is kept."""
LONGEST_SECRET = 2_000
"""How far beyond its cut a text is searched for secrets. The cut could otherwise split one and hide it."""


class JsonFormatter(logging.Formatter):
    """Formats records as JSON: `extra` becomes fields, secrets are redacted, long texts are cut."""

    def __init__(self, process: str, redact: Redactor) -> None:
        super().__init__()
        self._process = process
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "process": self._process,
            "logger": record.name,
            "message": self._shortened(record.getMessage()),
        }
        extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        line.update((key, self._shortened(value) if isinstance(value, str) else value) for key, value in extra.items())
        if record.exc_info:
            line["exception"] = self._end_of(self.formatException(record.exc_info))
        return self._redact(json.dumps(line, default=str, ensure_ascii=False))

    def _shortened(self, text: str) -> str:
        if len(text) <= LONGEST_TEXT:
            return text
        return f"{self._redact(text[: LONGEST_TEXT + LONGEST_SECRET])[:LONGEST_TEXT]}…"

    def _end_of(self, exception: str) -> str:
        if len(exception) <= LONGEST_EXCEPTION:
            return exception
        return f"…{self._redact(exception[-LONGEST_EXCEPTION - LONGEST_SECRET :])[-LONGEST_EXCEPTION:]}"


def configure_logging(process: str, level: str, secrets: Sequence[str] = ()) -> None:
    """Log to standard error, with `secrets` redacted."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(process, Redactor(secrets)))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Libraries that log request URLs stay at WARNING, because presigned queries are secrets.
    for chatty in ("httpx", "httpcore", "botocore", "boto3", "s3transfer", "urllib3", "websockets", "uvicorn.access"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
