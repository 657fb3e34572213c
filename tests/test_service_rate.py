"""How often one client may ask, counted by hand and against a bucket that is kept in the plainest way."""

from pathlib import Path

import pytest
from conftest import make_paper
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from test_service import publish, service
from test_service_hostile import check_refused

from semsearch.service import Limits, rate
from semsearch.service.rate import RateLimit


class Clock:
    """Says what time it is told."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_worth_at_once_and_then_one_by_one() -> None:
    clock = Clock()
    limit = RateLimit(3, clock)
    assert [limit.wait("a") for _ in range(5)] == pytest.approx([0, 0, 0, 20, 20])
    clock.now += 19
    assert limit.wait("a") == pytest.approx(1)
    clock.now += 1
    assert [limit.wait("a"), limit.wait("a")] == pytest.approx([0, 20])
    clock.now += 3_600  # an hour's quiet is worth no more than a minute's
    assert [limit.wait("a") for _ in range(4)] == pytest.approx([0, 0, 0, 20])


def test_clients_do_not_pay_for_each_other() -> None:
    limit = RateLimit(1, Clock())
    assert [limit.wait("a"), limit.wait("b"), limit.wait("a"), limit.wait("b")] == pytest.approx([0, 0, 60, 60])


def test_the_longest_quiet_client_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate, "MAX_CLIENTS", 2)
    limit = RateLimit(2, Clock())
    waits = [limit.wait(client) for client in ("a", "b", "a", "c", "a")]
    assert waits == pytest.approx([0, 0, 0, 0, 30])  # c took the place of b, which asked before a did again
    assert [limit.wait("b"), limit.wait("b"), limit.wait("b")] == pytest.approx([0, 0, 30])


@given(
    per_minute=st.integers(1, 100),
    pauses=st.lists(st.floats(0, 90, allow_nan=False), min_size=1, max_size=60),
)
def test_it_is_a_token_bucket(per_minute: int, pauses: list[float]) -> None:
    clock = Clock()
    limit, tokens = RateLimit(per_minute, clock), float(per_minute)
    for pause in pauses:
        clock.now += pause
        tokens = min(float(per_minute), tokens + pause * per_minute / 60)
        wait = limit.wait("a")
        if abs(tokens - 1) > 1e-6:  # else rounding decides
            assert (wait == 0.0) == (tokens > 1)
        if wait:
            assert wait == pytest.approx((1 - tokens) * 60 / per_minute, abs=1e-6)
        else:
            tokens -= 1


@pytest.fixture
def index(tmp_path: Path) -> Path:
    publish(tmp_path, [make_paper(number) for number in range(1, 6)])
    return tmp_path


def test_who_asks_too_often_is_told_when_to_come_back(index: Path) -> None:
    with service(index, limits=Limits(requests_per_minute=3)) as client:
        statuses = [client.get(path).status_code for path in ("/search?q=a", "/", "/nope", "/search?q=a")]
        assert statuses == [200, 200, 404, 429]
        for headers in (
            {},
            {"X-Forwarded-For": "192.0.2.1"},
            {"Forwarded": "for=192.0.2.2"},
            {"X-Real-IP": "192.0.2.3"},
        ):
            answer = client.get("/search?q=zq9mark", headers=headers)
            check_refused(answer, 429)
            assert 15 <= int(answer.headers["retry-after"]) <= 20
            assert answer.headers["connection"] == "close"
        for path in ("/healthz", "/readyz", "/static/style.css"):
            assert client.get(path).status_code == 200
        other = TestClient(client.app, client=("192.0.2.9", 1))
        assert other.get("/search?q=a").status_code == 200


def test_strangers_are_limited_by_default_and_the_owner_is_not() -> None:
    assert [Limits.of(host).requests_per_minute for host in ("127.0.0.1", "::1", "localhost")] == [0, 0, 0]
    assert [Limits.of(host).requests_per_minute for host in ("0.0.0.0", "::", "192.0.2.1", "box")] == [60, 60, 60, 60]
    assert [Limits.of("0.0.0.0", given).requests_per_minute for given in (0, 5)] == [0, 5]
