"""What may a query string and a JSON body hold?

FastAPI reads both leniently: the last of two equal names wins, bad UTF-8 becomes U+FFFD, UTF-16 is guessed, NaN and
lone surrogates pass and then break the answer. Routes of this class refuse all that before anything is looked up.
"""

import inspect
import json
import math
import re
from collections.abc import Callable, Coroutine, Iterator
from email.message import Message
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from fastapi.routing import APIRoute

from semsearch.filters import FILTER_NAMES
from semsearch.service.refusals import Refusal
from semsearch.service.workers import Workers

_MAX_DIGITS = 400
_MOST_AT_ONCE = 64 * 1024  # bytes that are parsed while all others wait
_QUERY_STRING = re.compile(rb"(?:[!-$&-~]|%[0-9A-Fa-f]{2})*")


class StrictRequest(Request):
    """A request whose JSON is read by the letter."""

    async def json(self) -> Any:
        """Return the parsed body.

        :raises Refusal: if it is not what RFC 8259 calls interoperable JSON.
        """
        body = await self.body()
        if len(body) > _MOST_AT_ONCE:
            return await run_in_threadpool(parse_json, body)
        return parse_json(body)


class StrictRoute(APIRoute):
    """A route that refuses ambiguous queries and anything but JSON as its body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler behind our checks."""
        handle = super().get_route_handler()
        takes_body = self.body_field is not None
        takes_long = not inspect.iscoroutinefunction(self.endpoint)

        async def strict(request: Request) -> Response:
            workers: Workers | None = request.app.state.workers
            if takes_long and workers and workers.can_answer:
                return await workers.answer(request)
            check_query_string(request.scope["query_string"])
            exact = StrictRequest(request.scope, request.receive)
            if takes_body and await exact.body():
                check_content_type(exact.headers.getlist("content-type"))
            return await handle(exact)

        return strict


async def no_parameters(request: Request) -> None:
    """Refuse any query parameter, for routes that know none; async, because that costs no thread."""
    if request.query_params:
        msg = "this address takes no query parameters; leave them out"
        raise Refusal(422, msg, loc=["query"], kind="extra_forbidden")


def check_query_string(raw: bytes) -> None:
    """Do nothing for a query string with one meaning only; filters may be given several times, and all must hold.

    :raises Refusal: 400 for bad percent-encoding, bytes that are no UTF-8 or a repeated name, 422 for NUL.
    """
    if not _QUERY_STRING.fullmatch(raw):
        raise Refusal(400, "the query string is not percent-encoded; write % as %25", loc=["query"])
    try:
        decoded = [
            tuple(unquote_to_bytes(part.replace(b"+", b" ")).decode("utf-8") for part in pair.partition(b"=")[::2])
            for pair in raw.split(b"&")
            if pair
        ]
    except UnicodeDecodeError:
        msg = "the query string is not UTF-8; encode it as UTF-8 before percent-encoding"
        raise Refusal(400, msg, loc=["query"]) from None
    names = [name for name, _ in decoded if name not in FILTER_NAMES]
    if len(set(names)) != len(names):
        raise Refusal(400, "a query parameter is given twice; give each one once", loc=["query"])
    if any("\x00" in text for pair in decoded for text in pair):
        raise _not_text("query")


def check_content_type(values: list[str]) -> None:
    """Do nothing for JSON in UTF-8.

    :raises Refusal: 415 for any other or no media type, or more than one.
    """
    message = Message()
    message["content-type"] = values[0] if len(values) == 1 else ""
    charset = message.get_content_charset("utf-8")
    if message.get_content_type() != "application/json" or charset not in ("utf-8", "utf8"):
        raise Refusal(415, "send the body as Content-Type: application/json, in UTF-8", loc=["header", "content-type"])


def parse_json(data: bytes) -> Any:
    """Return the value of a JSON text.

    :raises Refusal: 400 if it is malformed, not UTF-8, too deep, or ambiguous (equal names, endless integers);
        422 if it holds a number or a text that no field can take (NaN, infinity, lone surrogates, NUL).
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_bounded_integer,
            parse_float=_finite,
            parse_constant=_refuse_constant,
        )
    except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise _malformed() from None
    for text in _texts(value):
        if "\x00" in text or not _is_unicode(text):
            raise _not_text("body")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise Refusal(400, "a name is given twice in one JSON object; give each one once", loc=["body"])
    return value


def _bounded_integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise _malformed()
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        _refuse_constant(digits)
    return number


def _refuse_constant(name: str) -> NoReturn:
    msg = "NaN and infinite numbers have no meaning here; send finite ones"
    raise Refusal(422, msg, loc=["body"], kind="finite_number")


def _malformed() -> Refusal:
    return Refusal(400, "the body is not well-formed JSON in UTF-8; check it with a JSON validator", loc=["body"])


def _not_text(place: str) -> Refusal:
    return Refusal(422, "there is a NUL or a lone surrogate, which is no text; remove it", loc=[place], kind="not_text")


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _texts(value: Any) -> Iterator[str]:
    """Yield every text of a JSON value, names too; without recursion, since the value may be deep."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            waiting += item
