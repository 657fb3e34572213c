"""What may no request do, whatever it asks for?

The outermost layer of ours. It bounds how many requests are at work and how large and how slow a body may be, refuses
bodies whose length or encoding is a matter of opinion, names each request, and answers for our own bugs.
"""

import asyncio
import logging
import uuid
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from semsearch.service.admin import Admin, check_admin, is_for_admin
from semsearch.service.refusals import CLOSE, Refusal, plain_refusal, refuse

logger = logging.getLogger(__name__)

_ALWAYS_ADMITTED = ("/healthz", "/readyz")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one service takes: bytes and seconds of one body, requests at work at once."""

    body_bytes: int = 64 * 1024
    admin_body_bytes: int = 8 * 1024 * 1024
    body_seconds: float = 10.0
    requests_at_once: int = 64


class _ClientGone(Exception):
    """Nobody is left to answer."""


class Gate:
    """ASGI middleware around all routes."""

    def __init__(self, app: ASGIApp, limits: Limits, admin: Admin | None) -> None:
        """Stand before `app`."""
        self._app = app
        self._limits = limits
        self._admin = admin
        self._at_work = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        outgoing = _Outgoing(send, uuid.uuid4().hex)
        scope.setdefault("state", {})["request_id"] = outgoing.request_id
        request = Request(scope)
        try:
            check_admin(request, self._admin)
            body = await self._body(request, receive)
            with self._room(scope["path"]):
                await self._app(scope, _Incoming(body, receive), outgoing)
        except _ClientGone:
            return
        except Refusal as refusal:
            await refuse(request, refusal)(scope, receive, outgoing)
        except Exception:
            logger.exception("request %s ran into a bug", outgoing.request_id)
            if not outgoing.started:
                await refuse(request, plain_refusal(500))(scope, receive, outgoing)

    @contextmanager
    def _room(self, path: str) -> Iterator[None]:
        """Count a request whose body has arrived: slow senders must not keep the others out."""
        if self._at_work >= self._limits.requests_at_once and path not in _ALWAYS_ADMITTED:
            msg = "too many requests at once; ask again in a second"
            raise Refusal(503, msg, code="busy", headers={"Retry-After": "1"})
        self._at_work += 1
        try:
            yield
        finally:
            self._at_work -= 1

    async def _body(self, request: Request, receive: Receive) -> bytes:
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
                return await _read(receive, most)
        except TimeoutError:
            raise Refusal(408, "the body did not arrive in time; send it at once", headers=CLOSE) from None


async def _read(receive: Receive, most: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _ClientGone
        body += message.get("body", b"")
        if len(body) > most:
            raise _too_large(most)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the body may have {most:,} bytes; send less", loc=["body"], headers=CLOSE)


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
    """Adds the headers that every answer has."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.started = False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            message["headers"] = [
                *message.get("headers", []),
                (b"x-request-id", self.request_id.encode()),
                (b"x-content-type-options", b"nosniff"),
            ]
        await self._send(message)
