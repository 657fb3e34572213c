"""An index of every released format version answers as it did when it was saved: as it is, or made anew."""

import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FakeLoader, make_paper, write_jsonl
from storage import files_below, seqs_with

from semsearch.encoders import find_model
from semsearch.errors import NoGenerationError
from semsearch.generation import Allowed, Generation, IndexFolder, open_current
from semsearch.library import Library
from semsearch.manifest import FORMAT_VERSION
from semsearch.ranking import Question, Ranker
from semsearch.reindex import imports_of, update_index
from semsearch.search import Searcher
from semsearch.service.live import LiveSearcher
from semsearch.service.models import Models
from semsearch.verify import problems

DATA = Path(__file__).parent / "data"
VERSIONS = range(1, FORMAT_VERSION + 1)
OLD = VERSIONS[:-1]


def copy_of(version: int, tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / f"index-format-{version}", tmp_path / "index"))


def expected_of(version: int) -> Any:
    return json.loads((DATA / f"index-format-{version}.json").read_text())


def assert_answers_as_it_did(index: Path, version: int) -> None:
    expected = expected_of(version)
    with Searcher.open(index) as searcher:
        opened = searcher.generation
        assert opened.papers == expected["papers"]
        for paper_id, hits in expected["related"].items():
            assert nearest(searcher, paper_id)[: len(hits)] == hits
        names = searcher.library.ids_at(opened.live_seqs().tolist())
        for typed, paper_ids in expected.get("lexical", {}).items():
            assert sorted(names[seq] for seq in seqs_with(opened, typed)) == paper_ids
        for name, values in expected.get("facets", {}).items():
            assert [[each.value, each.count] for each in opened.facets(opened.live, 100)[name].values] == values
        if version > 1:
            assert works_of_several(opened, names) == expected["works"]


def nearest(searcher: Searcher, paper_id: str) -> list[list[str | float]]:
    """Return id and cosine of the nearest papers by their vectors alone, which no version of the format changes."""
    opened = searcher.generation
    live = np.flatnonzero(opened.live)
    row = int(live[opened.ids_at(live).index(paper_id)])
    others = opened.live.copy()
    others[opened.works.versions_of(row)] = False
    (vector,) = opened.vectors_at(np.array([row]))
    ranking = Ranker(opened, Question(vector, None, Allowed(opened, others))).ranked(100)
    return [list(pair) for pair in zip(opened.ids_at(ranking.rows), ranking.scores.tolist(), strict=True)]


def works_of_several(opened: Generation, names: dict[int, str]) -> list[list[str]]:
    """Return the ids of the versions of each work that has several."""
    works = [opened.works.versions_of(row) for row in np.unique(opened.works.of(np.flatnonzero(opened.live)))]
    return sorted(sorted(names[seq] for seq in opened.seqs_at(rows).tolist()) for rows in works if len(rows) > 1)


# The present format


def test_it_opens_is_sound_and_answers_as_it_did(tmp_path: Path) -> None:
    index = copy_of(FORMAT_VERSION, tmp_path)
    before = files_below(index / "generations")
    assert_answers_as_it_did(index, FORMAT_VERSION)
    assert list(problems(IndexFolder(index))) == []
    assert files_below(index / "generations") == before


def test_it_takes_more_papers_beside_what_it_holds(tmp_path: Path, loader: FakeLoader) -> None:
    index = copy_of(FORMAT_VERSION, tmp_path)
    report = update_index(index, imports_of([write_jsonl(tmp_path / "more.jsonl", [make_paper(1)])]), load=loader)
    assert (report.new, report.papers, report.encoded) == (1, expected_of(FORMAT_VERSION)["papers"] + 1, 1)
    extended = open_current(IndexFolder(index))
    assert extended.manifest.parent is not None, "it was not made anew"
    assert len(seqs_with(extended, "finding1")) == 1
    assert len(seqs_with(extended, "author:hinton")) == 2
    assert list(problems(IndexFolder(index))) == []


# Older ones


@pytest.mark.parametrize("version", OLD)
def test_an_old_one_says_what_to_do(version: int, tmp_path: Path) -> None:
    index = copy_of(version, tmp_path)
    before = files_below(index / "generations")
    way_out = f"has format {version}.* make it anew, without encoding, with: semsearch index --index {index}"
    with pytest.raises(NoGenerationError, match=way_out):
        Searcher.open(index)
    assert files_below(index / "generations") == before
    assert not (index / "quarantine").exists()


@pytest.mark.parametrize("version", OLD)
def test_an_old_one_is_made_anew_without_encoding_and_answers_as_it_did(
    version: int, tmp_path: Path, loader: FakeLoader, caplog: pytest.LogCaptureFixture
) -> None:
    index = copy_of(version, tmp_path)
    before = files_below(index / "generations")
    report = update_index(index, [], load=loader)
    assert (report.papers, report.encoded) == (expected_of(version)["papers"], 0)
    assert loader.encoded == []
    assert_answers_as_it_did(index, version)
    assert list(problems(IndexFolder(index))) == []
    assert not (index / "quarantine").exists()
    assert files_below(index / "generations").items() >= before.items(), "it goes when it is old enough"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("version", OLD)
def test_an_old_one_takes_more_papers(version: int, tmp_path: Path, loader: FakeLoader) -> None:
    index = copy_of(version, tmp_path)
    report = update_index(index, imports_of([write_jsonl(tmp_path / "more.jsonl", [make_paper(1)])]), load=loader)
    assert (report.new, report.papers, report.encoded) == (1, expected_of(version)["papers"] + 1, 1)
    assert len(seqs_with(open_current(IndexFolder(index)), "finding1")) == 1
    assert list(problems(IndexFolder(index))) == []


@pytest.mark.parametrize("version", OLD)
def test_a_service_makes_an_old_one_anew_as_it_starts(version: int, tmp_path: Path, loader: FakeLoader) -> None:
    index = copy_of(version, tmp_path)
    folder = IndexFolder(index)
    live = LiveSearcher(folder, Models(folder, None, find_model, loader), poll_seconds=0.01)
    live.start()
    try:
        give_up = time.monotonic() + 60
        while live.state.status == "starting" and time.monotonic() < give_up:
            time.sleep(0.01)
        assert (live.state.status, live.state.reason) == ("ready", "none")
        assert live.searcher is not None
        assert live.searcher.generation.papers == expected_of(version)["papers"]
    finally:
        live.stop()
    assert loader.encoded == []
    assert_answers_as_it_did(index, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_no_version_needs_its_generations(version: int, tmp_path: Path, loader: FakeLoader) -> None:
    index = copy_of(version, tmp_path)
    shutil.rmtree(index / "generations")
    (index / "CURRENT").unlink()
    with Library.open(index / "library.db") as library:
        assert list(library.damage()) == []
    assert update_index(index, [], load=loader).encoded == 0
    assert_answers_as_it_did(index, version)


def test_every_format_version_has_a_saved_index() -> None:
    saved = {path.name for path in DATA.glob("index-format-*") if path.is_dir()}
    assert saved == {f"index-format-{number}" for number in VERSIONS}
