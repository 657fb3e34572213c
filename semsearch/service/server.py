"""How is the service run?"""

import json
import socket
import uuid
from collections.abc import Callable

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

_HEADER_BYTES = 32 * 1024  # a pasted abstract in the address, each character of it percent-encoded to nine
_SHUTDOWN_SECONDS = 10
_BACKLOG = 2_048  # uvicorn's own default


class _Protocol(H11Protocol):
    """HTTP/1.1 whose answer to what is no HTTP looks like all our refusals."""

    def send_400_response(self, msg: str) -> None:
        """Refuse and hang up; no request exists yet that a route could answer."""
        detail = {
            "loc": [],
            "type": "malformed",
            "msg": "this is no valid HTTP/1.1 request; use an ordinary HTTP client",
        }
        body = json.dumps({"error": "malformed", "detail": [detail]}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", uuid.uuid4().hex.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"connection", b"close"),
        ]
        response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class _Server(uvicorn.Server):
    """A server that tells where it listens, which with port 0 only it knows."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[str], None] | None) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        if self._on_start and self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._on_start(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")


def make_server(
    app: FastAPI,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    access_log: bool = False,
    on_start: Callable[[str], None] | None = None,
) -> uvicorn.Server:
    """Return a server that is not running yet; it will call `on_start` with its address once it listens.

    Its access log is off by default, because it would hold what people search for.
    """
    config = uvicorn.Config(
        app,
        host,
        port,
        http=_Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=access_log,
        proxy_headers=False,
        forwarded_allow_ips="",
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        h11_max_incomplete_event_size=_HEADER_BYTES,
    )
    return _Server(config, on_start)


def run(
    app: FastAPI,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    access_log: bool = False,
    on_start: Callable[[str], None] | None = None,
) -> None:
    """Answer requests until the process is told to end.

    :raises OSError: if nothing can listen on this host and port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise OSError(f"nothing can listen on {host}, port {port}: {error.strerror}; choose another --port") from error
    with listening:
        make_server(app, host, port, access_log=access_log, on_start=on_start).run(sockets=[listening])
