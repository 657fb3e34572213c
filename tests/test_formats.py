"""An index of every format version that was ever released opens, is sound, and answers as it did when it was saved."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import FakeLoader, make_paper, write_jsonl

from semsearch.generation import IndexFolder
from semsearch.reindex import imports_of, update_index
from semsearch.search import Searcher
from semsearch.verify import problems

DATA = Path(__file__).parent / "data"


@pytest.fixture(params=[1])
def version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def saved(version: int, tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / f"index-format-{version}", tmp_path / "index"))


def test_it_answers_as_it_did(saved: Path, version: int) -> None:
    expected = json.loads((DATA / f"index-format-{version}.json").read_text())
    with Searcher.open(saved) as searcher:
        assert searcher.generation.papers == expected["papers"]
        for paper_id, hits in expected["related"].items():
            found = searcher.related([paper_id], len(hits)).hits
            assert [[hit.paper.paper_id, hit.score] for hit in found] == hits


def test_it_is_sound(saved: Path) -> None:
    assert list(problems(IndexFolder(saved))) == []


def test_it_takes_more_papers(saved: Path, tmp_path: Path, loader: FakeLoader) -> None:
    source = write_jsonl(tmp_path / "more.jsonl", [make_paper(1)])
    report = update_index(saved, imports_of([source]), load=loader)
    assert (report.new, report.papers, report.encoded) == (1, 24, 1)
    assert list(problems(IndexFolder(saved))) == []


def test_every_format_version_has_a_saved_index() -> None:
    from semsearch.generation import FORMAT_VERSION

    assert {path.name for path in DATA.glob("index-format-*") if path.is_dir()} == {
        f"index-format-{number}" for number in range(1, FORMAT_VERSION + 1)
    }
