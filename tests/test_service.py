import json
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
from conftest import FakeEncoder, make_paper, passage_vectors
from fastapi import FastAPI
from numpy.typing import NDArray
from pydantic import BaseModel
from starlette.testclient import TestClient

from semsearch import __version__
from semsearch.durable import exclusive_lock
from semsearch.encoders import Encoder, EncoderSpec, ModelFolder
from semsearch.envelope import answer_envelope
from semsearch.generation import IndexFolder
from semsearch.library import Embedding, Library, text_digest
from semsearch.papers import Paper
from semsearch.publishing import publish_pending
from semsearch.ranking import MODES, Mode
from semsearch.search import Page, Searcher
from semsearch.service import Hosts, Limits, create_app, make_server
from semsearch.service.answers import (
    BatchAnswer,
    ErrorView,
    HealthView,
    PaperView,
    ReadyView,
    SearchAnswer,
    StatsView,
)

SPEC = EncoderSpec("fake", "f" * 64, 64, 256)
OTHER_SPEC = EncoderSpec("other", "e" * 64, 32, 256)
UI_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
TRANSFORMER = make_paper(
    1,
    paper_id="arxiv:1706.03762",
    title="Attention Is All You Need",
    words="translation with attention instead of recurrence",
    authors=("Ashish Vaswani", "Noam Shazeer"),
    published="2017-06-12",
    venue="NeurIPS",
    url="https://arxiv.org/abs/1706.03762",
)
DEEP = make_paper(2, paper_id="doi:10.1038/nature14539", title="Deep learning", words="layers of learned features")
PAPERS = [TRANSFORMER, DEEP, *(make_paper(number) for number in range(3, 31))]


def find_fake(name: str, networks: Path) -> ModelFolder:
    return ModelFolder(Path("nowhere"), {"fake": SPEC, "other": OTHER_SPEC}.get(name, SPEC), "", "")


def load_fake(model: ModelFolder, device: str | None = None) -> Encoder:
    return FakeEncoder(model.spec, device)


def add(index: Path, papers: Sequence[Paper], spec: EncoderSpec = SPEC) -> None:
    """Commit the papers to the library without publishing them, as a reindex that was killed does."""
    encoder = FakeEncoder(spec)
    vectors = passage_vectors(encoder, [paper.text for paper in papers])
    embeddings = [Embedding(text_digest(paper.text), vector, 9) for paper, vector in zip(papers, vectors, strict=True)]
    with Library.create(IndexFolder(index).library) as library:
        library.add_versions("test", papers, embeddings, library.encoder_number(spec.fingerprint, spec.name))


def publish(index: Path, papers: Sequence[Paper] = (), spec: EncoderSpec = SPEC) -> int:
    """Commit the papers, publish all that the library holds, and return the generation's number."""
    if papers:
        add(index, papers, spec)
    with Library.open(IndexFolder(index).library) as library:
        return publish_pending(IndexFolder(index), library, spec).manifest.generation


def eventually(check: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.01)


def state(client: TestClient) -> tuple[int, str]:
    """Return the status and the reason that /readyz gives."""
    answer = client.get("/readyz")
    return answer.status_code, answer.json().get("reason") or answer.json()["error"]


def fake_app(index: Path, **options: Any) -> FastAPI:
    defaults: dict[str, Any] = {
        "hosts": Hosts(frozenset({"testserver", "x"})),
        "find_model": find_fake,
        "load_encoder": load_fake,
        "poll_seconds": 0.02,
    }
    return create_app(index, **defaults | options)


@contextmanager
def service(index: Path, *, ready: bool = True, **options: Any) -> Iterator[TestClient]:
    with TestClient(fake_app(index, **options)) as client:
        if ready:
            eventually(lambda: state(client)[0] == 200)
        yield client


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("service") / "index"
    publish(path, PAPERS)
    return path


@pytest.fixture(scope="module")
def client(index: Path) -> Iterator[TestClient]:
    with service(index) as client:
        yield client


def body_of(answer: Any) -> dict[str, Any]:
    """Return the body without the time it took."""
    body: dict[str, Any] = answer.json()
    assert answer.status_code == 200, body
    assert body["meta"].pop("took_ms") >= 0
    return body


def refusal(error: str, msg: str, *loc: str | int, kind: str | None = None) -> dict[str, Any]:
    return {"error": error, "detail": [{"loc": list(loc), "type": kind or error, "msg": msg}]}


NOT_FOUND = refusal(
    "not_found", "there is no such page or paper; paper ids look like arxiv:1706.03762 or doi:10.1000/xyz"
)
NOT_READY = refusal("not_ready", "the index is being opened; ask again in a moment")


# Questions


def test_a_search_answers_with_the_whole_envelope(client: TestClient) -> None:
    body = body_of(client.get("/search", params={"q": DEEP.text, "limit": 1, "mode": "dense"}))
    assert re.fullmatch("[A-Za-z0-9_-]{24}", body["meta"].pop("next_cursor"))
    assert body == {
        "meta": {
            "total": 30,
            "total_is_exact": True,
            "mode": "dense",
            "collapse": "work",
            "generation": 1,
            "model": "fake",
            "approximate": False,
            "recall_at_10": 1.0,
            "weak": None,
            "limit": 1,
            "offset": 0,
            "next_offset": 1,
        },
        "results": [
            {
                "rank": 1,
                "score": 1.0,
                "paper": {
                    "id": "doi:10.1038/nature14539",
                    "title": "Deep learning",
                    "abstract": "layers of learned features",
                    "authors": [],
                    "published": None,
                    "year": None,
                    "categories": [],
                    "venue": None,
                    "url": None,
                    "doi": "10.1038/nature14539",
                    "source": None,
                    "popularity": None,
                    "extra": {},
                },
                "evidence": {
                    "sentence": {"start": 0, "end": 26, "text": "layers of learned features"},
                    "terms": ["learning", "Deep", "features", "layers", "of"],
                    "dense": {"rank": 1, "cosine": 1.0},
                    "lexical": None,
                },
                "versions": [],
            }
        ],
    }


@pytest.mark.parametrize("mode", MODES)
def test_a_search_is_the_searchers_answer(client: TestClient, index: Path, mode: Mode) -> None:
    page = Page(7, 5, facet_values=2)
    with Library.open(IndexFolder(index).library) as library:
        searcher = Searcher(library, client.app.state.live.searcher.generation, FakeEncoder(SPEC))  # type: ignore[attr-defined]
        expected = answer_envelope(searcher.search("subject3 finding4", page, mode), page)
    body = body_of(client.get(f"/search?q=subject3+finding4&limit=7&offset=5&facets=2&mode={mode}"))
    assert body["meta"]["mode"] == mode
    for meta in (expected["meta"], body["meta"]):
        meta["took_ms"] = meta["next_cursor"] = None
    assert body == expected


def test_every_way_to_ask_gives_the_same_answer(client: TestClient) -> None:
    asked = body_of(client.get("/search?q=subject3+finding4"))
    everything: dict[str, Any] = {
        "query": "subject3 finding4",
        "limit": 10,
        "offset": 0,
        "mode": "hybrid",
        "collapse": "work",
        "facets": 0,
    }
    assert body_of(client.get("/search", params=everything)) == asked
    assert body_of(client.post("/search", json={"q": "subject3 finding4"})) == asked
    assert body_of(client.post("/search", json=everything)) == asked


def test_a_question_that_names_no_subject_is_searched_by_words(client: TestClient) -> None:
    body = body_of(client.get("/search?q=author:vaswani&mode=dense"))
    assert body["meta"]["mode"] == "lexical"
    assert [result["paper"]["id"] for result in body["results"]] == ["arxiv:1706.03762"]


def test_following_next_offset_finds_every_paper_once(client: TestClient) -> None:
    ids: list[str] = []
    offset: int | None = 0
    while offset is not None:
        body = body_of(client.get("/search", params={"q": "subject3", "limit": 7, "offset": offset}))
        assert [result["rank"] for result in body["results"]] == list(
            range(offset + 1, offset + 1 + len(body["results"]))
        )
        ids += [result["paper"]["id"] for result in body["results"]]
        offset = body["meta"]["next_offset"]
    assert sorted(ids) == sorted(paper.paper_id for paper in PAPERS)


def test_the_last_page_of_the_window_may_be_asked_for(client: TestClient) -> None:
    assert body_of(client.get("/search?q=a&limit=100&offset=900"))["results"] == []


@pytest.mark.parametrize(
    "spelling",
    ["doi:10.1038/nature14539", "10.1038/NATURE14539", "DOI:10.1038/nature14539", "doi%3A10.1038%2Fnature14539"],
)
def test_a_paper_is_found_by_any_spelling_of_its_id(client: TestClient, spelling: str) -> None:
    answer = client.get(f"/papers/{spelling}")
    assert answer.status_code == 200
    assert (answer.json()["id"], answer.json()["title"]) == ("doi:10.1038/nature14539", "Deep learning")


def test_related_papers_leave_out_the_paper_itself(client: TestClient) -> None:
    body = body_of(client.get("/papers/10.1038/nature14539/related?limit=100"))
    found = [result["paper"]["id"] for result in body["results"]]
    assert body["meta"]["total"] == 29
    assert sorted(found) == sorted(paper.paper_id for paper in PAPERS if paper is not DEEP)


def test_one_paper_and_a_list_of_one_have_the_same_neighbours(client: TestClient) -> None:
    one = body_of(client.get("/papers/p5/related?limit=3"))
    assert body_of(client.post("/related", json={"ids": ["p5"], "limit": 3})) == one
    several = body_of(client.post("/related", json={"ids": ["p5", "p12"], "limit": 100}))
    assert not {"p5", "p12"} & {result["paper"]["id"] for result in several["results"]}


def test_recommended_papers_are_those_between(client: TestClient) -> None:
    liked = body_of(client.post("/recommend", json={"positive": ["p5", "p12"], "limit": 5}))
    assert liked == body_of(client.post("/related", json={"ids": ["p5", "p12"], "limit": 5}))
    asked = {"positive": ["p5"], "negative": ["p12"], "limit": 100}
    away = body_of(client.post("/recommend", json=asked))
    assert away != body_of(client.post("/recommend", json={"positive": ["p5"], "limit": 100}))
    assert away["meta"]["total"] == 28
    assert not {"p5", "p12"} & {result["paper"]["id"] for result in away["results"]}
    as_elsewhere = {"positivePaperIds": ["p5"], "negativePaperIds": ["p12"], "limit": 100}
    assert body_of(client.post("/recommend", json=as_elsewhere)) == away


def test_several_papers_at_once_come_in_the_order_of_their_ids(client: TestClient) -> None:
    answer = client.post("/papers/batch", json={"ids": ["p5", "p999", "10.1038/NATURE14539", "p5", " "]})
    assert answer.status_code == 200
    papers = answer.json()["papers"]
    assert [paper and paper["id"] for paper in papers] == ["p5", None, "doi:10.1038/nature14539", "p5", None]
    assert papers[0] == client.get("/papers/p5").json()


def test_a_pasted_paper_finds_itself_first(client: TestClient) -> None:
    pasted = {"title": TRANSFORMER.title, "abstract": TRANSFORMER.abstract, "limit": 1}
    body = body_of(client.post("/related", json=pasted))
    (first,) = body["results"]
    assert (first["paper"]["id"], body["meta"]["mode"]) == ("arxiv:1706.03762", "hybrid")
    assert first["evidence"]["dense"] == {"rank": 1, "cosine": 1.0}
    assert first["evidence"]["lexical"]["rank"] == 1
    assert first["evidence"]["sentence"]["text"] == TRANSFORMER.abstract


@pytest.mark.parametrize(
    "path", ["/papers/arxiv:2401.99999", "/papers/nope/related", "/papers/", "/nope", "/admin/reindex"]
)
def test_what_is_not_there_gets_one_and_the_same_answer(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()) == (404, NOT_FOUND)


def test_an_unknown_seed_is_not_found(client: TestClient) -> None:
    answer = client.post("/related", json={"ids": ["p5", "p999"]})
    assert (answer.status_code, answer.json()) == (404, NOT_FOUND)


def test_seeds_that_cancel_out_are_refused(tmp_path: Path) -> None:
    papers = [make_paper(1), make_paper(2)]
    vector = passage_vectors(FakeEncoder(SPEC), ["word"])[0]
    embeddings = [Embedding(text_digest(papers[0].text), vector, 9), Embedding(text_digest(papers[1].text), -vector, 9)]
    with Library.create(IndexFolder(tmp_path).library) as library:
        library.add_versions("test", papers, embeddings, library.encoder_number(SPEC.fingerprint, SPEC.name))
    publish(tmp_path)
    with service(tmp_path) as client:
        answer = client.post("/related", json={"ids": ["p1", "p2"]})
    msg = "there is nothing between these papers; leave some of them out"
    assert (answer.status_code, answer.json()) == (422, refusal("invalid", msg, "body"))


def test_stats_tell_what_is_served(client: TestClient) -> None:
    stats = client.get("/stats").json()
    assert stats.pop("created_at").startswith("20")
    assert stats == {
        "version": __version__,
        "status": "ready",
        "generation": 1,
        "papers": 30,
        "rows": 30,
        "segments": 1,
        "model": "fake",
        "dimension": 64,
        "max_tokens": 256,
        "approximate": False,
        "recall_at_10": 1.0,
    }


def test_health_and_readiness(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    ready = {"status": "ready", "reason": "none", "msg": "the service is ready", "generation": 1}
    assert client.get("/readyz").json() == ready


def test_every_answer_has_its_own_request_id_and_no_server_name(client: TestClient) -> None:
    answers = [client.get(path) for path in ("/search?q=a", "/search", "/nope", "/", "/static/style.css", "/healthz")]
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers


def test_the_description_of_the_api_covers_every_route_and_status(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    operations = {
        (method, path): operation
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    }
    assert set(operations) == {
        ("get", "/search"),
        ("post", "/search"),
        ("get", "/papers/{paper_id}"),
        ("get", "/papers/{paper_id}/related"),
        ("post", "/papers/batch"),
        ("post", "/related"),
        ("post", "/recommend"),
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("get", "/stats"),
    }
    for (_, path), operation in operations.items():
        assert operation["summary"]
        assert operation["description"]
        by_id = "{paper_id}" in path or path in ("/related", "/recommend")
        ranks = path.endswith("/related") or path in ("/search", "/recommend")
        anywhere = {400, 403, 408, 413, 414, 415, 421, 422, 429, 431, 503, 504}
        statuses = {"200", *map(str, anywhere)} | ({"404"} if by_id else set())
        assert set(operation["responses"]) == statuses | ({"410"} if ranks else set())
    assert client.get("/docs").status_code == client.get("/redoc").status_code == 404


def test_answers_are_as_described(client: TestClient) -> None:
    """The models only describe; a field too few or too many would show here."""
    models: dict[str, type[BaseModel]] = {
        "/search?q=a": SearchAnswer,
        "/search?q=finding5+features&facets=2": SearchAnswer,
        "/search?q=finding5+features&mode=lexical": SearchAnswer,
        "/papers/p5/related": SearchAnswer,
        "/papers/p5": PaperView,
        "/healthz": HealthView,
        "/readyz": ReadyView,
        "/stats": StatsView,
        "/nope": ErrorView,
    }
    for path, model in models.items():
        answer = client.get(path).json()
        assert json.loads(model.model_validate(answer, strict=True).model_dump_json(exclude_unset=True)) == answer
    batch = client.post("/papers/batch", json={"ids": ["p5", "p999"]}).json()
    assert json.loads(BatchAnswer.model_validate(batch, strict=True).model_dump_json()) == batch


# The index beneath the service


class SlowLoader:
    """Loads an encoder only when it is let."""

    def __init__(self) -> None:
        self.may_load = threading.Event()

    def __call__(self, model: ModelFolder, device: str | None = None) -> Encoder:
        assert self.may_load.wait(20)
        return load_fake(model, device)


def test_the_port_answers_while_the_index_is_being_opened(index: Path) -> None:
    loader = SlowLoader()
    with service(index, ready=False, load_encoder=loader) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        for path in ("/readyz", "/search?q=a", "/papers/p5", "/papers/p5/related", "/stats"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()) == (503, NOT_READY)
            assert answer.headers["retry-after"] == "2"
        assert client.post("/search", json={"q": "a"}).json() == NOT_READY
        assert "The index is being opened" in client.get("/").text
        page = client.get("/?q=a")
        assert (page.status_code, page.headers["retry-after"]) == (503, "2")
        loader.may_load.set()
        eventually(lambda: state(client) == (200, "none"))
        assert client.get("/search?q=a").status_code == 200


def test_an_index_that_comes_later_is_found(tmp_path: Path) -> None:
    with service(tmp_path / "later", ready=False) as client:
        eventually(lambda: state(client) == (503, "no_index"))
        msg = "there is no index yet; whoever runs the service makes one with: semsearch index FILE"
        answer = client.get("/search?q=a")
        assert (answer.status_code, answer.json()) == (503, refusal("no_index", msg))
        assert not (tmp_path / "later").exists()
        publish(tmp_path / "later", PAPERS[:3])
        eventually(lambda: state(client) == (200, "none"))


def test_a_new_generation_is_swapped_in_under_load(tmp_path: Path) -> None:
    publish(tmp_path, PAPERS[:10])
    with service(tmp_path) as client:
        seen: set[tuple[int, int]] = set()
        failures: list[int] = []
        done = threading.Event()

        def ask() -> None:
            while not done.is_set():
                answer = client.get("/search?q=subject3&limit=100")
                if answer.status_code != 200:
                    failures.append(answer.status_code)
                    return
                meta = answer.json()["meta"]
                assert len(answer.json()["results"]) == meta["total"]
                seen.add((meta["generation"], meta["total"]))

        askers = [threading.Thread(target=ask) for _ in range(3)]
        for asker in askers:
            asker.start()
        for number in range(10, 15):
            generation = publish(tmp_path, [PAPERS[number]])
            eventually(lambda: client.get("/stats").json()["generation"] == generation)  # noqa: B023
        done.set()
        for asker in askers:
            asker.join()
    assert failures == []
    assert seen <= {(number, 9 + number) for number in range(1, 7)}  # each answer is of one generation
    assert len(seen) > 1


def test_a_request_keeps_the_searcher_that_it_began_with(tmp_path: Path) -> None:
    publish(tmp_path, PAPERS[:5])
    entered, may_go_on = threading.Event(), threading.Event()

    class PausingEncoder(FakeEncoder):
        def encode_queries(self, queries: Sequence[str]) -> NDArray[Any]:
            if queries == ["wait"]:
                entered.set()
                assert may_go_on.wait(20)
            return super().encode_queries(queries)

    with service(tmp_path, load_encoder=lambda model, device: PausingEncoder(model.spec)) as client:
        answers: list[Any] = []
        asker = threading.Thread(target=lambda: answers.append(client.get("/search?q=wait&limit=100")))
        asker.start()
        assert entered.wait(20)
        publish(tmp_path, PAPERS[5:8])
        eventually(lambda: client.get("/stats").json()["generation"] == 2)
        may_go_on.set()
        asker.join()
    assert (answers[0].json()["meta"]["generation"], answers[0].json()["meta"]["total"]) == (1, 5)


def damage(index: Path, generation: int) -> None:
    for file in IndexFolder(index).generation(generation).glob("segments/*/vectors.faiss"):
        data = bytearray(file.read_bytes())
        data[-5] ^= 1
        file.unlink()  # the parent's file may be the same one
        file.write_bytes(data)


def test_a_damaged_new_generation_does_not_take_down_the_old_one(tmp_path: Path) -> None:
    publish(tmp_path, PAPERS[:10])
    folder = IndexFolder(tmp_path)
    first = folder.current.read_bytes()
    publish(tmp_path, PAPERS[10:12])
    second = folder.current.read_bytes()
    folder.current.write_bytes(first)
    damage(tmp_path, 2)
    with exclusive_lock(folder.reindex_lock, "test"):  # so that nothing is repaired yet
        old = service(tmp_path)
        client = old.__enter__()
        before = body_of(client.get("/search?q=subject3"))
        assert before["meta"]["generation"] == 1
        folder.current.write_bytes(second)
        eventually(lambda: state(client) == (200, "older_generation"))
        assert body_of(client.get("/search?q=subject3")) == before
        assert client.get("/stats").json()["status"] == "degraded"
        assert "an older one is served" in client.get("/").text
    eventually(lambda: state(client) == (200, "none"))  # made again from the library
    stats = client.get("/stats").json()
    assert (stats["generation"], stats["papers"]) == (3, 12)
    old.__exit__(None, None, None)


def test_what_was_left_unpublished_is_published_at_start(tmp_path: Path) -> None:
    publish(tmp_path, PAPERS[:10])
    add(tmp_path, PAPERS[10:12])
    with service(tmp_path) as client:
        stats = client.get("/stats").json()
    assert (stats["generation"], stats["papers"], stats["status"]) == (2, 12, "ready")


def test_a_running_reindex_is_left_alone_until_it_ends(tmp_path: Path) -> None:
    publish(tmp_path, PAPERS[:10])
    add(tmp_path, PAPERS[10:12])
    with exclusive_lock(IndexFolder(tmp_path).reindex_lock, "test"):
        service_of_10 = service(tmp_path)
        client = service_of_10.__enter__()
        assert client.get("/stats").json()["papers"] == 10
        assert state(client) == (200, "none")
    eventually(lambda: client.get("/stats").json()["papers"] == 12)
    service_of_10.__exit__(None, None, None)


def test_without_a_sound_generation_the_library_makes_one(tmp_path: Path) -> None:
    publish(tmp_path, PAPERS[:10])
    damage(tmp_path, 1)
    with service(tmp_path) as client:
        stats = client.get("/stats").json()
    assert (stats["generation"], stats["papers"], stats["status"]) == (2, 10, "ready")


def test_a_damaged_library_that_cannot_make_one_says_so(tmp_path: Path) -> None:
    publish(tmp_path, PAPERS[:10])
    damage(tmp_path, 1)
    spoil(tmp_path, "p5")
    with service(tmp_path, ready=False) as client:
        eventually(lambda: state(client) == (503, "damaged"))
        assert client.get("/healthz").status_code == 200


def spoil(index: Path, paper_id: str) -> None:
    with sqlite3.connect(IndexFolder(index).library) as connection:
        changed = "UPDATE changes SET content = replace(content, 'Paper', 'Pager') WHERE paper_id = ?"
        connection.execute(changed, (paper_id,))
    connection.close()


def test_a_damaged_row_is_never_shown(tmp_path: Path) -> None:
    publish(tmp_path, PAPERS[:10])
    spoil(tmp_path, "p5")
    msg = "stored data is damaged; whoever runs the service finds out more with: semsearch verify"
    with service(tmp_path) as client:
        for path in ("/papers/p5", "/search?q=finding5"):
            answer = client.get(path)
            assert (answer.status_code, answer.json()) == (503, refusal("damaged", msg))
        assert client.get("/papers/p6").status_code == 200
        assert client.get("/?q=finding5").status_code == 503


def test_changes_that_cannot_be_published_do_not_stop_the_rest(tmp_path: Path) -> None:
    publish(tmp_path, PAPERS[:10])
    add(tmp_path, PAPERS[10:12])
    spoil(tmp_path, "p11")
    with service(tmp_path) as client:
        assert state(client) == (200, "damaged")
        assert client.get("/stats").json()["papers"] == 10


def test_a_lost_current_file_is_made_again(tmp_path: Path) -> None:
    publish(tmp_path, PAPERS[:10])
    with service(tmp_path) as client:
        IndexFolder(tmp_path).current.unlink()
        eventually(IndexFolder(tmp_path).current.exists)
        eventually(lambda: client.get("/stats").json()["generation"] == 2)
        eventually(lambda: state(client) == (200, "none"))
        assert client.get("/stats").json()["papers"] == 10


def test_a_generation_of_another_library_is_not_served(tmp_path: Path) -> None:
    publish(tmp_path, PAPERS[:10])
    library = IndexFolder(tmp_path).library
    older = library.read_bytes()
    publish(tmp_path, PAPERS[10:12])
    library.write_bytes(older)
    with service(tmp_path, ready=False) as client:
        eventually(lambda: state(client) == (503, "damaged"))


def test_another_encoder_is_loaded_beside_the_old_one(tmp_path: Path) -> None:
    publish(tmp_path, PAPERS[:10])
    loaded: list[str] = []

    def load(model: ModelFolder, device: str | None) -> Encoder:
        loaded.append(model.spec.name)
        return load_fake(model, device)

    with service(tmp_path, load_encoder=load) as client:
        publish(tmp_path, [PAPERS[10]])
        eventually(lambda: client.get("/stats").json()["generation"] == 2)
        add(tmp_path, PAPERS[:11], OTHER_SPEC)
        publish(tmp_path, spec=OTHER_SPEC)
        eventually(lambda: client.get("/stats").json()["model"] == "other")
        assert client.get("/search?q=finding5").status_code == 200
    assert loaded == ["fake", "other"]


def test_an_encoder_that_is_not_the_indexs_is_not_used(tmp_path: Path) -> None:
    publish(tmp_path, PAPERS[:10])
    foreign = ModelFolder(Path("nowhere"), replace(SPEC, fingerprint="0" * 64), "", "")
    with service(tmp_path, ready=False, find_model=lambda name, networks: foreign) as client:
        eventually(lambda: state(client) == (503, "encoder"))


def test_a_bug_while_opening_is_survived(tmp_path: Path) -> None:
    publish(tmp_path, PAPERS[:10])
    calls: list[str] = []

    def load(model: ModelFolder, device: str | None) -> Encoder:
        calls.append(model.spec.name)
        if len(calls) == 1:
            raise ZeroDivisionError
        return load_fake(model, device)

    with service(tmp_path, ready=False, load_encoder=load) as client:
        eventually(lambda: state(client) == (200, "none"))
    assert len(calls) == 2


def test_an_index_that_is_made_anew_in_the_same_place_is_read_anew(tmp_path: Path) -> None:
    publish(tmp_path / "index", PAPERS[:5])
    with service(tmp_path / "index") as client:
        assert body_of(client.get("/search?q=attention"))["meta"]["total"] == 5
        (tmp_path / "index").rename(tmp_path / "gone")
        rmtree(tmp_path / "gone")
        publish(tmp_path / "index", PAPERS[20:26])
        eventually(lambda: client.get("/stats").json()["papers"] == 6)
        body = body_of(client.get("/search", params={"q": PAPERS[20].text, "limit": 100}))
        assert client.get("/papers/p5").status_code == 404
    found = [result["paper"]["id"] for result in body["results"]]
    assert found[0] == PAPERS[20].paper_id
    assert sorted(found) == sorted(paper.paper_id for paper in PAPERS[20:26])


def test_a_service_may_be_started_again(index: Path) -> None:
    app = fake_app(index)
    for _ in range(2):
        with TestClient(app) as client:
            eventually(lambda: state(client) == (200, "none"))
            assert client.get("/search?q=a").status_code == 200
    assert TestClient(app).get("/search?q=a").json() == NOT_READY


# Too much, too slow, our own faults


def test_too_many_requests_at_once_are_told_to_come_back(index: Path) -> None:
    entered, may_go_on = threading.Event(), threading.Event()

    class PausingEncoder(FakeEncoder):
        def encode_queries(self, queries: Sequence[str]) -> NDArray[Any]:
            entered.set()
            assert may_go_on.wait(20)
            return super().encode_queries(queries)

    limits = Limits(requests_at_once=1)
    with service(index, limits=limits, load_encoder=lambda model, device: PausingEncoder(model.spec)) as client:
        asker = threading.Thread(target=lambda: client.get("/search?q=a"))
        asker.start()
        assert entered.wait(20)
        answer = client.get("/search?q=b")
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        may_go_on.set()
        asker.join()
        assert client.get("/search?q=b").status_code == 200
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json() == refusal("busy", "too many requests at once; ask again in a second")


def test_a_bug_is_answered_for(index: Path, caplog: pytest.LogCaptureFixture) -> None:
    class BrokenEncoder(FakeEncoder):
        def encode_queries(self, queries: Sequence[str]) -> NDArray[Any]:
            raise ZeroDivisionError("a private detail")

    with service(index, load_encoder=lambda model, device: BrokenEncoder(model.spec)) as client:
        answer = client.get("/search?q=a")
        page = client.get("/?q=a")
    msg = "a fault in semsearch; please report it together with this answer's X-Request-ID"
    assert (answer.status_code, answer.json()) == (500, refusal("internal", msg))
    assert f"request {answer.headers['x-request-id']} ran into a bug" in caplog.text
    assert page.status_code == 500
    assert "Our fault" in page.text
    assert "private" not in page.text


# The page


class Outline(HTMLParser):
    """The tags of a page and their attributes, without the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def links(self) -> list[str]:
        return [value or "" for name, value in self.attributes if name in ("href", "src", "action")]


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/", 200, "Ask in plain words"),
        ("/?q=attention", 200, "Attention Is All You Need"),
        ("/?related=arxiv:1706.03762", 200, "Papers like"),
        ("/?title=Deep+learning&abstract=", 200, "Deep learning"),
        ("/?q=attention&offset=990", 200, "There are no more papers here."),
        ("/?related=p999", 404, "Not found"),
        ("/?q=", 422, "That cannot be searched"),
        ("/?q=a&related=p5", 422, "Ask one thing at a time"),
        ("/?q=a&offset=991", 422, "That cannot be searched"),
        ("/?utm_source=x", 422, "That cannot be searched"),
        ("/?q=how+do+they+grow&author=Ada&date_from=2021-13", 422, 'value="how do they grow"'),
        ("/?q=how+do+they+grow&author=Ada&date_from=2021-13", 422, 'value="Ada"'),
        ("/?q=a&date_from=2021&date_to=2020", 422, "To 2020-12-31 is before From 2021-01-01"),
        ("/?q=a&date_from=2021-13", 422, "as a filter by From; write for example From 2021, From 2021-03 or"),
        ("/?q=%3Cb%3E&year=x", 422, 'value="&lt;b&gt;"'),
        ("/?q=a&q=b", 400, "A query parameter is given twice"),
        ("/nope", 404, "Not found"),
    ],
)
def test_every_page_says_what_it_is_and_carries_the_headers(
    client: TestClient, path: str, status: int, words: str
) -> None:
    page = client.get(path, headers={"Accept": "text/html"})
    assert (page.status_code, page.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert words in page.text
    assert {name: page.headers[name] for name in UI_HEADERS} == UI_HEADERS
    outline = Outline(page.text)
    assert "script" not in outline.tags
    assert not [name for name, _ in outline.attributes if name.startswith("on") or name == "style"]
    assert {"header", "main", "footer", "label"} <= set(outline.tags)
    assert outline.tags.count("h1") == 1


def test_an_api_client_gets_json_where_there_is_nothing(client: TestClient) -> None:
    assert client.get("/nope").headers["content-type"] == "application/json"


def test_the_examples_of_the_empty_page_work(client: TestClient) -> None:
    examples = [link for link in Outline(client.get("/").text).links() if link.startswith("/?q=")]
    assert len(examples) == 3
    assert all(client.get(example).status_code == 200 for example in examples)


def test_a_result_shows_the_paper_and_leads_on(client: TestClient) -> None:
    html = client.get("/", params={"q": TRANSFORMER.text}).text
    for words in ("Ashish Vaswani, Noam Shazeer", "NeurIPS", "2017", "<mark>translation</mark> <mark>with</mark>"):
        assert words in html
    assert TRANSFORMER.abstract in re.sub("</?mark>", "", html)
    links = Outline(html).links()
    assert TRANSFORMER.url in links
    assert "/?related=arxiv%3A1706.03762" in links


def test_the_pages_lead_back_and_forth(client: TestClient) -> None:
    for asked in ("q=subject3", "related=p5", "title=Paper+5&abstract=finding5"):
        first = Outline(client.get(f"/?{asked}").text).links()
        (second_page,) = [link for link in first if link.startswith(f"/?{asked}&cursor=")]
        second = Outline(client.get(second_page).text).links()
        assert f"/?{asked}" in second
        (third_page,) = [link for link in second if link.startswith(f"/?{asked}&cursor=")]
        third = client.get(third_page).text
        assert re.search("21–(29|30) of (29|30) papers", third)
        assert [link for link in Outline(third).links() if "cursor=" in link] == [second_page]


def test_the_style_sheet_is_ours(client: TestClient) -> None:
    style = client.get("/static/style.css")
    assert (style.status_code, style.headers["content-type"]) == (200, "text/css; charset=utf-8")
    assert "prefers-color-scheme: dark" in style.text
    assert "url(" not in style.text
    assert "@import" not in style.text


# A real server


@contextmanager
def running(index: Path, **options: Any) -> Iterator[tuple[str, int]]:
    """Run a real server on a free port of this machine; give its address."""
    with running_app(fake_app(index, **options)) as address:
        yield address


@contextmanager
def running_app(app: FastAPI) -> Iterator[tuple[str, int]]:
    """Do the same for an app that the caller wants to look into."""
    started: list[str] = []
    server = make_server(app, port=0, on_start=started.append)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: started)
        host, _, port = started[0].removeprefix("http://").partition(":")
        yield host, int(port)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def test_a_server_listens_on_this_machine_only_and_stops(index: Path) -> None:
    with running(index) as (host, port):
        assert host == "127.0.0.1"
        assert port > 0
