"""What is measured agrees with what happened, and is told only to whom it may be."""

import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import FakeEncoder, make_paper
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from test_service import NOT_FOUND, eventually, fake_app, publish, refusal, service

from semsearch.service import Limits
from semsearch.stages import STAGES


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("metrics") / "index"
    publish(path, [make_paper(number) for number in range(1, 21)])
    return path


@pytest.fixture
def client(index: Path) -> Iterator[TestClient]:
    with service(index) as client:
        yield client


def measured(client: TestClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return every sample that a client on this machine reads, by name and labels."""
    answer = TestClient(client.app, client=("127.0.0.1", 1)).get("/metrics")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(client: TestClient, name: str, **labels: str) -> float:
    return measured(client).get((name, frozenset(labels.items())), 0.0)


def test_requests_are_counted_by_route_and_status(client: TestClient) -> None:
    for path in ("/search?q=a", "/search?q=b", "/search", "/papers/p5", "/papers/zq9mark", "/zq9mark", "/"):
        client.get(path)
    client.request("ZQ9MARK", "/search")
    counted = {
        (route, status): value(client, "semsearch_request_seconds_count", route=route, status=status)
        for route, status in [
            ("/search", "200"),
            ("/search", "422"),
            ("/papers/{paper_id:path}", "200"),
            ("/papers/{paper_id:path}", "404"),
            ("none", "404"),
            ("/", "200"),
            ("/search", "500"),
        ]
    }
    assert list(counted.values()) == [2, 1, 1, 1, 1, 1, 0]
    assert "zq9mark" not in str(measured(client)).lower()


def test_stages_are_timed(client: TestClient) -> None:
    before = measured(client)
    assert all(before[("semsearch_stage_seconds_count", frozenset({("stage", stage)}))] == 0 for stage in STAGES)
    client.get("/search?q=subject3&facets=1")
    client.get("/search?q=subject3&mode=lexical")
    counts = {stage: value(client, "semsearch_stage_seconds_count", stage=stage) for stage in STAGES}
    assert counts == {"encode": 1, "filter": 2, "scan": 1, "lexical": 2, "fuse": 2, "explain": 2, "facets": 1}
    assert value(client, "semsearch_stage_seconds_bucket", stage="scan", le="+Inf") == 1
    assert all(value(client, "semsearch_stage_requests", stage=stage) == 0 for stage in STAGES)


def test_the_index_is_described(tmp_path: Path) -> None:
    with service(tmp_path / "none", ready=False) as client:
        assert value(client, "semsearch_ready") == 0
        assert not [name for name, _ in measured(client) if name == "semsearch_generation"]
        publish(tmp_path / "none", [make_paper(number) for number in range(1, 4)])
        eventually(lambda: value(client, "semsearch_ready"))
        publish(tmp_path / "none", [make_paper(1, words="another text")])
        eventually(lambda: value(client, "semsearch_generation") == 2)
        names = ("segments", "papers", "rows", "degraded")
        found = {name: value(client, f"semsearch_{name}") for name in names}
        stats = client.get("/stats").json()
    assert found == {name: stats.get(name, 0) for name in names}
    assert found["papers"] == 3


class PausingEncoder(FakeEncoder):
    """Encodes when it is let."""

    may_go_on = threading.Event()

    def encode_queries(self, queries: Sequence[str]) -> NDArray[Any]:
        assert self.may_go_on.wait(20)
        return super().encode_queries(queries)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> type[PausingEncoder]:
    monkeypatch.setattr(PausingEncoder, "may_go_on", threading.Event())
    return PausingEncoder


def test_who_waits_for_the_encoder_is_seen(index: Path, encoder: type[PausingEncoder]) -> None:
    with service(index, load_encoder=lambda model, device: encoder(model.spec)) as client:
        askers = [threading.Thread(target=client.get, args=(f"/search?q={number}",)) for number in range(3)]
        for asker in askers:
            asker.start()
        eventually(lambda: value(client, "semsearch_stage_requests", stage="encode") == 3)
        assert value(client, "semsearch_requests_at_work") == 3
        encoder.may_go_on.set()
        for asker in askers:
            asker.join()
        assert value(client, "semsearch_stage_requests", stage="encode") == 0
        assert value(client, "semsearch_requests_at_work") == 0


def test_a_request_whose_time_is_over_is_given_up(index: Path, encoder: type[PausingEncoder]) -> None:
    limits = Limits(answer_seconds=0.05)
    with service(index, limits=limits, load_encoder=lambda model, device: encoder(model.spec)) as client:
        threading.Timer(0.2, encoder.may_go_on.set).start()
        answer = client.get("/search?q=a")
        msg = "this took too long; ask again when there is less to do, or narrow it down by a filter"
        assert (answer.status_code, answer.json()) == (504, refusal("took_too_long", msg))
        assert value(client, "semsearch_stage_seconds_count", stage="encode") == 1
        assert value(client, "semsearch_stage_seconds_count", stage="scan") == 0
        assert value(client, "semsearch_request_seconds_count", route="/search", status="504") == 1
        assert client.get("/search?q=a").status_code == 200
        encoder.may_go_on.clear()
        threading.Timer(0.2, encoder.may_go_on.set).start()
        page = client.get("/?q=a")
        assert page.status_code == 504
        assert "This took too long" in page.text


def test_apps_do_not_share_what_they_count(index: Path) -> None:
    with service(index) as one, service(index) as other:
        one.get("/search?q=a")
        assert value(one, "semsearch_stage_seconds_count", stage="scan") == 1
        assert value(other, "semsearch_stage_seconds_count", stage="scan") == 0


@pytest.mark.parametrize(
    ("readers", "client", "header", "status"),
    [
        ("local", "127.0.0.1", None, 200),
        ("local", "::1", None, 200),
        ("local", "192.0.2.1", None, 404),
        ("local", "127.0.0.1", "X-Forwarded-For", 404),
        ("local", "127.0.0.1", "Forwarded", 404),
        ("local", "127.0.0.1", "X-Real-IP", 404),
        ("local", "127.0.0.1", "Via", 404),
        ("local", "192.0.2.1", "X-Forwarded-For", 404),
        ("all", "192.0.2.1", "X-Forwarded-For", 200),
        ("none", "127.0.0.1", None, 404),
    ],
)
def test_metrics_are_told_to_whom_they_may_be(
    index: Path, readers: str, client: str, header: str | None, status: int
) -> None:
    headers = {header: "127.0.0.1"} if header else {}
    answer = TestClient(fake_app(index, metrics_for=readers), client=(client, 1)).get("/metrics", headers=headers)
    assert answer.status_code == status
    if status == 404:
        assert answer.json() == NOT_FOUND


def test_every_metric_is_explained(client: TestClient) -> None:
    client.get("/search?q=a")
    page = (Path(__file__).parents[1] / "docs" / "deploying.md").read_text(encoding="utf-8")
    parts = ("_bucket", "_count", "_sum", "_created")
    ours = {name for name, _ in measured(client) if name.startswith("semsearch_")}
    for part in parts:
        ours = {name.removesuffix(part) for name in ours}
    assert set(re.findall(r"`(semsearch_[a-z_]+)`", page)) == ours - {"semsearch_connections_cut"}


def test_metrics_take_no_parameters(client: TestClient) -> None:
    assert TestClient(client.app, client=("127.0.0.1", 1)).get("/metrics?a=b").status_code == 422
