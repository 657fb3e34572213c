"""Adding and deleting papers over HTTP while the index is searched."""

import hashlib
import hmac
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FakeEncoder, FakeLoader, make_paper, write_jsonl
from numpy.typing import NDArray
from starlette.testclient import TestClient
from test_service import (
    NOT_FOUND,
    OTHER_SPEC,
    PAPERS,
    add,
    eventually,
    fake_app,
    find_fake,
    publish,
    refusal,
    running,
    service,
    state,
)

from semsearch.copying import backup, restore
from semsearch.durable import exclusive_lock
from semsearch.encoders import Encoder, Tokenised
from semsearch.generation import IndexFolder, open_current, spec_before
from semsearch.library import Library
from semsearch.papers import Paper
from semsearch.readers.fields import ABSTRACT_NAMES
from semsearch.reindex import Import, switch_to, update_index
from semsearch.service import Admin, Limits
from semsearch.service.answers import AdditionAnswer, DeletionAnswer
from semsearch.service.merges import Merges
from semsearch.verify import problems

TOKEN = "correct-horse-battery-staple"
ADMIN = Admin.of(TOKEN)
BEARER = {"Authorization": f"Bearer {TOKEN}"}
UNAUTHORIZED = refusal(
    "unauthorized",
    "this changes the index and takes the token of whoever runs the service: Authorization: Bearer TOKEN",
    "header",
    "authorization",
)


def record(number: int, words: str = "", **fields: object) -> dict[str, Any]:
    """Return a paper that alone holds its own word."""
    return {
        "id": f"new{number}",
        "title": f"On things of kind {number}",
        "abstract": words or f"It holds zebra{number}.",
    } | fields


def post(client: TestClient, *papers: dict[str, Any], key: str | None = None, **body: object) -> Any:
    headers = BEARER | ({"Idempotency-Key": key} if key else {})
    return client.post("/papers", json={"papers": papers, **body}, headers=headers)


def accepted(answer: Any) -> dict[str, Any]:
    body: dict[str, Any] = answer.json()
    assert answer.status_code == 200, body
    return body


def changes_stored(client: TestClient) -> int:
    """Return how many versions and deletions there are in the library."""
    with Library.open(client.app.state.live.searcher.library.path) as library:  # type: ignore[attr-defined]
        return library.last_seq()


def ids_found(client: TestClient, query: str, **options: str) -> list[str]:
    answer = client.get("/search", params={"q": query, "limit": "100", **options})
    assert answer.status_code == 200
    return [result["paper"]["id"] for result in answer.json()["results"]]


def generation(client: TestClient) -> int:
    number: int = client.get("/stats").json()["generation"]
    return number


@pytest.fixture
def index(tmp_path: Path) -> Path:
    publish(tmp_path / "index", PAPERS)
    return tmp_path / "index"


@pytest.fixture
def client(index: Path) -> Iterator[TestClient]:
    with service(index, admin=ADMIN) as client:
        yield client


# Who may


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN.upper()}"},
        {"Authorization": f"Bearer {ADMIN.token_sha256.hex()}"},
        {"Authorization": "Bearer " + 8_000 * "x"},
        {"Authorization": b"Bearer \xff\xfe"},
        {"X-Api-Key": TOKEN},
        [("Authorization", f"Bearer {TOKEN}"), ("Authorization", f"Bearer {TOKEN}")],
    ],
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/papers"), ("DELETE", "/papers/p5"), ("DELETE", "/papers/nope")]
)
def test_without_the_token_nothing_is_done(client: TestClient, headers: Any, method: str, path: str) -> None:
    answer = client.request(method, path, json={"papers": [record(1)]}, headers=headers)
    assert (answer.status_code, answer.json()) == (401, UNAUTHORIZED)
    assert (answer.headers["www-authenticate"], answer.headers["connection"]) == ("Bearer", "close")
    assert changes_stored(client) == len(PAPERS)


def test_the_token_counts_in_the_header_alone(client: TestClient) -> None:
    for query in (f"?token={TOKEN}", f"?access_token={TOKEN}"):
        assert client.post(f"/papers{query}", json={"papers": [record(1)]}).status_code == 401
    assert post(client, record(1)).status_code == 200
    lower = {"Authorization": f"bearer {TOKEN}"}
    assert client.post("/papers", json={"papers": [record(1)]}, headers=lower).status_code == 200
    assert client.post("/papers?x=1", json={"papers": [record(1)]}, headers=BEARER).status_code == 422


def test_without_an_admin_these_addresses_are_unknown(index: Path) -> None:
    with service(index) as client:
        for answer in (post(client, record(1)), client.delete("/papers/p5", headers=BEARER)):
            assert (answer.status_code, answer.json()) == (404, NOT_FOUND)
        assert "/papers" not in client.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize(("admin", "status"), [(ADMIN, b"401"), (None, b"404")])
def test_no_byte_of_a_body_is_waited_for_before_the_token_is_looked_at(
    index: Path, admin: Admin | None, status: bytes
) -> None:
    with running(index, admin=admin) as (host, port), socket.create_connection((host, port), timeout=20) as connection:
        head = (
            f"POST /papers HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 5000000\r\nExpect: 100-continue\r\n\r\n"
        )
        connection.sendall(head.encode())
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"100 Continue" not in answer


@pytest.mark.parametrize("token", ["", "short", 19 * "x", 20 * "x" + " ", "é" * 30, 30 * "x" + "\n"])
def test_a_token_that_could_be_guessed_or_not_be_sent_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="make one with: openssl rand -hex 32"):
        Admin.of(token)


def test_tokens_are_compared_as_digests_in_a_time_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return same(one, other)

    same = hmac.compare_digest
    monkeypatch.setattr("semsearch.service.admin.hmac.compare_digest", compare)
    sent = [TOKEN, TOKEN[:-1], TOKEN + "x", "", "x" * 9_000, "\udcff"]
    assert [ADMIN.holds(token) for token in sent] == [True, *[False] * 5]
    assert compared == [
        (hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest(), hashlib.sha256(TOKEN.encode()).digest())
        for token in sent
    ]


def test_the_token_itself_is_not_kept(index: Path) -> None:
    app = fake_app(index, admin=ADMIN)
    assert TOKEN not in repr(vars(app)) + repr(ADMIN) + repr([each.kwargs for each in app.user_middleware])


# What may be sent


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"papers": []}, 422, "invalid"),
        ({"papers": [record(1)] * 65}, 422, "invalid"),
        ({"papers": ["p1"]}, 422, "invalid"),
        ({"papers": [record(1)], "surprise": 1}, 422, "invalid"),
        ({"papers": [record(1)], "origin": ""}, 422, "invalid"),
        ({"papers": [record(1)], "origin": "../etc"}, 422, "invalid"),
        ({"papers": [record(1)], "origin": None}, 422, "invalid"),
        ({"papers": [{"id": "new1", "title": "No abstract"}]}, 422, "invalid"),
        ({}, 422, "invalid"),
        ([record(1)], 422, "invalid"),
        ('{"papers": [{"id": "a", "abstract": NaN}]}', 422, "invalid"),
        ('{"papers": [{"id": "a", "abstract": "\\ud800"}]}', 422, "invalid"),
        ('{"papers": [{"id": "a", "id": "b", "abstract": "c"}]}', 400, "malformed"),
        ('{"papers": [', 400, "malformed"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_nothing_stored(
    client: TestClient, body: Any, status: int, error: str
) -> None:
    data = body if isinstance(body, str) else json.dumps(body)
    answer = client.post("/papers", content=data, headers=BEARER | {"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert changes_stored(client) == len(PAPERS)


@pytest.mark.parametrize("key", ["", "x" * 129, "two words"])
def test_a_key_is_plain_and_short(client: TestClient, key: str) -> None:
    headers = BEARER | {"Idempotency-Key": key}
    answer = client.post("/papers", json={"papers": [record(1)]}, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][0] == "header"


def test_a_body_may_be_larger_for_the_admin_only(index: Path) -> None:
    papers = [record(number, words=f"zebra{number} " + "word " * 400) for number in range(64)]
    with service(index, admin=ADMIN, limits=Limits(admin_body_bytes=200_000)) as client:
        assert accepted(post(client, *papers))["new"] == 64
        too_large = post(client, *papers, record(1, words="word " * 20_000))
        assert (too_large.status_code, too_large.json()["error"]) == (413, "too_large")
        assert client.post("/search", json={"q": "word " * 20_000}, headers=BEARER).status_code == 413


def test_a_key_that_names_another_request_is_refused(client: TestClient) -> None:
    first = accepted(post(client, record(1), key="k"))
    assert accepted(post(client, record(1), key="k")) == first
    msg = "this key came with another request before; use a new key for a new request"
    answer = post(client, record(2), key="k")
    assert (answer.status_code, answer.json()) == (
        422,
        refusal("invalid", msg, "header", "idempotency-key", kind="key_used"),
    )


# What is answered


def test_the_answer_tells_of_each_paper(client: TestClient) -> None:
    body = accepted(post(client, record(1), record(2), {"id": "x"}, origin="feed"))
    reason = f"the record has no abstract, or a blank one (looked for: {ABSTRACT_NAMES})"
    assert body == {
        "new": 2,
        "changed": 0,
        "unchanged": 0,
        "refused": 1,
        "papers": [
            {"position": 0, "outcome": "new", "id": "new1", "truncated": False, "reason": None},
            {"position": 1, "outcome": "new", "id": "new2", "truncated": False, "reason": None},
            {"position": 2, "outcome": "refused", "id": "x", "truncated": False, "reason": reason},
        ],
    }
    assert json.loads(AdditionAnswer.model_validate(body, strict=True).model_dump_json()) == body
    again = accepted(post(client, record(1, words="changed"), record(2), origin="feed"))
    assert {name: again[name] for name in ("new", "changed", "unchanged")} == {"new": 0, "changed": 1, "unchanged": 1}
    eventually(lambda: client.get("/papers/new2").status_code == 200)
    assert client.get("/papers/new2").json()["source"] == "feed"


def test_the_description_of_the_api_tells_how_papers_are_added(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    assert description["paths"]["/papers"]["post"]["security"] == [{"HTTPBearer": []}]
    assert set(description["paths"]["/papers"]["post"]["responses"]) >= {"200", "401", "413", "422", "503", "507"}
    assert set(description["paths"]["/papers/{paper_id}"]) == {"get", "delete"}
    assert description["components"]["securitySchemes"] == {"HTTPBearer": {"type": "http", "scheme": "bearer"}}


def test_a_paper_that_was_added_is_found_in_every_way(client: TestClient) -> None:
    paper = record(
        1, words="The okapi is a relative of the giraffe.", year=2031, venue="Zoo", authors=["Carl Hagenbeck"]
    )
    accepted(post(client, paper))
    eventually(lambda: client.get("/papers/new1").status_code == 200)
    text = f"{paper['title']} {paper['abstract']}"
    assert ids_found(client, text, mode="dense", collapse="none")[0] == "new1"
    assert ids_found(client, "okapi", mode="lexical") == ["new1"]
    assert ids_found(client, "okapi giraffe")[0] == "new1"
    for name, value in (
        ("year", "2031"),
        ("venue", "zoo"),
        ("author", "Hagenbeck"),
        ("source", "api"),
        ("ids", "new1"),
    ):
        assert ids_found(client, "finding5", **{name: value}) == ["new1"]
    related = client.get("/papers/p5/related?limit=100").json()["results"]
    assert "new1" in [result["paper"]["id"] for result in related]
    assert client.get("/papers/new1/related").json()["meta"]["total"] == len(PAPERS)
    accepted(post(client, paper | {"abstract": "The gnu is an antelope."}))
    eventually(lambda: ids_found(client, "gnu", mode="lexical") == ["new1"])
    assert ids_found(client, "okapi", mode="lexical") == []


def test_a_deleted_paper_is_gone_when_that_is_answered(client: TestClient) -> None:
    cursor = client.get("/search?q=finding5&limit=5").json()["meta"]["next_cursor"]
    for number, spelling in enumerate(("p5", "DOI:10.1038/NATURE14539", "1706.03762"), 1):
        answer = client.delete(f"/papers/{spelling}", headers=BEARER)
        assert (answer.status_code, answer.json()) == (200, {"deleted": True})
        DeletionAnswer.model_validate(answer.json(), strict=True)
        assert client.get(f"/papers/{spelling}").status_code == 404
        assert client.get("/stats").json()["papers"] == len(PAPERS) - number
    assert "p5" not in ids_found(client, "finding5")
    assert client.get("/search", params={"q": "finding5", "cursor": cursor}).status_code == 410, "it would show it"
    before = generation(client)
    assert client.delete("/papers/p5", headers=BEARER).json() == {"deleted": True}, "as it was"
    assert generation(client) == before
    for unknown in ("p999", "no%20id"):
        answer = client.delete(f"/papers/{unknown}", headers=BEARER)
        assert (answer.status_code, answer.json()) == (404, NOT_FOUND)


def test_pages_go_on_over_additions(client: TestClient) -> None:
    first = client.get("/search?q=subject3&limit=15").json()
    accepted(post(client, record(1, words="subject3")))
    eventually(lambda: client.get("/papers/new1").status_code == 200)
    second = client.get("/search", params={"q": "subject3", "limit": 15, "cursor": first["meta"]["next_cursor"]}).json()
    ids = [result["paper"]["id"] for result in first["results"] + second["results"]]
    assert sorted(ids) == sorted(paper.paper_id for paper in PAPERS)


def test_a_deletion_that_cannot_be_published_yet_is_not_called_done(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semsearch.service.changes._DELETION_SECONDS", 0.2)
    with service(index, admin=ADMIN) as client:
        with exclusive_lock(IndexFolder(index).publish_lock, "test"):
            answer = client.delete("/papers/p5", headers=BEARER)
            assert (answer.status_code, answer.json()["error"]) == (503, "not_yet")
            assert answer.headers["retry-after"] == "5"
            assert client.get("/papers/p5").status_code == 200
        eventually(lambda: client.get("/papers/p5").status_code == 404)
        assert client.delete("/papers/p5", headers=BEARER).status_code == 200


# Many at once


class SlowEncoder(FakeEncoder):
    """Takes its time over passages."""

    seconds = 0.2

    def encode_passages(self, passages: Sequence[Tokenised]) -> NDArray[np.float32]:
        time.sleep(self.seconds)
        return super().encode_passages(passages)


def test_too_much_at_once_is_told_to_come_back(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semsearch.additions.MOST_WAITING", 2)
    answers: list[Any] = []
    with service(index, admin=ADMIN, load_encoder=lambda model, device: SlowEncoder(model.spec)) as client:
        senders = [
            threading.Thread(target=lambda number=number: answers.append(post(client, record(number))))
            for number in range(12)
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 503}
        for answer in answers:
            if answer.status_code == 503:
                msg = "too much is being added just now; send it again"
                assert (answer.json(), answer.headers["retry-after"]) == (refusal("busy", msg), "2")
        stored = [answer.json()["papers"][0]["id"] for answer in answers if answer.status_code == 200]
        eventually(lambda: client.get("/stats").json()["papers"] == len(PAPERS) + len(stored))


def test_additions_in_a_row_share_generations(client: TestClient) -> None:
    started = time.monotonic()
    for number in range(50):
        accepted(post(client, record(number)))
    eventually(lambda: client.get("/papers/new49").status_code == 200)
    took = time.monotonic() - started
    assert generation(client) - 1 <= 2 + took / 0.5 < 50, "two a second at most"
    assert client.get("/stats").json()["papers"] == len(PAPERS) + 50


class Http:
    """A client of a real server."""

    def __init__(self, host: str, port: int) -> None:
        self.url = f"http://{host}:{port}"

    def ask(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        head = BEARER | ({"Content-Type": "application/json"} if data else {}) | headers
        request = urllib.request.Request(self.url + path, data, head, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


def test_searches_see_whole_states_while_papers_come_and_go(index: Path) -> None:
    """Each answer is of one generation: of the new papers it shows a first few, of the old ones all but a first few."""
    failures: list[object] = []
    states: dict[int, tuple[int, int]] = {}
    done = threading.Event()

    def search(http: Http) -> None:
        while not done.is_set():
            status, body = http.ask("/search?q=zebra+finding&limit=100&collapse=none&mode=dense")
            if status != 200:
                failures.append(body)
                return
            meta, ids = body["meta"], [result["paper"]["id"] for result in body["results"]]
            new = sorted(int(paper_id.removeprefix("new")) for paper_id in ids if paper_id.startswith("new"))
            old = sorted(int(paper_id[1:]) for paper_id in ids if paper_id[1:].isdecimal())
            if new != list(range(len(new))) or old != list(range(31 - len(old), 31)) or meta["total"] != len(ids):
                failures.append(ids)
            state = len(new), len(old)
            if states.setdefault(meta["generation"], state) != state:
                failures.append((meta, state))

    with running(index, admin=ADMIN) as (host, port):
        http = Http(host, port)
        eventually(lambda: http.ask("/readyz")[0] == 200)
        askers = [threading.Thread(target=search, args=(http,)) for _ in range(3)]
        for asker in askers:
            asker.start()
        waits: list[float] = []
        for number in range(20):
            assert http.ask("/papers", {"papers": [record(number)]})[0] == 200
            told = time.monotonic()
            if number % 4 == 0:
                eventually(lambda: http.ask(f"/papers/new{number}")[0] == 200)  # noqa: B023
                waits.append(time.monotonic() - told)
            if number % 7 == 0:
                assert http.ask(f"/papers/p{3 + number // 7}", method="DELETE")[0] == 200
                assert http.ask(f"/papers/p{3 + number // 7}")[0] == 404
        eventually(lambda: http.ask("/papers/new19")[0] == 200)
        done.set()
        for asker in askers:
            asker.join()
    assert failures == []
    assert len(states) > 4
    assert max(waits) < 10, "a second on a machine with nothing else to do"
    assert list(problems(IndexFolder(index))) == []


# Merges


def rows_of_segments(index: Path) -> list[int]:
    return [segment.rows for segment in open_current(IndexFolder(index)).segments]


def test_segments_are_merged_while_papers_come(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semsearch.service.live._MOST_MERGED", 4)
    monkeypatch.setattr("semsearch.service.live._PUBLISH_SECONDS", 0.0)
    monkeypatch.setattr("semsearch.service.merges._RETRY_SECONDS", 0.5)  # one that meets a publish comes to nothing
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    with service(index, admin=ADMIN) as client:
        for number in range(6):
            accepted(post(client, *(record(10 * number + each) for each in range(5))))
            eventually(lambda: client.get(f"/papers/new{10 * number}").status_code == 200)  # noqa: B023
        eventually(lambda: rows_of_segments(index)[0] > len(PAPERS), seconds=60)
        accepted(post(client, record(100)))
        eventually(lambda: client.get("/papers/new100").status_code == 200)
        assert state(client) == (200, "none")
        assert client.get("/stats").json()["papers"] == len(PAPERS) + 31
    assert list(problems(IndexFolder(index))) == []


class Process:
    """Stands in for a merge in a process of its own."""

    def __init__(self, status: int | None) -> None:
        self.status = status
        self.ended = False

    def poll(self) -> int | None:
        return self.status

    def terminate(self) -> None:
        self.ended = True

    def wait(self) -> None:
        assert self.ended


def test_one_merge_is_begun_at_a_time_and_a_failed_one_not_at_once_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[Any] = []

    def run(arguments: Sequence[str]) -> Any:
        assert list(arguments) == ["merge", "--index", "somewhere", "--spare", "7"]
        begun.append(Process(None))
        return begun[-1]

    monkeypatch.setattr("semsearch.service.merges.due_merge", lambda generation, spared: generation or None)
    merges = Merges(Path("somewhere"), 7, run)
    nothing: Any = None
    much: Any = (0, 2)
    merges.consider(nothing)
    assert begun == []
    merges.consider(much)
    merges.consider(much)
    assert len(begun) == 1
    begun[0].status = 0
    merges.consider(much)
    assert len(begun) == 2
    begun[1].status = 1
    merges.consider(much)
    assert len(begun) == 2
    monkeypatch.setattr("semsearch.service.merges._RETRY_SECONDS", 0)
    merges = Merges(Path("somewhere"), 7, run)
    merges.consider(much)
    begun[-1].status = 1
    merges.consider(much)
    assert len(begun) == 4
    merges.stop()
    assert begun[-1].ended


# Other processes


_SERVER = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_service_changes import ADMIN, fake_app
from semsearch.service import make_server
app = fake_app(Path(sys.argv[1]), admin=ADMIN)
make_server(app, port=0, on_start=lambda url: print(url, flush=True)).run()
"""


@contextmanager
def process(index: Path) -> Iterator[tuple[Http, subprocess.Popen[str]]]:
    """Run a server in a process of its own."""
    command = [sys.executable, "-c", _SERVER, str(index), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            host, _, port = server.stdout.readline().strip().removeprefix("http://").partition(":")
            http = Http(host, int(port))
            eventually(lambda: http.ask("/readyz")[0] == 200)
            yield http, server
        finally:
            server.kill()


def test_kill_9_right_after_the_answer_loses_nothing(index: Path) -> None:
    for number in range(3):
        with process(index) as (http, server):
            assert http.ask("/papers", {"papers": [record(number)]}, **{"Idempotency-Key": f"k{number}"})[0] == 200
            server.send_signal(signal.SIGKILL)
            assert server.wait(20) == -signal.SIGKILL
        with process(index) as (http, server):
            eventually(lambda: http.ask(f"/papers/new{number}")[0] == 200)  # noqa: B023
            answer = http.ask("/papers", {"papers": [record(number)]}, **{"Idempotency-Key": f"k{number}"})
            assert (answer[0], answer[1]["new"]) == (200, 1), "its first answer"
            assert http.ask(f"/papers/p{3 + number}", method="DELETE")[0] == 200
            server.send_signal(signal.SIGKILL)
            server.wait(20)
        with process(index) as (http, _):
            assert http.ask(f"/papers/p{3 + number}")[0] == 404
    assert open_current(IndexFolder(index)).papers == len(PAPERS)
    assert list(problems(IndexFolder(index))) == []


def test_a_server_that_is_told_to_end_answers_what_it_has_taken(index: Path) -> None:
    with process(index) as (http, server):
        answers: list[tuple[int, Any]] = []
        senders = [
            threading.Thread(
                target=lambda number=number: answers.append(http.ask("/papers", {"papers": [record(number)]}))
            )
            for number in range(8)
        ]
        for sender in senders:
            sender.start()
        eventually(lambda: answers)
        server.terminate()
        for sender in senders:
            sender.join(20)
        assert server.wait(20) == -signal.SIGTERM
    stored = [body["papers"][0]["id"] for status, body in answers if status == 200]
    assert stored
    with Library.open(IndexFolder(index).library) as library:
        assert library.live_seqs(stored).keys() == set(stored)


def test_two_services_over_one_index_both_take_additions_and_serve_all(index: Path) -> None:
    with service(index, admin=ADMIN) as one, service(index, admin=ADMIN) as two:
        for number in range(12):
            accepted(post((one, two)[number % 2], record(number)))
        for client in (one, two):
            eventually(lambda: client.get("/stats").json()["papers"] == len(PAPERS) + 12)  # noqa: B023
            assert len(ids_found(client, "kind", mode="lexical")) == 12
        assert one.delete("/papers/new3", headers=BEARER).status_code == 200
        eventually(lambda: two.get("/papers/new3").status_code == 404)
    assert list(problems(IndexFolder(index))) == []


def test_additions_do_not_wait_for_a_running_reindex(index: Path) -> None:
    add(index, [make_paper(100)])  # what the reindex has committed so far
    with service(index, admin=ADMIN) as client:
        eventually(lambda: client.get("/papers/p100").status_code == 200)
        with exclusive_lock(IndexFolder(index).reindex_lock, "test"):
            add(index, [make_paper(101)])
            accepted(post(client, record(1)))
            eventually(lambda: client.get("/papers/new1").status_code == 200)
            assert client.get("/papers/p101").status_code == 200, "it was committed before"
            assert client.delete("/papers/p100", headers=BEARER).status_code == 200


def test_a_service_that_starts_during_a_reindex_takes_additions(index: Path) -> None:
    with exclusive_lock(IndexFolder(index).reindex_lock, "test"):
        add(index, [make_paper(100)])
        with service(index, admin=ADMIN) as client:
            assert client.get("/papers/p100").status_code == 404
            accepted(post(client, record(1)))
            eventually(lambda: client.get("/papers/new1").status_code == 200)


class Loader(FakeLoader):
    """Makes encoders that take their time, of any space."""

    def __call__(self, model: Any, device: str | None = None) -> FakeEncoder:
        self.made.append(SlowEncoder(model.spec, device))
        return self.made[-1]


def test_a_reindex_beside_the_service_and_its_additions_lose_nothing_of_each_other(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semsearch.reindex.find_model", find_fake)
    source = write_jsonl(tmp_path / "source.jsonl", [make_paper(number) for number in range(200, 1_000)])
    with service(index, admin=ADMIN) as client:
        reindex = threading.Thread(
            target=update_index, args=(index, [Import("source", (source,))]), kwargs={"load": Loader()}
        )
        reindex.start()
        number = 0
        while reindex.is_alive() or number < 10:
            accepted(post(client, record(number)))
            number += 1
            time.sleep(0.05)
        reindex.join()
        eventually(lambda: client.get("/stats").json()["papers"] == len(PAPERS) + 800 + number)
        assert state(client) == (200, "none")
        assert generation(client) > 2
    assert list(problems(IndexFolder(index))) == []


def test_a_change_of_model_beside_additions_ends_with_all_of_them(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semsearch.reindex.find_model", find_fake)
    source = write_jsonl(tmp_path / "source.jsonl", [make_paper(number) for number in range(200, 300)])
    with service(index, admin=ADMIN) as client:
        kwargs = {"model": "other", "load": Loader()}
        reindex = threading.Thread(target=update_index, args=(index, [Import("source", (source,))]), kwargs=kwargs)
        reindex.start()
        number = 0
        while reindex.is_alive() or number < 10:
            accepted(post(client, record(number)))
            number += 1
            time.sleep(0.02)
        reindex.join()
        eventually(lambda: client.get("/stats").json()["model"] == "other")
        eventually(lambda: client.get("/stats").json()["papers"] == len(PAPERS) + 100 + number)
        assert ids_found(client, "zebra0 kind", mode="dense", limit="1") != []
        accepted(post(client, record(number)))
        eventually(lambda: client.get(f"/papers/new{number}").status_code == 200)
    opened = open_current(IndexFolder(index))
    assert opened.manifest.encoder == OTHER_SPEC
    assert list(problems(IndexFolder(index))) == []


def test_a_service_follows_a_switch_and_a_rollback_amid_additions_and_a_backup(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service is a process of its own; what is deleted never comes back, what is added is never missed."""
    monkeypatch.setattr("semsearch.reindex.find_model", find_fake)
    folder, failures, done = IndexFolder(index), list[object](), threading.Event()
    added = 0

    def feed(http: Http) -> None:
        nonlocal added
        while not done.is_set():
            status, answer = http.ask("/papers", {"papers": [record(added)]})
            if status != 200:
                failures.append(answer)
            added += 1
            time.sleep(0.02)

    def watch(http: Http) -> None:
        while not done.is_set():
            for path, expected in (("/papers/p5", 404), ("/papers/p6", 200), ("/search?q=finding6&limit=1", 200)):
                status, answer = http.ask(path)
                if status != expected:
                    failures.append((path, answer))

    with process(index) as (http, _):

        def models() -> tuple[str, str]:
            stats = http.ask("/stats")[1]
            return stats["model"], open_current(folder).manifest.encoder.name

        assert http.ask("/papers/p5", method="DELETE")[0] == 200
        threads = [threading.Thread(target=feed, args=(http,)), threading.Thread(target=watch, args=(http,))]
        for thread in threads:
            thread.start()
        try:
            update_index(index, [], model="other", beside=True, load=FakeLoader())
            assert models() == ("fake", "fake")
            switch_to(index, OTHER_SPEC, load=FakeLoader())
            eventually(lambda: models() == ("other", "other"))
            backup(folder, tmp_path / "copy")
            before = spec_before(folder)
            assert before is not None
            switch_to(index, before, load=FakeLoader())
            eventually(lambda: models() == ("fake", "fake"))
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert failures == []
        eventually(lambda: http.ask("/stats")[1]["papers"] == len(PAPERS) - 1 + added)
        assert http.ask("/readyz")[1]["status"] == "ready"
    assert list(problems(folder)) == []
    assert list(problems(IndexFolder(tmp_path / "copy"))) == []


def test_a_service_follows_a_restore(index: Path, tmp_path: Path) -> None:
    """Also of the very generation that it serves: by its name alone nothing would have changed."""
    backup(IndexFolder(index), tmp_path / "copy")
    with service(index, admin=ADMIN) as client:
        restore(IndexFolder(tmp_path / "copy"), index, aside=True)
        accepted(post(client, record(1)))
        eventually(lambda: client.get("/papers/new1").status_code == 200)
        restore(IndexFolder(tmp_path / "copy"), index, aside=True)
        eventually(lambda: client.get("/papers/new1").status_code == 404)
        assert state(client) == (200, "none")
    assert list(problems(IndexFolder(index))) == []


def test_papers_for_another_model_that_are_too_many_are_left_to_who_brought_them(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semsearch.service.live._MOST_STRAYS", 3)
    with service(index, admin=ADMIN) as client:
        add(index, [make_paper(number) for number in range(100, 104)], OTHER_SPEC)
        accepted(post(client, record(1)))
        eventually(lambda: state(client) == (200, "not_encoded"))
        assert "papers are being encoded for another model" in client.get("/readyz").json()["msg"]
        assert client.get("/papers/new1").status_code == 404
        assert ids_found(client, "finding5")[0] == "p5"
        add(
            index,
            [*PAPERS, *(Paper.build(paper_id=r["id"], title=r["title"], abstract=r["abstract"]) for r in [record(1)])],
            OTHER_SPEC,
        )
        publish(index, spec=OTHER_SPEC)
        eventually(lambda: client.get("/papers/new1").status_code == 200)
        eventually(lambda: state(client) == (200, "none"))


def test_a_few_papers_for_another_model_are_encoded_along_the_way(index: Path) -> None:
    with service(index, admin=ADMIN) as client:
        add(index, [make_paper(100)], OTHER_SPEC)
        accepted(post(client, record(1)))
        eventually(lambda: client.get("/papers/p100").status_code == 200)
        assert client.get("/papers/new1").status_code == 200
        assert (client.get("/stats").json()["model"], state(client)) == ("fake", (200, "none"))


def test_without_an_index_nothing_is_taken(tmp_path: Path) -> None:
    with service(tmp_path / "later", ready=False, admin=ADMIN) as client:
        eventually(lambda: state(client) == (503, "no_index"))
        assert post(client, record(1)).status_code == 503
        assert client.delete("/papers/p1", headers=BEARER).status_code == 503
        assert not (tmp_path / "later").exists()


def test_what_cannot_be_published_is_stored_and_published_later(index: Path) -> None:
    with service(index, admin=ADMIN) as client:
        folder = IndexFolder(index)
        blocked = folder.generation(2).with_suffix(".tmp")
        blocked.write_text("a file where a folder should be")  # which no publisher can remove or make
        accepted(post(client, record(1)))
        eventually(lambda: state(client)[1] == "failed")
        accepted(post(client, record(2)))
        assert client.get("/papers/new1").status_code == 404
        blocked.unlink()
        eventually(lambda: client.get("/papers/new2").status_code == 200)
        assert state(client) == (200, "none")


def test_what_has_no_space_is_refused_whole_and_taken_when_there_is(
    index: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    full = True
    opened = Library.open

    def cramped(path: Path) -> Library:
        library = opened(path)
        if full:
            (pages,) = library._connection.execute("PRAGMA page_count").fetchone()
            library._connection.execute(f"PRAGMA max_page_count = {pages}")
        return library

    message = "there is no space to store this, and nothing of it was stored; send it again when there is"
    with service(index, admin=ADMIN) as client:
        monkeypatch.setattr("semsearch.additions.Library.open", cramped)
        big = [record(number, words=f"zebra{number} " + "word " * 2_000) for number in range(20)]
        for _ in range(2):
            answer = post(client, *big)
            assert (answer.status_code, answer.json()) == (507, refusal("no_space", message))
        assert "the disk is full" in caplog.text
        assert changes_stored(client) == len(PAPERS)
        assert client.get("/search?q=subject3").status_code == 200
        full = False
        assert accepted(post(client, *big))["new"] == 20


def test_a_poisoned_text_is_not_acknowledged(index: Path) -> None:
    class Choosy(FakeEncoder):
        def encode_passages(self, passages: Sequence[Tokenised]) -> NDArray[np.float32]:
            vectors = super().encode_passages(passages)
            vectors[["poison" in passage.text for passage in passages]] = np.nan
            return vectors

    def load(model: Any, device: str | None = None) -> Encoder:
        return Choosy(model.spec)

    with service(index, admin=ADMIN, load_encoder=load) as client:
        answer = post(client, record(1, words="poison"))
        assert (answer.status_code, answer.json()["error"]) == (503, "encoder")
        assert accepted(post(client, record(2)))["new"] == 1
