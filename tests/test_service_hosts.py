"""Only who knows the service's name is let in, and no page of another site."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import make_paper
from starlette.testclient import TestClient
from test_service import eventually, fake_app, publish, service
from test_service_hostile import check_refused

from semsearch.service import Hosts, Limits
from semsearch.service.clients import client_of, is_loopback

LOCAL = ["localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1", "127.0.0.1:8000", "127.1.2.3", "[::1]", "[::1]:8000"]
LOCAL += ["[::ffff:127.0.0.1]:1", "127.0.0.1."]
ADDRESSES = ["192.0.2.1", "192.0.2.1:8000", "10.0.0.1", "[2001:db8::1]:8000", "0.0.0.0", "[::ffff:192.0.2.1]"]
NAMES = [
    "attacker.example",
    "localhost.attacker.example",
    "127.0.0.1.attacker.example",
    "local",
    "xlocalhost",
    "2130706433",
]
NAMES += ["0x7f.1", "127.1", "127.0.0.01", "notpapers.example", "papers.example.attacker.example", "_"]
NONE = [
    "",
    " ",
    "localhost localhost",
    "localhost,127.0.0.1",
    "user@localhost",
    "localhost:",
    "localhost:x",
    "localhost:80:80",
]
NONE += [
    "localhost:123456",
    "localhost/path",
    "http://localhost",
    "[::1",
    "::1",
    "[::1]x",
    "[localhost]",
    "löcalhost",
    "*",
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hosts") / "index"
    publish(path, [make_paper(number) for number in range(1, 6)])
    return path


def client_for(index: Path, hosts: Hosts | None) -> Iterator[TestClient]:
    with TestClient(fake_app(index, hosts=hosts), base_url="http://localhost") as client:
        eventually(lambda: client.get("/readyz").status_code == 200)
        yield client


@pytest.fixture(scope="module")
def here(index: Path) -> Iterator[TestClient]:
    yield from client_for(index, None)


@pytest.fixture(scope="module")
def beyond(index: Path) -> Iterator[TestClient]:
    yield from client_for(index, Hosts.of("0.0.0.0", ["Papers.example"]))


def status(client: TestClient, host: str) -> int:
    answer = client.get("/healthz", headers={b"Host": host.encode("utf-8")})
    if answer.status_code != 200:
        check_refused(answer, answer.status_code)
        assert answer.headers["connection"] == "close"
    return answer.status_code


@pytest.mark.parametrize("host", LOCAL)
def test_this_machines_names_are_let_in(here: TestClient, beyond: TestClient, host: str) -> None:
    assert (status(here, host), status(beyond, host)) == (200, 200)


@pytest.mark.parametrize("host", ADDRESSES)
def test_other_addresses_are_let_in_only_where_it_listens_beyond(
    here: TestClient, beyond: TestClient, host: str
) -> None:
    assert (status(here, host), status(beyond, host)) == (421, 200)


@pytest.mark.parametrize("host", NAMES)
def test_other_names_are_not_let_in(here: TestClient, beyond: TestClient, host: str) -> None:
    assert (status(here, host), status(beyond, host)) == (421, 421)


@pytest.mark.parametrize("host", NONE)
def test_what_is_no_name_is_malformed(here: TestClient, beyond: TestClient, host: str) -> None:
    assert (status(here, host), status(beyond, host)) == (400, 400)


def test_two_hosts_are_malformed(here: TestClient) -> None:
    answer = here.get("/healthz", headers=[("Host", "localhost"), ("Host", "localhost")])
    check_refused(answer, 400)


def test_allowed_names_are_let_in(here: TestClient, beyond: TestClient) -> None:
    assert [status(beyond, host) for host in ("papers.example", "PAPERS.example.:443")] == [200, 200]
    assert status(here, "papers.example") == 421


@pytest.mark.parametrize(
    ("hosts", "let_in", "not_let_in"),
    [
        (Hosts.of("127.0.0.1"), "localhost", "192.0.2.1"),
        (Hosts.of("::1"), "localhost", "192.0.2.1"),
        (Hosts.of("localhost", ["192.0.2.1"]), "192.0.2.1", "192.0.2.2"),
        (Hosts.of("::"), "192.0.2.1", "box"),
        (Hosts.of("Box"), "box", "attacker.example"),
        (Hosts.of("127.0.0.1", ["*"]), "attacker.example", "a b"),
    ],
)
def test_where_it_listens_says_by_what_names_it_may_be_known(
    index: Path, hosts: Hosts, let_in: str, not_let_in: str
) -> None:
    for client in client_for(index, hosts):
        assert status(client, let_in) == 200
        assert status(client, not_let_in) in (400, 421)


SEARCH = {"q": "finding3"}
FOREIGN = ["http://attacker.example", "null", "", "http://localhost:3000", "http://127.0.0.1", "https://localhost:8000"]
FOREIGN += [
    "http://localhost.attacker.example",
    "localhost",
    "file://",
    "http://localhost@attacker.example",
    "http://papers.example:1",
]


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_pages_of_other_sites_are_refused(beyond: TestClient, origin: str, method: str) -> None:
    json = SEARCH if method == "POST" else None
    answer = beyond.request(method, "/search?q=a", json=json, headers={"Origin": origin, "Sec-Fetch-Mode": "cors"})
    check_refused(answer, 403)
    assert answer.headers["connection"] == "close"
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "origin", ["http://localhost", "https://LOCALHOST", "http://papers.example", "https://papers.example"]
)
def test_our_own_pages_are_not(beyond: TestClient, origin: str) -> None:
    answer = beyond.post("/search", json=SEARCH, headers={"Origin": origin, "Sec-Fetch-Site": "same-origin"})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_the_port_is_part_of_an_origin(beyond: TestClient) -> None:
    headers = {"Host": "localhost:8000", "Origin": "http://localhost:8000"}
    assert beyond.post("/search", json=SEARCH, headers=headers).status_code == 200
    check_refused(beyond.post("/search", json=SEARCH, headers=headers | {"Origin": "http://localhost"}), 403)


def test_two_origins_are_not_better_than_one(beyond: TestClient) -> None:
    headers = [("Origin", "http://localhost"), ("Origin", "http://attacker.example")]
    check_refused(beyond.get("/search?q=a", headers=headers), 403)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "zq9mark", ""])
def test_another_site_may_link_here_and_do_nothing_else(here: TestClient, site: str) -> None:
    followed = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert here.get("/?q=finding3", headers=followed).status_code == 200
    for other in (
        {"Sec-Fetch-Dest": "iframe"},
        {"Sec-Fetch-Dest": "image", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Dest": "empty", "Sec-Fetch-Mode": "cors"},
    ):
        assert here.get("/?q=finding3", headers=followed | other).status_code == 403
    check_refused(here.post("/search", json=SEARCH, headers=followed), 403)


@pytest.mark.parametrize("site", ["none", "same-origin"])
def test_who_types_the_address_or_stays_here_is_let_in(here: TestClient, site: str) -> None:
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
    assert here.get("/search?q=finding3", headers=headers).status_code == 200


def test_other_sites_cannot_embed_what_comes_back(here: TestClient) -> None:
    for path in ("/search?q=finding3", "/", "/static/style.css", "/healthz", "/nope"):
        assert here.get(path).headers["cross-origin-resource-policy"] == "same-origin"


# Clients


@pytest.mark.parametrize(
    ("host", "client", "loopback"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.9.9.9", "127.9.9.9", True),
        ("::1", "::/64", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("::ffff:192.0.2.7", "192.0.2.7", False),
        ("192.0.2.7", "192.0.2.7", False),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", False),
        ("fe80::1%eth0", "fe80::/64", False),
        ("localhost", "localhost", True),
        ("testclient", "testclient", False),
        ("", "", False),
    ],
)
def test_who_counts_as_one_client(host: str, client: str, loopback: bool) -> None:
    assert (client_of(host), is_loopback(host)) == (client, loopback)


# Too long an address, too many fields


def test_an_address_has_a_limit(index: Path) -> None:
    with service(index, limits=Limits(address_bytes=100)) as client:
        assert client.get("/search?q=" + "a" * 91).status_code == 200  # with path and question 100, without the mark
        answer = client.get("/search?q=" + "a" * 92)
        check_refused(answer, 414)
        assert answer.headers["connection"] == "close"


def test_a_head_has_a_limit(index: Path) -> None:
    with service(index, limits=Limits(header_fields=20, header_bytes=1_000)) as client:
        assert client.get("/healthz", headers={"X-A": "a" * 700}).status_code == 200
        for headers in ({"X-A": "a" * 1_000}, {f"X-{number}": "" for number in range(20)}):
            answer = client.get("/healthz", headers=headers)
            check_refused(answer, 431)
            assert answer.headers["connection"] == "close"
