"""What is written down of the service's work?

One line for each event, for people or as JSON, and in JSON also one for each request. None holds what somebody asked or
from where, unless that is asked for. Control characters are always escaped, so that nothing sent can forge a line.
"""

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any, Literal

Form = Literal["text", "json"]

_requests = logging.getLogger("semsearch.requests")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def logs_requests() -> bool:
    """Return whether anybody wants to know of each request."""
    return _requests.isEnabledFor(logging.INFO)


def log_request(request_id: str, status: int | None, route: str, method: str = "", **fields: Any) -> None:
    """Write down one request; `status` is None if its client left, `route` a pattern of ours and never its path."""
    known = {"request_id": request_id, "status": status, "route": route}
    if method:
        known["method"] = method if method in _METHODS else "other"
    _requests.info("answered", extra={"fields": known | fields})


def log_to_stderr(form: Form, *, private: bool = False) -> None:
    """Set up the logging of this process: warnings as text, or also requests as JSON.

    :param private: whether an error's message may be written down, which can quote what somebody asked.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines(private) if form == "json" else _TextLines(private))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("semsearch").setLevel(logging.INFO if form == "json" else logging.WARNING)


class _Lines(logging.Formatter):
    def __init__(self, private: bool) -> None:
        super().__init__()
        self._private = private

    def _error(self, record: logging.LogRecord) -> list[str]:
        """Return where the record's error came from, step by step, and what it was."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return []
        steps = [f"{step.filename}:{step.lineno} {step.name}" for step in traceback.extract_tb(error.__traceback__)]
        kind = type(error).__qualname__
        return [*steps, f"{kind}: {error}" if self._private else kind]


class _JsonLines(_Lines):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        error = self._error(record)
        return json.dumps(line | ({"error": error} if error else {}))  # ASCII only, everything else escaped


class _TextLines(_Lines):
    def format(self, record: logging.LogRecord) -> str:
        lines = [f"{record.levelname.lower()}: {record.getMessage()}", *self._error(record)]
        return "\n  ".join("".join(map(_printable, line)) for line in lines)


def _printable(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]
