"""How is a request turned down?

Every error answer is made here: {"error": code, "detail": [{loc, type, msg}]}, or a page with the same words for
a browser. A message says what to do instead and never repeats what the client sent: it may be huge, hostile or private.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from semsearch.errors import PaperNotFoundError, SemsearchError
from semsearch.search import MAX_QUERY_CHARACTERS
from semsearch.service.html import FILTER_LABELS, render
from semsearch.service.live import Reason, State, reason_of
from semsearch.service.questions import BODY_FORMS

logger = logging.getLogger(__name__)

CODES = {
    400: "malformed",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    410: "gone",
    413: "too_large",
    414: "address_too_long",
    415: "unsupported_media_type",
    421: "misdirected",
    422: "invalid",
    429: "too_many_requests",
    431: "head_too_large",
    500: "internal",
    503: "unavailable",
    504: "took_too_long",
    507: "no_space",
}
CLOSE = {"Connection": "close"}
_MESSAGES = {
    400: "the request is malformed; send JSON as described in /openapi.json",
    404: "there is no such page or paper; paper ids look like arxiv:1706.03762 or doi:10.1000/xyz",
    405: "this address does not know this method; the Allow header lists those it knows",
    500: "a fault in semsearch; please report it together with this answer's X-Request-ID",
}
_REASONS: dict[Reason, str] = {
    "none": "the service is ready",
    "opening": "the index is being opened; ask again in a moment",
    "no_index": "there is no index yet; whoever runs the service makes one with: semsearch index FILE",
    "no_generation": "nothing is published yet; whoever runs the service does it with: semsearch index",
    "not_encoded": "papers are being encoded for another model; what is added meanwhile is found when that is done",
    "damaged": "stored data is damaged; whoever runs the service finds out more with: semsearch verify",
    "encoder": "the encoder cannot be used; whoever runs the service finds the reason in its log",
    "older_generation": "the newest state of the index is damaged, an older one is served; see: semsearch verify",
    "unread": "the service answers; so large an index is read through once more meanwhile, to see that it is undamaged",
    "workers": "some of the service's processes have ended and are started again; answers may take longer meanwhile",
    "failed": "the index cannot be used; whoever runs the service finds the reason in its log",
}
_MAX_DETAILS = 8
_LONGEST_IN_FIELD = 300  # as the fields of the page say
_AS_TYPED = (422, 429, 503, 504)  # whose query string is well formed
_FILTER_NAME = re.compile(rf"\b(?:({'|'.join(FILTER_LABELS)})=|filter by (\w+))")

Detail = dict[str, Any]


class Refusal(HTTPException):
    """A request that gets this status and this message; `code` defaults to the one that goes with the status."""

    def __init__(
        self,
        status: int,
        msg: str,
        *,
        loc: Sequence[str | int] = (),
        kind: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Fix all that the answer will say."""
        super().__init__(status, msg, dict(headers or {}))
        self.code = code or CODES[status]
        self.detail_entry: Detail = {"loc": list(loc), "type": kind or self.code, "msg": msg}


def plain_refusal(status: int, headers: Mapping[str, str] | None = None) -> Refusal:
    """Return the refusal of this status for which there is nothing particular to say."""
    return Refusal(status, _MESSAGES[status], headers=headers)


def took_too_long() -> Refusal:
    """Return the 504 for a request whose time is over."""
    return Refusal(504, "this took too long; ask again when there is less to do, or narrow it down by a filter")


def unavailable(reason: Reason) -> Refusal:
    """Return the 503 for a service that cannot answer for this reason."""
    code = "not_ready" if reason == "opening" else reason
    wait = "2" if reason == "opening" else "30"
    return Refusal(503, _REASONS[reason], code=code, headers={"Retry-After": wait})


def message_of(state: State) -> str:
    """Return how the service stands, in words."""
    return _REASONS[state.reason]


def refuse(request: Request, refusal: Refusal) -> Response:
    """Return the answer for a request that is turned down."""
    headers = refusal.headers or {}
    return _answer(request, refusal.status_code, refusal.code, [refusal.detail_entry], headers)


def add_refusals(app: FastAPI) -> None:
    """Let every error that a route may raise be answered from here."""
    app.add_exception_handler(HTTPException, _refuse_http)
    app.add_exception_handler(RequestValidationError, _refuse_invalid)
    app.add_exception_handler(PaperNotFoundError, _refuse_unknown)
    app.add_exception_handler(SemsearchError, _refuse_unable)


async def _refuse_http(request: Request, error: Exception) -> Response:
    if isinstance(error, Refusal):
        return refuse(request, error)
    assert isinstance(error, HTTPException), "registered for these only"
    if error.status_code == 405:
        return refuse(request, plain_refusal(405, {"Allow": ", ".join(_allowed_methods(request))}))
    return refuse(request, plain_refusal(error.status_code if error.status_code in _MESSAGES else 400))


async def _refuse_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), "registered for these only"
    return _answer(request, 422, CODES[422], list(_details(error.errors())), {})


async def _refuse_unknown(request: Request, error: Exception) -> Response:
    return refuse(request, plain_refusal(404))


async def _refuse_unable(request: Request, error: Exception) -> Response:
    logger.error("request %s: %s", request.state.request_id, error)
    return refuse(request, unavailable(reason_of(error)))


def _answer(request: Request, status: int, code: str, details: list[Detail], headers: Mapping[str, str]) -> Response:
    if _wants_page(request):
        messages = [_FILTER_NAME.sub(_in_words_of_the_page, detail["msg"]) for detail in details]
        return render("error.html", status, headers, messages=messages, asked=_as_typed(request, status))
    return JSONResponse({"error": code, "detail": details}, status, dict(headers))


def _in_words_of_the_page(name: re.Match[str]) -> str:
    return f"{FILTER_LABELS[name[1]]} " if name[1] else f"filter by {FILTER_LABELS.get(name[2], name[2])}"


def _as_typed(request: Request, status: int) -> dict[str, Any]:
    """Return what the form of the page held, so that nobody has to type it again; of what nobody types, nothing."""
    sent = request.scope["query_string"].decode("latin-1") if status in _AS_TYPED else ""
    values = parse_qs(sent)
    question = "".join(_typed(values.get("q", ())[:1], MAX_QUERY_CHARACTERS))
    filters = {name: _typed(values.get(name, ()), _LONGEST_IN_FIELD) for name in FILTER_LABELS}
    return {"q": question, "mode": values.get("mode", [""])[0], "collapse": "work"} | filters


def _typed(values: Sequence[str], longest: int) -> list[str]:
    return [value for value in values if value.isprintable() and len(value) <= longest]


def _wants_page(request: Request) -> bool:
    """Return whether a person is asking: at the page itself, or by a browser at an address that is nothing's."""
    if request.scope["path"] == "/":  # not request.url, which is built from whatever the Host header says
        return True
    return "route" not in request.scope and "text/html" in request.headers.get("accept", "")


def _allowed_methods(request: Request) -> list[str]:
    """Return the methods of all routes at this path; a route alone would only list its own."""
    methods: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, Route) and route.path_regex.match(request.scope["path"]):
            methods |= route.methods or set()
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)


def _details(errors: Iterable[Mapping[str, Any]]) -> Iterable[Detail]:
    """Yield the first few distinct errors without what pydantic adds to them: the input itself."""
    details: list[Detail] = []
    for error in errors:
        detail = _detail(error)
        if detail not in details:
            details.append(detail)
    return details[:_MAX_DETAILS]


def _detail(error: Mapping[str, Any]) -> Detail:
    loc, kind = [part for part in error["loc"] if part not in BODY_FORMS], str(error["type"])
    if kind == "extra_forbidden":  # the last part is the client's own word
        return {"loc": loc[:1], "type": kind, "msg": "there is a name here that is not known; /openapi.json lists all"}
    if kind == "value_error":
        return {"loc": loc, "type": kind, "msg": str(error["ctx"]["error"])}
    if kind == "list_type" and loc and loc[-1] in (*FILTER_LABELS, "ids"):
        return {"loc": loc, "type": kind, "msg": 'send a text, such as "2020", or a list of texts'}
    if kind == "string_too_short":
        return {"loc": loc, "type": kind, "msg": "this must not be empty"}
    if kind == "model_attributes_type":
        return {"loc": loc, "type": kind, "msg": "send a JSON object as described in /openapi.json"}
    return {"loc": loc, "type": kind, "msg": str(error["msg"])}
