"""What fields does each line of a JSON Lines file hold?"""

import json
from collections.abc import Iterator
from typing import Any

from semsearch.readers.records import Reader, Record, Unusable
from semsearch.readers.streams import MAX_RECORD_REASON, Stream

ABSTRACTS = frozenset({"abstract", "summary"})
WRAPPERS = {
    **dict.fromkeys(("papers", "data", "results", "records"), ABSTRACTS),
    **dict.fromkeys(("items", "notes", "articles", "works", "hits", "result"), ABSTRACTS | {"title"}),
}
"""Under these names an object may hold the list of papers, instead of being one; and what tells that it is one."""

ENVELOPES = frozenset({"message", "resultList"})
"""Under these names a service's answer holds an object that holds the list: Crossref and Europe PMC do so."""

KINDS: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
"""What JSON calls the types of Python."""


class _NotAcceptedError(ValueError):
    """JSON that Python would take and we do not."""


def parsed(data: bytes) -> dict[str, Any] | str:
    """Return the object that one JSON text holds, or the reason why it holds none."""
    try:
        value = _DECODER.decode(data.decode())
    except UnicodeDecodeError as error:
        return f"the record is not valid UTF-8 at its byte {error.start + 1}"
    except json.JSONDecodeError as error:
        return f"the record is not valid JSON: {error.msg} at its character {error.pos + 1}"
    except _NotAcceptedError as error:
        return str(error)
    except ValueError:
        return "the record holds a number of more digits than can be read"
    except RecursionError:
        return "the record is nested too deeply"
    if isinstance(value, dict):
        return value
    return f"the record is {KINDS[type(value)]}, not an object"


def records(stream: Stream) -> Iterator[Record | Unusable]:
    """Return each line's object; blank lines are passed over."""
    for number, data in stream.lines():
        if data is None:
            yield Unusable(number, MAX_RECORD_REASON)
        elif data and not data.isspace():
            yield record_at(number, data)


def record_at(line: int, data: bytes) -> Record | Unusable:
    """Return the record that one JSON text makes."""
    fields = parsed(data)
    return Unusable(line, fields) if isinstance(fields, str) else Record(line, fields)


def looks_like(head: bytes) -> bool:
    """Whether at least half of the lines are objects, each on its own.

    One bad line does not mislead it, nor does a list laid out with a record per line: there, commas end the lines.
    """
    lines = [line for line in head.split(b"\n") if line.strip()]
    objects = sum(line.startswith(b"{") and _is_record(line) for line in lines)
    return 0 < len(lines) <= 2 * objects


def _is_record(line: bytes) -> bool:
    fields = parsed(line)
    return isinstance(fields, dict) and not (wraps(fields) or any(wraps(fields.get(name)) for name in ENVELOPES))


def wraps(value: object) -> bool:
    """Whether an object holds a list of papers instead of being one."""
    if not isinstance(value, dict):
        return False
    lists = [value[name] for name, of_a_paper in WRAPPERS.items() if name in value and of_a_paper.isdisjoint(value)]
    return any(isinstance(items, list) and items and isinstance(items[0], dict) for items in lists)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        twice = next(name for name, _ in pairs if fields.pop(name, pairs) is pairs)  # popped before: met before
        raise _NotAcceptedError(f"the record has the field {twice[:40]!r} twice")
    return fields


def _no_constant(name: str) -> float:
    raise _NotAcceptedError(f"the record holds {name}, which is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise _NotAcceptedError("the record holds a number too large to be kept")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite)

READER = Reader("jsonl", (".jsonl", ".ndjson"), looks_like, records)
