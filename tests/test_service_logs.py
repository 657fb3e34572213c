"""What is written down, and what never is unless it is asked for."""

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import FakeEncoder, make_paper
from numpy.typing import NDArray
from test_service import publish, service
from test_service_hostile import MARK

from semsearch.service import log_to_stderr
from semsearch.service.logs import Form


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("semsearch")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:], root.level = before[:2]
    ours.setLevel(before[2])


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("logs") / "index"
    publish(path, [make_paper(number) for number in range(1, 6)])
    return path


class BrokenEncoder(FakeEncoder):
    """Fails, and quotes what it was given."""

    def encode_queries(self, queries: Sequence[str]) -> NDArray[Any]:
        try:
            raise ValueError(queries[0])
        except ValueError as error:
            raise ZeroDivisionError(f"about {queries[0]}") from error


def ask_in_all_ways(index: Path) -> None:
    with service(index, load_encoder=lambda model, device: BrokenEncoder(model.spec)) as client:
        client.get(f"/search?q={MARK}", headers={"User-Agent": MARK, "X-Request-ID": MARK})
        client.post("/search", json={"q": MARK, "mode": "lexical"})
        client.get(f"/papers/{MARK}%1b%5b2J")
        client.request(MARK.upper(), f"/{MARK}")
        client.get("/search?q=a", headers={"Host": f"{MARK}.example"})


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_somebody_asks_is_not_written_down(index: Path, capsys: pytest.CaptureFixture[str], form: Form) -> None:
    log_to_stderr(form)
    ask_in_all_ways(index)
    written = capsys.readouterr().err
    assert "ran into a bug" in written
    assert "ZeroDivisionError" in written
    assert MARK not in written.lower()
    assert "testclient" not in written


def test_every_request_is_a_line_of_json(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("json")
    ask_in_all_ways(index)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert all({"time", "level", "logger", "msg"} <= set(line) for line in lines)
    answered = [line for line in lines if line["logger"] == "semsearch.requests" and line["route"] != "/readyz"]
    assert [(line["method"], line["route"], line["status"], line["generation"]) for line in answered] == [
        ("GET", "/search", 500, 1),
        ("POST", "/search", 200, 1),
        ("GET", "/papers/{paper_id:path}", 404, 1),
        ("other", "none", 404, None),
        ("GET", "none", 421, None),
    ]
    assert all(line["ms"] >= 0 and len(line["request_id"]) == 32 for line in answered)
    (bug,) = [line for line in lines if "ran into a bug" in line["msg"]]
    assert bug["error"][-1] == "ZeroDivisionError"
    assert any(step.endswith("encode_queries") for step in bug["error"])
    assert answered[0]["request_id"] in bug["msg"]
    assert [line["msg"] for line in lines if line["logger"] == "semsearch.service.live"] == [
        "serving generation 1 with 5 papers"
    ]


def test_it_is_if_that_is_asked_for(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("json", private=True)
    with service(index, log_private=True, load_encoder=lambda model, device: BrokenEncoder(model.spec)) as client:
        client.get(f"/search?q={MARK}%0a\u202e")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (answered,) = [line for line in lines if line.get("route") == "/search"]
    assert (answered["client"], answered["target"]) == ("testclient", f"/search?q={MARK}%0a%E2%80%AE")
    (bug,) = [line for line in lines if "ran into a bug" in line["msg"]]
    assert bug["error"][-1].startswith(f"ZeroDivisionError: about {MARK}")


@pytest.mark.parametrize("form", ["text", "json"])
def test_nothing_that_is_logged_can_forge_a_line(capsys: pytest.CaptureFixture[str], form: Form) -> None:
    log_to_stderr(form)
    logging.getLogger("semsearch").warning("a%s", "\r\n\x1b[2Jerror: forged\u2028\u202e\x85é")
    written = capsys.readouterr().err
    assert len(written.splitlines()) == 1
    assert not {"\r", "\x1b", "\u2028", "\u202e", "\x85"} & set(written)
    if form == "json":
        assert json.loads(written)["msg"].endswith("é")
    else:
        assert written == "warning: a\\r\\n\\x1b[2Jerror: forged\\u2028\\u202e\\x85é\n"


def test_text_has_no_line_for_a_request(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("text")
    with service(index) as client:
        client.get("/search?q=a")
    assert capsys.readouterr().err == ""


def test_an_error_is_told_step_by_step(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("text")
    try:
        json.loads("{")
    except ValueError:
        logging.getLogger("semsearch").error("oh", exc_info=sys.exc_info())
    first, *steps, last = capsys.readouterr().err.splitlines()
    assert first == "error: oh"
    assert all(step.startswith("  /") for step in steps)
    assert last == "  JSONDecodeError"
