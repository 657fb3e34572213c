"""What the comparison with other engines computes: by hand, and over the samples, with none of the others installed."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import benchmark
import measuring
import numpy as np
import pytest
from baselines import AbsentError, Papers, faiss_flat, fts5, index_of_first, kept, numpy_scan, required
from benchmark import Asked, filters_near, found_titles, recall, returned
from conftest import SAMPLES
from storage import unit_rows

from semsearch import Searcher, imports_of, update_index

OTHERS = ("bm25s", "hnswlib", "txtai")


def papers_with(titles: list[str], **columns: Any) -> Papers:
    count = len(titles)
    filled: dict[str, Any] = {
        "years": [None] * count,
        "venues": [None] * count,
        "matrix": np.eye(count, dtype=np.float32),
    } | columns
    return Papers([f"p{row}" for row in range(count)], titles, titles, **filled)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("baselines") / "index"
    update_index(folder, imports_of([SAMPLES]))
    return folder


# By hand


def test_a_neighbour_as_near_as_the_tenth_counts() -> None:
    matrix = np.repeat(np.eye(4, dtype=np.float32), [12, 2, 1, 1], axis=0)  # rows 0 to 11 are all the same
    papers = papers_with([str(row) for row in range(16)], matrix=matrix)
    query, true = matrix[:1], np.arange(10)[None, :]
    every = [range(2, 12), [*range(8), 12, 13], range(5), []]
    asked = np.repeat(query, 4, axis=0)
    assert recall(every, papers, asked, np.repeat(true, 4, axis=0), [True, True, False, False]) == {
        "recall_at_10_of_titles": 0.9,
        "recall_at_10_of_everyday": 0.25,
    }
    assert recall(every[:1], papers, query, true, [True]) == {"recall_at_10_of_titles": 1.0}


def test_a_title_is_found_where_its_paper_or_its_namesake_stands() -> None:
    papers = papers_with(["whales", "prices", "whales", *map(str, range(10))])
    asked = Asked(["whales of", "weather", "prices at", "ten"], {"whales of": 0, "prices at": 1, "ten": 12}, [])
    answers = [[2, 1], [0], [0, 1], [*range(2, 12), 12]]
    assert found_titles(answers, asked, papers) == {"titles_first": 0.3333, "titles_in_ten": 0.6667}


def test_an_answer_is_complete_with_ten_rows_or_all_that_match() -> None:
    assert returned([["a"] * 10, ["a"] * 4, []], matching=500) == {"rows": 4.67, "complete": 0.3333}
    assert returned([["a", "b"], ["a"]], matching=2) == {"rows": 1.5, "complete": 0.5}


def test_filters_leave_the_share_nearest_to_what_is_wanted() -> None:
    years, venues = [2000] * 130 + [None] * 870, [None] * 985 + ["Sea"] * 12 + ["Sky"] * 2 + ["Tip"]
    papers = papers_with([""] * 1_000, years=years, venues=venues, matrix=np.empty((1_000, 1), dtype=np.float32))
    assert filters_near(papers) == [("year", 2000, 130), ("venue", "Sea", 12), ("venue", "Tip", 1)]


def test_what_an_earlier_run_made_is_not_made_again(tmp_path: Path) -> None:
    def make(path: Path) -> None:
        path.write_text("made")
        made.append(path)

    made: list[Path] = []
    (tmp_path / "thing").write_text("left by a run that was ended")
    facts = kept(tmp_path / "thing", make)
    assert kept(tmp_path / "thing", make) == facts
    assert made == [tmp_path / "thing"]
    assert facts["making_seconds"] >= 0


def test_the_processor_time_of_a_process_counts_those_that_it_started() -> None:
    work = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    starter = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {work!r}])"
    command = [sys.executable, "-c", starter]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        process.stdout.readline()
        assert process.pid in measuring.children(os.getpid())
        assert 0.3 <= measuring.processor_seconds(process.pid) < 30
        process.stdin.close()


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    with pytest.raises(AbsentError, match=r"left out, because hnswlib is not installed: pip install .*\[bench\]"):
        required("hnswlib")
    with pytest.raises(AbsentError, match="because hnswlib"):
        required("json", "hnswlib")
    assert required("json") is json


# Engines


def test_numpy_and_faiss_find_the_same() -> None:
    matrix = unit_rows(np.random.default_rng(0), 300, 16)
    papers = papers_with([str(row) for row in range(300)], matrix=matrix)
    for query in matrix[:20]:
        expected = np.argsort(-(matrix.astype(np.float64) @ query))[:10].tolist()
        assert list(numpy_scan(papers).ask(query)) == expected
        assert list(faiss_flat(papers).ask(query)) == expected


def test_sqlite_finds_stems_of_any_word_and_takes_no_sign_for_syntax(tmp_path: Path) -> None:
    engine = fts5(papers_with(["whales sing in the sea", "prices of stocks", "a walk by the sea"]), tmp_path)
    assert engine.ask("the singing whale") == [0]
    assert set(engine.ask('sea AND "NOT (stock')) == {0, 1, 2}
    assert engine.ask("of the") == []
    assert engine.facts["version"] == sqlite3.sqlite_version
    engine.close()


# Over the samples


def test_an_index_of_the_first_papers_has_their_vectors(index: Path, tmp_path: Path) -> None:
    index_of_first(index, 30, tmp_path / "first")
    with Searcher.open(index) as whole, Searcher.open(tmp_path / "first") as first:
        every, some = Papers.of(whole), Papers.of(first)
        assert (some.ids, some.texts, some.years) == (every.ids[:30], every.texts[:30], every.years[:30])
        np.testing.assert_array_equal(some.matrix, every.matrix[:30])
        assert len(first.search("bacteria").hits) == 10


def test_without_the_others_the_rest_is_compared(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in OTHERS:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(measuring, "RESULTS", tmp_path / "results")
    command = ["scripts/benchmark.py", "--index", str(index), "--questions", "8", "--made", str(tmp_path / "made")]
    monkeypatch.setattr("sys.argv", command)
    benchmark.main()
    document = json.loads((tmp_path / "results" / "baselines-96.json").read_text())
    measured = document["measured"]
    assert measured["questions"] == {"titles": 4, "everyday": 4, "seed": 0}
    for engine in ("numpy", "faiss", "semsearch_vectors_alone", "semsearch"):
        assert measured["by_meaning"][engine]["recall_at_10_of_titles"] == 1.0
    for engine in ("sqlite_fts5", "semsearch_words_alone", "semsearch"):
        assert measured["by_words"][engine]["titles_first"] == 1.0
    assert measured["services"]["semsearch"]["titles_first"] == 1.0
    assert measured["services"]["semsearch"]["milliseconds"]["processor"] > 0
    assert [each["semsearch"]["complete"] for each in measured["services"]["filtered"]] == [1.0, 1.0, 1.0]
    for left_out in (measured["by_meaning"]["hnswlib"], measured["by_words"]["bm25s"], measured["services"]["txtai"]):
        assert left_out.startswith("left out, because ")
    assert "times_txtai" not in measured["services"]
