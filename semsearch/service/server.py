"""How is the service run?"""

import asyncio
import functools
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from semsearch.service.connections import CLOSE_HEADER, OWN_FILES, Connection, Crowd
from semsearch.service.systemd import notify, watchdog_seconds

_DRAIN_SECONDS = 8  # systemd and container runtimes kill after 10 or more
_BACKLOG = 2_048  # uvicorn's own default


class _Server(uvicorn.Server):
    """A server that tells where it listens, which with port 0 only it knows, and answers all that came when it ends."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[str], None] | None) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        if not self.started:
            return
        notify("READY=1")
        if self._on_start:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._on_start(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, and end those there are after the answers that are owed."""
        notify("STOPPING=1")
        self.server_state.default_headers = [*self.server_state.default_headers, CLOSE_HEADER]
        latest = [connection for listening in sockets or [] for connection in _waiting(listening)]
        for server in self.servers:
            server.close()
        for connection in latest:
            await asyncio.get_running_loop().connect_accepted_socket(self._connection, connection)
        await super().shutdown(sockets)

    def _connection(self) -> asyncio.Protocol:
        config = self.config
        return config.http_protocol_class(  # type: ignore[call-arg]  # as uvicorn calls it
            config=config, server_state=self.server_state, app_state=self.lifespan.state
        )


def _waiting(listening: socket.socket) -> Iterator[socket.socket]:
    """Yield the connections that were made and not yet taken in; closing would break them."""
    with suppress(BlockingIOError):
        while True:
            yield listening.accept()[0]


def make_server(
    app: FastAPI,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    on_start: Callable[[str], None] | None = None,
) -> uvicorn.Server:
    """Return a server that is not running yet; it will call `on_start` with its address once it listens."""
    crowd: Crowd = app.state.crowd
    watchdog = watchdog_seconds()
    config = uvicorn.Config(
        app,
        host,
        port,
        http=functools.partial(Connection, crowd=crowd),  # type: ignore[arg-type]  # called like the class
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # it would hold what people search for
        proxy_headers=False,
        forwarded_allow_ips="",
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=crowd.limits.idle_seconds,  # type: ignore[arg-type]  # any number of seconds will do
        timeout_graceful_shutdown=_DRAIN_SECONDS,
        callback_notify=_still_alive if watchdog else None,
        timeout_notify=watchdog / 2 if watchdog else 0,  # type: ignore[arg-type]  # the same
    )
    return _Server(config, on_start)


async def _still_alive() -> None:
    notify("WATCHDOG=1")


def run(
    app: FastAPI,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    on_start: Callable[[str], None] | None = None,
) -> None:
    """Answer requests until the process is told to end.

    :raises OSError: if nothing can listen on this host and port.
    """
    _allow_files(app.state.crowd)
    with listen(host, port) as listening:
        make_server(app, host, port, on_start=on_start).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, and whose connections send what they have at once.

    asyncio asks that only of sockets that say their protocol, which these do not. Without it the body of an answer
    waits for the client to acknowledge the head: 40 ms.

    :raises OSError: if nothing can listen on this host and port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise OSError(f"nothing can listen on {host}, port {port}: {error.strerror}; choose another --port") from error
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _allow_files(crowd: Crowd) -> None:
    """Let this process open what all connections need besides its files, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = crowd.limits.connections + OWN_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
