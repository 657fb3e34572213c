"""What may no request do, whatever it asks for?

The outermost layer of ours. It turns away who must not ask at all, bounds how large and how slow a body may be, how
many requests are at work and for how long, refuses bodies whose length or encoding is a matter of opinion, names,
counts and logs each request, and answers for our own bugs.
"""

import asyncio
import logging
import math
import time
import uuid
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semsearch.service.admin import Admin, check_admin, is_for_admin
from semsearch.service.clients import client_of
from semsearch.service.hosts import Hosts
from semsearch.service.limits import Limits
from semsearch.service.logs import log_request, logs_requests
from semsearch.service.metrics import Metrics
from semsearch.service.rate import RateLimit
from semsearch.service.refusals import CLOSE, Refusal, plain_refusal, refuse
from semsearch.service.work import Work
from semsearch.stages import listened_by

logger = logging.getLogger(__name__)

_ALWAYS_ADMITTED = ("/healthz", "/readyz", "/metrics")
_DISCARD_SECONDS = 0.5
_DISCARD_BYTES = 4 * 1024 * 1024
_COSTS_NOTHING = (*_ALWAYS_ADMITTED, "/static/style.css")


class _ClientGone(Exception):
    """Nobody is left to answer."""


class Gate:
    """ASGI middleware around all routes."""

    def __init__(
        self, app: ASGIApp, limits: Limits, hosts: Hosts, admin: Admin | None, metrics: Metrics, log_private: bool
    ) -> None:
        """Stand before `app`."""
        self._app = app
        self._limits = limits
        self._hosts = hosts
        self._admin = admin
        self._metrics = metrics
        self._log_private = log_private
        self._rate = RateLimit(limits.requests_per_minute) if limits.requests_per_minute else None
        self._at_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        outgoing = _Outgoing(send, uuid.uuid4().hex)
        scope.setdefault("state", {})["request_id"] = outgoing.request_id
        method = scope["method"]
        if method == "HEAD":  # what GET gives, of which the server then leaves out the body (RFC 9110, 9.3.2)
            scope = {**scope, "method": "GET"}
        request = Request(scope)
        with self._counted(request, method, outgoing):
            try:
                body = await self._admitted(request, _Arriving(receive))
                work = Work(self._metrics.count, self._metrics.observe, self._limits.answer_seconds)
                with self._room(scope["path"], outgoing), listened_by(work):
                    await self._app(scope, _Incoming(body, receive), outgoing)
            except _ClientGone:
                return
            except Refusal as refusal:
                await refuse(request, refusal)(scope, receive, outgoing)
            except Exception:
                logger.exception("request %s ran into a bug", outgoing.request_id)
                if not outgoing.status:
                    await refuse(request, plain_refusal(500))(scope, receive, outgoing)

    @contextmanager
    def _counted(self, request: Request, method: str, outgoing: "_Outgoing") -> Iterator[None]:
        """Count and log the request when it is over."""
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - started
            route = getattr(request.scope.get("route"), "path", "none")
            self._metrics.requests.labels(route, outgoing.status or 0).observe(seconds)
            if logs_requests():
                self._log(request, method, outgoing, route, seconds)

    def _log(self, request: Request, method: str, outgoing: "_Outgoing", route: str, seconds: float) -> None:
        generation = getattr(request.state, "generation", None)
        private: dict[str, str] = {}
        if self._log_private:
            target = request.scope.get("raw_path", b"") + b"?" + request.scope["query_string"]
            private = {"client": request.client.host if request.client else "", "target": target.decode("latin-1")}
        log_request(
            outgoing.request_id,
            outgoing.status,
            route,
            method,
            ms=round(1_000 * seconds, 1),
            generation=generation,
            **private,
        )

    async def _admitted(self, request: Request, arriving: "_Arriving") -> bytes:
        """Return the body of a request that may be looked at.

        :raises Refusal: once the rest of the body has come, or too much of it: who is cut off in sending reads nothing.
        """
        try:
            self._check(request)
            return await self._body(request, arriving)
        except Refusal as refusal:
            if refusal.status_code not in (401, 408) and "expect" not in request.headers:
                await arriving.discard()
            raise

    def _check(self, request: Request) -> None:
        """Do nothing for a request whose head may pass.

        :raises Refusal: and closes the connection, because nobody will read what follows in it.
        """
        try:
            self._check_size(request)
            self._hosts.check(request)
            self._check_rate(request)
            check_admin(request, self._admin)
        except Refusal as refusal:
            refusal.headers = {**(refusal.headers or {}), **CLOSE}
            raise

    def _check_size(self, request: Request) -> None:
        scope, limits = request.scope, self._limits
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > limits.address_bytes:
            msg = f"the address may have {limits.address_bytes:,} bytes; send a long text as the JSON body of a POST"
            raise Refusal(414, msg)
        fields = scope["headers"]
        if len(fields) > limits.header_fields or sum(map(len, (part for pair in fields for part in pair))) > (
            limits.header_bytes
        ):
            msg = f"there may be {limits.header_fields} header fields with {limits.header_bytes:,} bytes; send less"
            raise Refusal(431, msg, loc=["header"])

    def _check_rate(self, request: Request) -> None:
        if self._rate is None or request.scope["path"] in _COSTS_NOTHING:
            return
        wait = self._rate.wait(client_of(request.client.host if request.client else ""))
        if wait:
            msg = f"one client may ask {self._limits.requests_per_minute:,} times a minute; ask again later"
            raise Refusal(429, msg, headers={"Retry-After": str(math.ceil(wait))})

    @contextmanager
    def _room(self, path: str, outgoing: "_Outgoing") -> Iterator[None]:
        """Count a request from when its body has arrived until its answer begins: slow clients keep nobody out.

        What is always admitted is not counted: who watches the service must not take a question's place.
        """
        if path in _ALWAYS_ADMITTED:
            yield
            return
        if self._at_work >= self._limits.requests_at_once:
            msg = "too many requests at once; ask again in a second"
            raise Refusal(503, msg, code="busy", headers={"Retry-After": "1"})
        self._count(1)
        outgoing.on_start = lambda: self._count(-1)
        try:
            yield
        finally:
            outgoing.started()

    def _count(self, change: int) -> None:
        self._at_work += change
        self._metrics.at_work.set(self._at_work)

    async def _body(self, request: Request, arriving: "_Arriving") -> bytes:
        """Return the whole body; it is read here so that no route can forget a limit.

        :raises Refusal: and closes the connection, because what follows in it is not to be trusted.
        """
        headers = request.headers
        if "content-length" in headers and "transfer-encoding" in headers:
            raise Refusal(400, "send either Content-Length or Transfer-Encoding, not both", headers=CLOSE)
        if "content-encoding" in headers:
            raise Refusal(415, "send the body without Content-Encoding", loc=["header"], headers=CLOSE)
        most = self._limits.admin_body_bytes if is_for_admin(request) else self._limits.body_bytes
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > most:
            raise _too_large(most)
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                return await _read(arriving, most)
        except TimeoutError:
            raise Refusal(408, "the body did not arrive in time; send it at once", headers=CLOSE) from None


async def _read(arriving: "_Arriving", most: int) -> bytes:
    body = bytearray()
    while not arriving.is_complete:
        body += await arriving.piece()
        if len(body) > most:
            raise _too_large(most)
    return bytes(body)


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the body may have {most:,} bytes; send less", loc=["body"], headers=CLOSE)


class _Arriving:
    """A body, piece by piece."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.is_complete = False

    async def piece(self) -> bytes:
        """Return what comes next."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise _ClientGone
        self.is_complete = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece

    async def discard(self) -> None:
        """Take in what still comes of a body, though not for long and not too much."""
        size = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_SECONDS):
                while not self.is_complete and size < _DISCARD_BYTES:
                    size += len(await self.piece())


class _Incoming:
    """Gives the body that was already read, then whatever the connection says."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _Outgoing:
    """Adds the headers that every answer has, and knows what became of it."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.status: int | None = None
        self.on_start: Callable[[], None] | None = None

    def started(self) -> None:
        """Call `on_start`, once."""
        on_start, self.on_start = self.on_start, None
        if on_start:
            on_start()

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.started()
            message["headers"] = [
                *message.get("headers", []),
                (b"x-request-id", self.request_id.encode()),
                (b"x-content-type-options", b"nosniff"),
                (b"cross-origin-resource-policy", b"same-origin"),
            ]
        await self._send(message)
