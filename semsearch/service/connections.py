"""How long may a connection keep us waiting, and how many may there be?

uvicorn waits for ever for a head that comes byte by byte, and for a client that does not read what it asked for. Here
each wait has an end. What is refused before there is a request that a route could answer is refused here, in the words
that all refusals have.
"""

import asyncio
import json
import resource
import sys
import uuid
from collections import Counter
from http import HTTPStatus
from typing import Any, Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from semsearch.service.clients import client_of, is_loopback
from semsearch.service.limits import Limits
from semsearch.service.logs import log_request
from semsearch.service.refusals import CODES

Cut = Literal["head", "reading", "crowd", "malformed"]
CUTS: tuple[Cut, ...] = ("head", "reading", "crowd", "malformed")
"""Why a connection was cut off: its head was late, its client did not read, there were too many, it spoke no HTTP."""

CLOSE_HEADER = (b"connection", b"close")
_FREE_CHUNKS = 256
_BYTES_PER_CHUNK = 16  # on average, of what comes beyond those
_LAST_MOMENT = 0.25  # for a request that was sent before its client could know of our end
OWN_FILES = 512
"""Of those that a process may have open, how many are kept for the index, for logs and sockets on their way out."""
_MESSAGES = {
    400: "this is no valid HTTP/1.1 request; use an ordinary HTTP client",
    408: "the head of the request did not arrive in time; send it at once",
    413: "the body comes in too many small chunks; send it in larger ones, or whole",
    414: "the address is too long; send a long text as the JSON body of a POST",
    429: "too many connections from one client; use fewer, and several requests on each",
    431: "the head of the request is too long; send fewer or shorter header fields",
    503: "too many connections; ask again in a second",
}


class Crowd:
    """All open connections of one server, and how many were cut off, by why."""

    def __init__(self, limits: Limits) -> None:
        """Have none."""
        self.limits = limits
        self.size = 0
        self.cuts: Counter[Cut] = Counter()
        self._by_client: Counter[str] = Counter()
        self._unread: dict[Connection, None] = {}  # in the order in which they began to wait for their clients

    def enter(self, host: str) -> int | None:
        """Count a connection; return the status to refuse it with, or None."""
        client = client_of(host)
        self.size += 1
        self._by_client[client] += 1
        if self.size > self._most():
            return 503
        too_many = self._by_client[client] > self.limits.connections_per_client
        return 429 if too_many and not is_loopback(host) else None

    def waits(self, connection: "Connection") -> None:
        """Keep one more answer that its client does not take; cut off the connection that has kept one longest."""
        self._unread[connection] = None
        if len(self._unread) > self.limits.unread_answers:
            next(iter(self._unread)).cut_off()

    def waits_no_more(self, connection: "Connection") -> None:
        """Keep none for it."""
        self._unread.pop(connection, None)

    def _most(self) -> int:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if files == resource.RLIM_INFINITY:
            return self.limits.connections
        return min(self.limits.connections, max(files - OWN_FILES, files // 2))

    def leave(self, host: str) -> None:
        """Count a connection no more."""
        self.size -= 1
        client = client_of(host)
        self._by_client[client] -= 1
        if not self._by_client[client]:
            del self._by_client[client]


class _Http(h11.Connection):
    """HTTP/1.1 without bodies that come in crumbs: each costs as much work as a large chunk."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__(h11.SERVER, most_bytes)
        self._chunks = 0
        self._bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._bytes += len(event.data)
            if self._chunks > _FREE_CHUNKS + self._bytes // _BYTES_PER_CHUNK:
                raise h11.RemoteProtocolError("the body comes in crumbs", error_status_hint=413)
        return event


class Connection(H11Protocol):
    """One connection of HTTP/1.1, each of whose waits has an end."""

    def __init__(self, *arguments: Any, crowd: Crowd, **options: Any) -> None:
        """Belong to this crowd."""
        super().__init__(*arguments, **options)
        self._crowd = crowd
        self._limits = crowd.limits
        self.conn = _Http(self._limits.address_bytes + self._limits.header_bytes)
        self._host = ""
        self._head_deadline: asyncio.TimerHandle | None = None
        self._reading_deadline: asyncio.TimerHandle | None = None

    # What the transport tells

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Begin to wait for the first request."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # so that it tells of every byte that the client does not take
        self._host = self.client[0] if self.client else ""
        self._head_deadline = self.loop.call_later(self._limits.head_seconds, self._head_is_late)
        status = self._crowd.enter(self._host)
        if status:
            self._cut("crowd", status)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        super().connection_lost(exc)
        self._crowd.leave(self._host)
        self._head_came()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Take in what came, and see what is still to come."""
        super().data_received(data)
        self._watch_head()

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        if self._reading_deadline is None:
            self._reading_deadline = self.loop.call_later(self._limits.reading_seconds, self.cut_off)
            self._crowd.waits(self)

    def resume_writing(self) -> None:
        """End that: all is on its way."""
        super().resume_writing()
        if self._reading_deadline:
            self._reading_deadline.cancel()
            self._reading_deadline = None
            self._crowd.waits_no_more(self)

    # What uvicorn tells

    def on_response_complete(self) -> None:
        """Begin to wait for the next request; a body that nobody waits for any more ends the connection."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and self.cycle.response_complete:
            self.transport.close()
        self._watch_head()

    def shutdown(self) -> None:
        """End after the answer at work, or soon: a request may be on its way that deserves an answer."""
        if self._is_at_work():
            self.cycle.default_headers = [*self.cycle.default_headers, CLOSE_HEADER]
            self.cycle.keep_alive = False
        else:
            self.loop.call_later(_LAST_MOMENT, self._end_if_idle)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, or too much of it, and hang up."""
        hint = getattr(sys.exc_info()[1], "error_status_hint", 400)  # uvicorn calls from where it caught h11's error
        if hint == 431:
            in_address = b"\n" not in self.conn.trailing_data[0]
            hint = 400 if self._is_at_work() else 414 if in_address else 431
        self._cut("malformed", hint if hint in _MESSAGES else 400)

    def _is_at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    # Deadlines

    def _watch_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._head_came()
        elif self._head_deadline is None and self.conn.trailing_data[0]:
            self._unset_keepalive_if_required()
            self._head_deadline = self.loop.call_later(self._limits.head_seconds, self._head_is_late)

    def _head_came(self) -> None:
        if self._head_deadline:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _head_is_late(self) -> None:
        if self.conn.trailing_data[0]:
            self._cut("head", 408)
        else:  # a connection kept in reserve, whose client would take an answer for one to its next request
            self._crowd.cuts["head"] += 1
            self.timeout_keep_alive_handler()

    def cut_off(self) -> None:
        """Drop what the client does not read, and hang up."""
        self._crowd.cuts["reading"] += 1
        self._crowd.waits_no_more(self)
        self.transport.abort()

    def _end_if_idle(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()

    def _cut(self, why: Cut, status: int) -> None:
        """Refuse and hang up."""
        self._crowd.cuts[why] += 1
        self._head_came()
        if not self.transport.is_closing():
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                self._say(why, status)
            self.transport.close()

    def _say(self, why: Cut, status: int) -> None:
        request_id = uuid.uuid4().hex
        log_request(request_id, status, why)
        body = json.dumps(
            {"error": CODES[status], "detail": [{"loc": [], "type": CODES[status], "msg": _MESSAGES[status]}]}
        ).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", request_id.encode()),
            (b"x-content-type-options", b"nosniff"),
            *([(b"retry-after", b"1")] if status in (429, 503) else []),
            CLOSE_HEADER,
        ]
        response = h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase.encode())
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
