"""Several processes answer as one: what holds of the service holds whichever of them does the searching."""

import asyncio
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import make_paper
from prometheus_client.parser import text_string_to_metric_families
from test_service import PAPERS, eventually, publish, service
from test_service_changes import ADMIN, Http, record

from semsearch.durable import exchange_folders
from semsearch.encoders import Encoder
from semsearch.errors import EncoderError
from semsearch.generation import IndexFolder
from semsearch.library import Library
from semsearch.publishing import publish_pending
from semsearch.service import Workers
from semsearch.service.frames import frame, read_frame
from semsearch.stages import STAGES
from semsearch.verify import problems

_TIME = re.compile(r"[0-9]+ ms")
_PATHS = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
_WORKER = """
import os, sys, time
from pathlib import Path
from test_service import FakeEncoder, find_fake
from semsearch.generation import IndexFolder
from semsearch.service.models import Models
from semsearch.service.worker import work

class Special(FakeEncoder):
    def encode_queries(self, queries):
        if queries == ["die"]:
            os._exit(7)
        if queries == ["die once"] and not Path(sys.argv[1], "died").exists():
            Path(sys.argv[1], "died").touch()
            os._exit(7)
        while queries[0].startswith("held") and not Path(sys.argv[1], "go").exists():
            time.sleep(0.01)
        if queries == ["bug"]:
            raise RuntimeError("nobody thought of it")
        return super().encode_queries(queries)

work(Models(IndexFolder(Path(sys.argv[1])), None, find_fake, lambda model, device: Special(model.spec)))
"""
_SERVICE = """
import sys
from pathlib import Path
from test_service import fake_app
from test_service_changes import ADMIN
from semsearch.service import Limits, Workers, changes, run

changes._DELETION_SECONDS = 1
index, worker, limits = sys.argv[1], sys.argv[2], eval(sys.argv[3])
several = Workers([sys.executable, "-c", worker, index], 2)
app = fake_app(Path(index), admin=ADMIN, workers=several, limits=Limits(**limits), scrub_seconds=0.1)
run(app, port=0, on_start=lambda url: print(url, flush=True))
"""


class Served(Http):
    """A service of two workers, and its process."""

    def __init__(self, process: subprocess.Popen[str], address: str, index: Path) -> None:
        host, _, port = address.partition(":")
        super().__init__(host, int(port))
        self.address = address
        self.process = process
        self.go = index / "go"

    def get(self, path: str) -> tuple[int, Any]:
        """Return what is answered on a connection of its own."""
        return self.ask(path)

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Return every sample by name and labels."""
        with closing(http.client.HTTPConnection(self.address, timeout=20)) as connection:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics()[name, frozenset(labels.items())]

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children]

    def everywhere(self, path: str) -> list[tuple[int, Any]]:
        """Ask both workers: while one is held, the other has to answer."""
        self.go.unlink(missing_ok=True)
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(self.get, "/search?q=held")
            eventually(lambda: self.metric("semsearch_stage_requests", stage="encode") == 1)
            first = self.get(path)
            self.go.touch()
            assert held.result()[0] == 200
        return [first, self.get(path)]


@contextmanager
def served(index: Path, worker: str = _WORKER, *, ready: bool = True, **limits: Any) -> Iterator[Served]:
    command = [sys.executable, "-c", _SERVICE, str(index), worker, repr(limits)]
    environment = {**os.environ, "PYTHONPATH": _PATHS}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout
            service = Served(process, process.stdout.readline().strip().removeprefix("http://"), index)
            if ready:
                eventually(lambda: service.get("/readyz")[1].get("reason") == "none")
            yield service
        finally:
            process.kill()


@pytest.fixture
def index(tmp_path: Path) -> Path:
    publish(tmp_path / "index", PAPERS)
    return tmp_path / "index"


def without_time(body: Any) -> Any:
    return body | {"meta": {**body["meta"], "took_ms": 0}} if "meta" in body else body


def test_the_answers_are_those_of_one_process(index: Path) -> None:
    asked: list[tuple[str, Any]] = [
        ("/search?q=subject3+finding4&facets=2", None),
        ("/search", {"q": "subject3", "mode": "lexical", "collapse": "none"}),
        ("/papers/arxiv:1706.03762", None),
        ("/papers/doi:10.1038%2Fnature14539/related?limit=3", None),
        ("/papers/batch", {"ids": ["p3", "nope"]}),
        ("/recommend", {"positive": ["p3"], "negative": ["p4"]}),
        ("/search?q=", None),
        ("/search?q=a&q=b", None),
        ("/search?q=a&cursor=AAAA", None),
        ("/search", {"q": "a", "k": 1}),
        ("/papers/nope", None),
        ("/nope", None),
        ("/stats", None),
    ]
    with service(index, admin=ADMIN) as client, served(index) as several:
        for path, body in asked:
            alone = client.get(path) if body is None else client.post(path, json=body)
            status, answer = several.ask(path, body)
            assert (status, without_time(answer)) == (alone.status_code, without_time(alone.json())), path
        for path in ("/", "/?q=subject3", "/?related=p3", "/?q=a&offset=nine"):
            with closing(http.client.HTTPConnection(several.address, timeout=20)) as connection:
                connection.request("GET", path)
                answer = connection.getresponse()
                page, headers = answer.read().decode(), dict(answer.getheaders())
            alone = client.get(path)
            assert (answer.status, _TIME.sub("", page)) == (alone.status_code, _TIME.sub("", alone.text))
            names = set(headers) - {"date", "x-request-id", "content-length"}
            assert {name: headers[name] for name in names} == {name: alone.headers[name] for name in names}
        assert several.ask("/search", method="PUT")[0] == 405


def test_one_scrape_tells_of_all(index: Path) -> None:
    with served(index) as several:
        several.everywhere("/search?q=finding5&facets=1")
        told = several.metrics()
        route = frozenset({("route", "/search"), ("status", "200")})
        assert told["semsearch_request_seconds_count", route] == 3
        counts = {stage: told["semsearch_stage_seconds_count", frozenset({("stage", stage)})] for stage in STAGES}
        assert counts == {"encode": 3, "filter": 3, "scan": 3, "lexical": 3, "fuse": 3, "explain": 3, "facets": 2}
        assert all(told["semsearch_stage_requests", frozenset({("stage", stage)})] == 0 for stage in STAGES)
        assert told["semsearch_workers", frozenset()] == 2
        assert told["semsearch_worker_restarts_total", frozenset()] == 0
        for place in ("0", "1"):
            labels = frozenset({("worker", place)})
            assert told["semsearch_worker_process_resident_memory_bytes", labels] > 10_000_000


def test_who_waits_for_a_worker_is_seen(index: Path) -> None:
    with served(index, requests_at_once=4, answer_seconds=60) as several, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(several.get, f"/search?q=held+{number}") for number in range(4)]
        eventually(lambda: several.metric("semsearch_requests_waiting") == 2)
        assert several.metric("semsearch_stage_requests", stage="encode") == 2
        status, body = several.get("/search?q=one+too+many")
        assert (status, body["error"]) == (503, "busy")
        several.go.touch()
        assert [each.result()[0] for each in asked] == [200] * 4


def test_who_waits_has_no_more_time_than_others(index: Path) -> None:
    with served(index, answer_seconds=0.5) as several, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(several.get, f"/search?q=held+{number}") for number in range(4)]
        answers = [(status, body["error"]) for status, body in (each.result() for each in asked)]
        assert answers == [(504, "took_too_long")] * 4
        several.go.touch()
        eventually(lambda: several.get("/search?q=finding5")[0] == 200)
        assert several.metric("semsearch_worker_restarts_total") == 0


def test_the_rate_is_that_of_the_service(index: Path) -> None:
    with served(index, requests_per_minute=3) as several:
        statuses = [several.get("/search?q=a")[0] for _ in range(4)]
        assert statuses == [200, 200, 200, 429]


# Papers that come and go


def test_what_is_added_is_found_and_what_is_deleted_is_gone_whoever_answers(index: Path) -> None:
    with served(index) as several:
        for number in range(3):
            told = several.ask("/papers", {"papers": [record(number)]}, **{"Idempotency-Key": "k"})
            assert told[0] == (200 if number == 0 else 422)
        eventually(lambda: several.get("/papers/new0")[0] == 200)
        assert [status for status, _ in several.everywhere("/papers/new0")] == [200, 200]
        for paper in ("p5", "p6", "new0"):
            assert several.ask(f"/papers/{paper}", method="DELETE") == (200, {"deleted": True})
            assert [status for status, _ in several.everywhere(f"/papers/{paper}")] == [404, 404]
    assert list(problems(IndexFolder(index))) == []


def test_a_deletion_is_not_called_done_while_a_worker_shows_the_paper(index: Path) -> None:
    with served(index, answer_seconds=2.0) as several:
        stopped = several.workers()[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            status, body = several.ask("/papers/p5", method="DELETE")
            assert (status, body["error"]) == (503, "not_yet")
            assert several.get("/papers/p6")[0] == 504, "it went to the one that is stopped"
        finally:
            os.kill(stopped, signal.SIGCONT)
        eventually(lambda: several.ask("/papers/p5", method="DELETE")[0] == 200)
        assert [status for status, _ in several.everywhere("/papers/p5")] == [404, 404]


def test_pages_go_on_over_additions_whoever_answers(index: Path) -> None:
    with served(index) as several:
        first = several.get("/search?q=subject3&limit=15")[1]
        assert several.ask("/papers", {"papers": [record(1, words="subject3")]})[0] == 200
        eventually(lambda: several.get("/papers/new1")[0] == 200)
        path = f"/search?q=subject3&limit=15&cursor={first['meta']['next_cursor']}"
        for status, second in several.everywhere(path):
            assert status == 200
            ids = [result["paper"]["id"] for result in first["results"] + second["results"]]
            assert sorted(ids) == sorted(paper.paper_id for paper in PAPERS)
        assert several.ask("/papers/p5", method="DELETE")[0] == 200
        assert [status for status, _ in several.everywhere(path)] == [410, 410], "it would show what was deleted"


def test_a_reindex_beside_it_is_followed(index: Path) -> None:
    with served(index) as several:
        publish(index, [make_paper(number) for number in range(100, 140)])
        eventually(lambda: several.get("/stats")[1]["generation"] == 2)
        assert [status for status, _ in several.everywhere("/papers/p100")] == [200, 200]


def test_another_index_in_its_place_is_followed_without_an_answer_missed(index: Path, tmp_path: Path) -> None:
    publish(tmp_path / "other", [make_paper(number) for number in range(200, 230)])
    with served(index) as several:
        done = threading.Event()

        def ask_on() -> set[tuple[int, str | None, str]]:
            statuses = set()
            while not done.is_set():
                status, body = several.get("/search?q=subject3")
                statuses.add((status, body.get("error"), str(body.get("detail"))))
            return statuses

        with ThreadPoolExecutor(2) as pool:
            asking = [pool.submit(ask_on) for _ in range(2)]
            exchange_folders(tmp_path / "other", index)
            eventually(lambda: several.get("/papers/p200")[0] == 200)
            done.set()
            assert [each.result() for each in asking] == [{(200, None, "None")}] * 2
        assert [status for status, _ in several.everywhere("/papers/p5")] == [404, 404]


def test_who_deletes_with_another_program_ends_the_pages_that_show_it(index: Path) -> None:
    with served(index) as several:
        first = several.get("/search?q=subject3&limit=15")[1]
        path = f"/search?q=subject3&limit=15&cursor={first['meta']['next_cursor']}"
        with Library.open(index / "library.db") as library:
            library.delete(["p5"])
            publish_pending(IndexFolder(index), library, None)
        eventually(lambda: several.get("/papers/p5")[0] == 404)
        assert [status for status, _ in several.everywhere(path)] == [410, 410]


# Workers that end


def test_what_changed_on_the_disk_is_replaced_in_every_worker(index: Path) -> None:
    with served(index) as service:
        before = service.get("/search?q=subject5")[1]["results"]
        with (IndexFolder(index).generation(1) / "segments/000001/vectors.faiss").open("r+b") as vectors:
            vectors.seek(-400, 2)
            vectors.write(bytes(400))
        eventually(lambda: service.get("/stats")[1].get("generation") == 2)
        for status, body in service.everywhere("/search?q=subject5"):
            assert (status, body["meta"]["generation"], body["results"]) == (200, 2, before)


def test_a_request_whose_worker_ends_is_answered_by_another(index: Path) -> None:
    with served(index) as several:
        before = several.workers()
        assert several.get("/search?q=die+once")[0] == 200
        eventually(lambda: several.get("/readyz")[1]["reason"] == "none" and set(several.workers()) != set(before))
        eventually(lambda: len(several.workers()) == 2)
        assert several.metric("semsearch_worker_restarts_total") == 1
        assert [status for status, _ in several.everywhere("/papers/p5")] == [200, 200]


def test_a_request_that_ends_every_worker_is_given_up_and_harms_nobody_else(index: Path) -> None:
    with served(index) as several:
        status, body = several.get("/search?q=die")
        assert (status, body["error"]) == (500, "internal")
        assert several.get("/search?q=finding5")[0] == 200, "it waits for a worker"
        eventually(lambda: several.metric("semsearch_workers") == 2)
        assert several.metric("semsearch_worker_restarts_total") == 2


def test_fewer_workers_are_told_of(index: Path) -> None:
    with served(index) as several:
        for pid in several.workers():
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: several.get("/readyz")[1].get("reason", "workers") == "workers")
        eventually(lambda: several.get("/readyz")[1].get("reason") == "none")


def test_a_bug_is_answered_for(index: Path) -> None:
    with served(index) as several:
        status, body = several.get("/search?q=bug")
        assert (status, body["error"]) == (500, "internal")
        assert several.metric("semsearch_worker_restarts_total") == 0


def test_workers_that_cannot_open_the_index_are_told_of(index: Path) -> None:
    worker = _WORKER.replace("lambda model, device: Special(model.spec)", "broken").replace(
        "work(Models", "from test_service_workers import broken\nwork(Models"
    )
    with served(index, worker, ready=False) as several:
        eventually(lambda: several.get("/readyz")[1].get("error") == "encoder")
        assert several.get("/search?q=a")[0] == 503


def broken(model: object, device: str | None) -> Encoder:
    raise EncoderError("it is not there")


def test_workers_that_end_as_they_begin_are_told_of(index: Path) -> None:
    with served(index, "raise SystemExit(3)", ready=False) as several:
        eventually(lambda: several.get("/readyz")[1].get("error") == "failed")
        assert several.get("/search?q=a")[0] == 503


# The end


def test_what_was_let_in_is_answered_after_sigterm(index: Path) -> None:
    with served(index) as several, ThreadPoolExecutor(6) as pool:
        workers = several.workers()
        for pid in workers:  # as a service manager does, which tells all processes
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
        asked = [pool.submit(several.get, f"/search?q=held+{number}") for number in range(6)]
        eventually(lambda: several.metric("semsearch_requests_waiting") == 4)
        several.process.terminate()
        several.go.touch()
        assert [each.result()[0] for each in asked] == [200] * 6
        assert several.process.wait(10) == -signal.SIGTERM
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def test_workers_end_with_the_service_however_it_ends(index: Path) -> None:
    with served(index) as several:
        workers = several.workers()
        several.process.kill()
        eventually(lambda: not [pid for pid in workers if Path(f"/proc/{pid}/exe").exists()])


def test_two_frames_are_two() -> None:
    async def read() -> list[object]:
        reader = asyncio.StreamReader()
        reader.feed_data(frame({"id": 1, "é": None}, b"\x00body") + frame({}) + frame({"cut": "short"})[:-1])
        reader.feed_eof()
        return [await read_frame(reader) for _ in range(3)]

    assert asyncio.run(read()) == [({"id": 1, "é": None}, b"\x00body"), ({}, b""), None]


@pytest.mark.parametrize(
    ("wanted", "cores", "found"), [(None, 1, 1), (None, 2, 2), (None, 64, 4), (1, 64, 1), (3, 2, 3)]
)
def test_how_many_there_are(monkeypatch: pytest.MonkeyPatch, wanted: int | None, cores: int, found: int) -> None:
    monkeypatch.setattr("semsearch.service.workers._cores", lambda: cores)
    several = Workers.over(Path("somewhere"), wanted, None, "text", False)
    assert (several.count if several else 1) == found
