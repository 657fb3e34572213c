"""No client can keep the service waiting or keep others out, and none that was let in is dropped at the end."""

import http.client
import itertools
import json
import os
import re
import resource
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import make_paper
from test_service import eventually, fake_app, publish, running_app

from semsearch.service import Limits, connections
from semsearch.service.connections import Crowd
from semsearch.service.server import listen

SHORT = Limits(head_seconds=0.5, body_seconds=0.5, reading_seconds=0.5, idle_seconds=0.5)
ASK = b"GET /search?q=finding3 HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /search HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("connections") / "index"
    publish(path, [make_paper(number) for number in range(1, 6)])
    return path


@contextmanager
def ready(index: Path, **options: Any) -> Iterator[tuple[str, int]]:
    """Run a real server over the index; give its address once it answers searches."""
    app = fake_app(index, **options)
    with running_app(app) as address:
        eventually(lambda: app.state.live.searcher)
        yield address


@contextmanager
def connected(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=20) as connection:
        yield connection


def rest(connection: socket.socket) -> bytes:
    """Return all that comes until the other side closes."""
    received = b""
    while data := connection.recv(65_536):
        received += data
    return received


def check_cut(answer: bytes, status: int, error: str) -> None:
    """Check that the last answer is a refusal in the usual form, and that it ends the connection."""
    head, _, body = answer.rpartition(b"HTTP/1.1 ")[2].partition(b"\r\n\r\n")
    assert head.startswith(b"%d " % status)
    assert {b"connection: close", b"content-type: application/json"} <= set(head.lower().split(b"\r\n"))
    assert re.search(rb"\r\nx-request-id: [0-9a-f]{32}\r\n", head)
    content = json.loads(body)
    assert content["error"] == error
    assert set(content["detail"][0]) == {"loc", "type", "msg"}


def drip(connection: socket.socket, data: bytes) -> bytes:
    """Send byte by byte for as long as the other side listens; return what it says."""
    said = b""
    for byte in data:
        try:
            connection.sendall(bytes([byte]))
            connection.settimeout(0.05)
            piece = connection.recv(65_536)
        except TimeoutError:
            continue
        except (BrokenPipeError, ConnectionResetError):
            break
        said += piece
        if not piece:
            break
    else:
        raise AssertionError("it listened to the end")
    return said


# Slow clients


def test_a_head_that_comes_byte_by_byte_is_not_waited_for(index: Path) -> None:
    with ready(index, limits=SHORT) as address, connected(address) as connection:
        check_cut(drip(connection, ASK + b"X-A: " + b"a" * 200), 408, "timeout")


def test_a_head_that_never_ends_is_not_waited_for(index: Path) -> None:
    with ready(index, limits=SHORT) as address, connected(address) as connection:
        connection.sendall(ASK)
        check_cut(rest(connection), 408, "timeout")


def test_a_second_head_has_a_deadline_too(index: Path) -> None:
    with ready(index, limits=SHORT) as address, connected(address) as connection:
        connection.sendall(ASK + b"\r\n" + ASK)  # the second begins before the first is answered
        answers = rest(connection)
        assert answers.startswith(b"HTTP/1.1 200 ")
        check_cut(answers, 408, "timeout")
    with ready(index, limits=SHORT) as address, connected(address) as connection:
        connection.sendall(ASK + b"\r\n")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
        check_cut(drip(connection, ASK + b"X-A: " + b"a" * 200), 408, "timeout")


@pytest.mark.parametrize("sent", [b"", ASK + b"\r\n"])
def test_a_connection_that_nobody_uses_is_closed_without_a_word(index: Path, sent: bytes) -> None:
    with ready(index, limits=SHORT) as address, connected(address) as connection:
        connection.sendall(sent)
        assert rest(connection).count(b"HTTP/1.1 ") == bool(sent)


def test_a_body_that_comes_byte_by_byte_is_not_waited_for(index: Path) -> None:
    with ready(index, limits=SHORT) as address, connected(address) as connection:
        connection.sendall(POST + b"Content-Length: 1000\r\n\r\n")
        check_cut(drip(connection, b"{" + b" " * 200), 408, "timeout")


def test_a_body_in_small_but_not_tiny_chunks_is_read(index: Path) -> None:
    body = json.dumps({"q": "finding3 " * 1_000}).encode()
    chunks = b"".join(b"10\r\n%b\r\n" % body[at : at + 16].ljust(16) for at in range(0, len(body), 16))
    with ready(index) as address, connected(address) as connection:
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunks + b"0\r\n\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_nobody_waits_for_any_more_ends_the_connection(index: Path) -> None:
    with ready(index, limits=SHORT) as address, connected(address) as connection:
        connection.sendall(POST + b"Content-Length: 60000\r\nOrigin: http://elsewhere\r\n\r\n")
        check_cut(drip(connection, b" " * 200), 403, "forbidden")


def test_who_sends_too_much_comes_to_read_why(index: Path) -> None:
    """A connection that is closed with bytes unread is reset, and the answer on its way may be lost."""
    with ready(index) as address:
        for size in (65_537, 1_000_000, 3_000_000):
            with connected(address) as connection:
                connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % size + b" " * size)
                check_cut(rest(connection), 413, "too_large")
        with connected(address) as connection:
            connection.sendall(POST + b"Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n")
            check_cut(rest(connection), 413, "too_large")


def test_a_client_that_does_not_read_is_cut_off(index: Path) -> None:
    app = fake_app(index, limits=SHORT)
    with running_app(app) as address, unread(address):
        eventually(lambda: app.state.crowd.cuts["reading"])
        eventually(lambda: app.state.crowd.size == 0)


@contextmanager
def unread(address: tuple[str, int]) -> Iterator[None]:
    """Ask for more than any buffer holds, and read nothing of it."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(20)
        connection.connect(address)
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 400)
        yield


def test_only_so_many_answers_wait_for_their_readers(index: Path) -> None:
    app = fake_app(index, limits=Limits(unread_answers=1))
    with running_app(app) as address, ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(unread(address))
        eventually(lambda: app.state.crowd.cuts["reading"] == 1)
        eventually(lambda: app.state.crowd.size == 1)


def test_one_that_reads_slowly_but_does_gets_all(index: Path) -> None:
    with ready(index, limits=SHORT) as address, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(20)
        connection.connect(address)
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b""
        while data := connection.recv(8_192):
            received += data
            time.sleep(0.01)
        _, _, body = received.partition(b"\r\n\r\n")
        assert json.loads(body)["info"]["title"] == "semsearch"


def test_many_slow_clients_are_all_cut_off_and_keep_nobody_out(index: Path) -> None:
    """A quarter each sends a head byte by byte, a body byte by byte, nothing, and one request only."""
    one = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    openings = (ASK, POST + b"Content-Length: 1000\r\n\r\n{", b"", one)
    limits = Limits(head_seconds=1, body_seconds=1, reading_seconds=1, idle_seconds=1, requests_at_once=8)
    with ready(index, limits=limits) as address, ExitStack() as stack, selectors.DefaultSelector() as waiting:
        for number in range(200):
            connection = stack.enter_context(connected(address))
            connection.sendall(openings[number % 4])
            connection.setblocking(False)
            waiting.register(connection, selectors.EVENT_READ, data=number % 4 < 2)
        honest: list[int] = []
        deadline = time.monotonic() + 20
        while waiting.get_map():
            assert time.monotonic() < deadline, f"{len(waiting.get_map())} slow clients are still there"
            with connected(address) as connection:
                connection.sendall(ASK + b"Connection: close\r\n\r\n")
                honest.append(int(rest(connection).split(b" ")[1]))
            for key, _ in waiting.select(0):
                if _is_over(key.fileobj):
                    waiting.unregister(key.fileobj)
            for key in list(waiting.get_map().values()):
                if key.data:
                    _trickle(key.fileobj)
    assert set(honest) == {200}


def _is_over(connection: Any) -> bool:
    try:
        return not connection.recv(65_536)
    except ConnectionResetError:
        return True


def _trickle(connection: Any) -> None:
    with suppress(OSError):  # it will be seen to be over
        connection.send(b" ")


# Too many


def test_a_client_may_have_so_many_connections() -> None:
    crowd = Crowd(Limits(connections_per_client=2))
    assert [crowd.enter("192.0.2.1") for _ in range(4)] == [None, None, 429, 429]
    assert crowd.enter("192.0.2.2") is None
    crowd.leave("192.0.2.1")
    crowd.leave("192.0.2.1")
    assert crowd.enter("192.0.2.1") == 429
    crowd.leave("192.0.2.1")
    crowd.leave("192.0.2.1")
    assert crowd.enter("192.0.2.1") is None
    assert crowd.size == 3


def test_one_customers_ipv6_addresses_are_one_client() -> None:
    crowd = Crowd(Limits(connections_per_client=2))
    one_network = [crowd.enter(f"2001:db8::{number}") for number in range(3)]
    assert one_network == [None, None, 429]
    assert crowd.enter("2001:db8:0:1::1") is None


def test_this_machines_own_clients_may_be_a_proxy() -> None:
    crowd = Crowd(Limits(connections_per_client=2))
    hosts = ["127.0.0.1", "127.0.0.1", "127.0.0.1", "::1", "::1", "::1", "::ffff:127.0.0.1"]
    assert [crowd.enter(host) for host in hosts] == [None] * 7


def test_all_together_may_have_so_many_connections() -> None:
    crowd = Crowd(Limits(connections=2))
    assert [crowd.enter(host) for host in ("127.0.0.1", "192.0.2.1", "192.0.2.2")] == [None, None, 503]
    crowd.leave("192.0.2.2")
    crowd.leave("192.0.2.1")
    assert crowd.enter("192.0.2.2") is None


def test_files_are_kept_for_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, 1_024))
    crowd = Crowd(Limits())
    assert [crowd.enter("127.0.0.1") for _ in range(513)].count(503) == 1


def test_one_connection_too_many_is_told_to_come_back(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ready(index, limits=Limits(connections=2)) as address, connected(address), connected(address):
        with connected(address) as third:
            answer = rest(third)
        check_cut(answer, 503, "unavailable")
        assert b"\r\nretry-after: 1\r\n" in answer
    monkeypatch.setattr(connections, "is_loopback", lambda _: False)
    with ready(index, limits=Limits(connections_per_client=1)) as address, connected(address):
        with connected(address) as second:
            answer = rest(second)
        check_cut(answer, 429, "too_many_requests")
        assert b"\r\nretry-after: 1\r\n" in answer


# The end

SERVICE = """
import sys, threading, time
from pathlib import Path
from test_service import FakeEncoder, fake_app
from semsearch.service import Limits, run

class Slow(FakeEncoder):
    def encode_queries(self, queries):
        time.sleep(1)
        return super().encode_queries(queries)

app = fake_app(Path(sys.argv[1]), load_encoder=lambda model, device: Slow(model.spec))
run(app, port=0, on_start=lambda url: print(url, flush=True))
"""


@contextmanager
def process(index: Path, **environment: str) -> Iterator[tuple[Any, str]]:
    """Serve the index in a process of its own; give it and its host and port."""
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    service = subprocess.Popen(
        [sys.executable, "-c", SERVICE, str(index)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, **environment},
    )
    try:
        assert service.stdout
        yield service, service.stdout.readline().strip().removeprefix("http://")
    finally:
        service.kill()
        service.wait()
        assert service.stdout
        service.stdout.close()


def get(address: str, path: str) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection(address, timeout=20)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()


def test_what_was_let_in_is_answered_after_sigterm(index: Path) -> None:
    with process(index) as (service, address), ExitStack() as stack:
        eventually(lambda: get(address, "/readyz")[0] == 200)
        asked = [stack.enter_context(closing(http.client.HTTPConnection(address, timeout=20))) for _ in range(30)]
        for number, connection in enumerate(asked):
            connection.request("GET", f"/search?q=slow{number}")
        at_work = b"semsearch_requests_at_work 30.0\n"
        eventually(lambda: at_work in get(address, "/metrics")[1])
        service.send_signal(signal.SIGTERM)
        answers = [connection.getresponse() for connection in asked]
        assert [(each.status, each.getheader("connection")) for each in answers] == [(200, "close")] * 30
        assert all(json.loads(each.read())["results"] for each in answers)
        assert service.wait(10) == -signal.SIGTERM
        with pytest.raises(ConnectionRefusedError):
            get(address, "/healthz")


def test_who_asks_without_a_pause_is_never_dropped(index: Path) -> None:
    with process(index) as (service, address), ThreadPoolExecutor(8) as pool:
        asking = [pool.submit(ask_until_refused, address) for _ in range(8)]
        time.sleep(0.5)
        service.send_signal(signal.SIGTERM)
        counts = [each.result() for each in asking]  # raises what one of them met
        assert service.wait(10) == -signal.SIGTERM
    assert min(counts) > 0


def ask_until_refused(address: str) -> int:
    """Ask on one connection after the other until nobody listens any more; return how many there were."""
    for count in itertools.count():
        with closing(http.client.HTTPConnection(address, timeout=20)) as connection:
            try:
                connection.connect()
            except ConnectionRefusedError:
                return count
            closes = False
            while not closes:
                connection.request("GET", "/healthz")
                response = connection.getresponse()
                assert response.read() == b'{"status":"ok"}'
                closes = response.getheader("connection") == "close"
    raise AssertionError("it listens for ever")


def test_the_service_manager_is_told(index: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        with process(index, NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="400000") as (service, _):
            assert manager.recv(100) == b"READY=1"
            assert [manager.recv(100), manager.recv(100)] == [b"WATCHDOG=1"] * 2
            service.send_signal(signal.SIGTERM)
            while (said := manager.recv(100)) == b"WATCHDOG=1":
                pass
            assert said == b"STOPPING=1"
            assert service.wait(10) == -signal.SIGTERM


def test_an_answer_is_sent_at_once() -> None:
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
