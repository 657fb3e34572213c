"""What the scripts compute that measure answers: by hand, and over small sets."""

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import benchmark_answers
import check_filters
import measuring
import numpy as np
import pytest
from benchmark_answers import reciprocal_rank_fusion
from benchmark_known_items import measured as known_items
from benchmark_known_items import ranks
from benchmark_vectors import Grown, graphs, least_effort
from benchmark_vectors import measured as measured_vectors
from conftest import FakeEncoder, Index, make_paper
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from storage import unit_rows

from semsearch import IndexFolder, Library, Searcher
from semsearch.generation import Generation, open_current
from semsearch.ranking import MODES, Ranker, Ranking
from semsearch.vectors import write_vectors

# Reciprocal rank fusion


def test_reciprocal_rank_fusion_by_hand() -> None:
    # a: 1/61 + 1/63, b: 1/62 + 1/61, c: 1/63, d: 1/62
    assert reciprocal_rank_fusion([["a", "b", "c"], ["b", "d", "a"]]) == ["b", "a", "d", "c"]
    # with k = 0 a first place is worth more than a second and a third together, and those two are worth 5/6 both
    assert reciprocal_rank_fusion([["a", "x", "b"], ["y", "b", "x"]], k=0) == ["a", "y", "b", "x"]
    assert reciprocal_rank_fusion([["b"], ["a"]]) == ["a", "b"], "equals are ordered by id"
    assert reciprocal_rank_fusion([[], []]) == []


_RANKING = st.lists(st.sampled_from("abcdefgh"), unique=True)


@given(_RANKING, _RANKING)
def test_fusion_is_ordered_by_the_sum_of_reciprocal_ranks(one: list[str], other: list[str]) -> None:
    def score(name: str) -> float:
        return sum(1 / (61 + ranking.index(name)) for ranking in (one, other) if name in ranking)

    fused = reciprocal_rank_fusion([one, other])
    assert sorted(fused) == sorted({*one, *other})
    assert all(score(before) >= score(after) - 1e-12 for before, after in pairwise(fused))
    assert reciprocal_rank_fusion([one, other]) == reciprocal_rank_fusion([other, one])
    assert reciprocal_rank_fusion([one, one]) == one


# Scripts over small sets


def test_known_items_in_every_mode(index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder) -> None:
    papers = [make_paper(number, title=f"Song number {number} of the deep") for number in range(60)]
    index_papers(papers)
    folder = IndexFolder(tmp_path / "index")
    with Searcher(Library.open(folder.library), open_current(folder), fake_encoder) as searcher:
        counts = {"title": 20, "partial_title": 20, "abstract_half": 5}
        result = known_items(searcher, counts, 0, partial(ranks, searcher))
    assert {test: list(each) for test, each in result["tests"].items()} == {
        test: list(MODES) for test in ("title", "partial_title", "abstract_half")
    }
    title = result["tests"]["title"]
    assert title["lexical"]["MRR"] > 0.9
    assert title["dense"]["hybrid_minus_this"]["MRR"]["difference"] == pytest.approx(
        title["hybrid"]["MRR"] - title["dense"]["MRR"], abs=2e-6
    )
    assert result["papers"] == 60
    lines = "".join(f"{paper_id}\n" for paper_id in sorted(paper.paper_id for paper in papers))
    assert result["ids_sha256"] == hashlib.sha256(lines.encode()).hexdigest()


def test_answers_over_a_judged_set_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    corpus = [("w", "Songs of whales", "whales sing in the sea"), ("s", "Prices", "stock prices walk at random")]
    lines = [json.dumps({"_id": name, "title": title, "text": text}) for name, title, text in corpus]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    asked = {"1": "who sings in the sea", "2": "prices of stocks", "3": " "}
    (folder / "queries.jsonl").write_text("\n".join(json.dumps({"_id": k, "text": v}) for k, v in asked.items()))
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\n1\tw\t1\n2\ts\t1\n3\ts\t1\n")
    monkeypatch.setattr(measuring, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(
        "sys.argv", ["x/benchmark_answers.py", str(folder), "--split", "dev", "--index", str(tmp_path / "index")]
    )
    benchmark_answers.main()
    document: dict[str, Any] = json.loads((tmp_path / "results" / "evaluation-tiny-dev.json").read_text())
    assert document["command"] == "scripts/benchmark_answers.py tiny --split dev --index index"
    assert [source["name"] for source in document["corpus"]] == ["corpus.jsonl", "queries.jsonl", "dev.tsv"]
    assert {"commit", "machine", "date"} <= set(document)
    rankings = document["measured"]["rankings"]
    assert list(rankings) == ["hybrid", "dense", "lexical", "reciprocal_rank_fusion_k60"]
    for name, ranking in rankings.items():
        assert ranking["queries"] == 3, "the query without a text counts"
        assert ranking["MRR"] == pytest.approx(2 / 3, abs=1e-6)
        assert ("hybrid_minus_this" in ranking) == (name != "hybrid")
    assert document["measured"]["model"]["name"] == "all-MiniLM-L6-v2"
    assert "1 judged queries have no text that can be asked" in capsys.readouterr().err


# Graphs beside lists


def test_a_graph_is_timed_with_the_least_effort_that_finds_enough() -> None:
    asked = np.eye(4, dtype=np.float32)
    true = {"papers": np.tile(np.arange(10), (4, 1))}

    def ask(query: NDArray[np.float32], effort: int) -> NDArray[np.int64]:
        return np.arange(10) if effort >= 96 else np.arange(1, 11)

    found = least_effort(ask, {"papers": asked}, true)["papers"]
    assert (found["effort"], found["recall_at_10"]) == (96, 1.0)
    found = least_effort(lambda query, effort: ask(query, 0), {"papers": asked}, true)["papers"]
    assert (found["effort"], found["recall_at_10"]) == (1_024, 0.9), "the most that was tried, and what it finds"


def test_graphs_over_a_few_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    matrix = unit_rows(np.random.default_rng(0), 1_100, 16)
    with (tmp_path / "vectors.faiss").open("wb") as file:
        write_vectors([matrix], len(matrix), 16, file.write)
    result = graphs({"titles": matrix[:5]}, 40, tmp_path, flat=1_000.0)
    assert result["hnswlib"] == "absent"
    assert result["graph"]["titles"]["recall_at_10"] >= 0.99
    assert result["graph"]["titles"]["times_flat"] == pytest.approx(
        1_000 / result["graph"]["titles"]["milliseconds"], 0.1
    )


def test_vectors_are_measured_as_they_grow(tmp_path: Path) -> None:
    papers = unit_rows(np.random.default_rng(0), 2_000, 16)
    grown, questions = Grown(papers, tmp_path), {"papers": papers[:50]}
    for rows in (2_000, 3_000):
        result = measured_vectors(grown, rows, questions, tmp_path)
        assert (result["rows"], result["lists"]["lists"]) == (rows, round(2 * rows**0.5))
        assert result["mean_cosine_of_neighbour"]["papers"]["1"] == pytest.approx(1), "they are there"
        found = [result["lists"]["papers"], *result["lists"]["papers"]["within"]]
        assert all(0.95 <= each["recall_at_10"] <= 1 and each["milliseconds"] > 0 for each in found)
    np.testing.assert_allclose(np.concatenate(list(grown.blocks(3_000)))[:2_000], papers, atol=1e-6)


# Checks within filters


def _faults(result: dict[str, Any], fault: str) -> dict[str, int]:
    return {mode: sum(each[fault] for each in by_decade.values()) for mode, by_decade in result["modes"].items()}


def test_answers_within_filters_are_checked(index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder) -> None:
    index_papers(
        [
            make_paper(
                number,
                published=f"{2000 + number % 9}" + ("-05" if number % 2 else ""),
                authors=(f"Ada{number % 7} Lovelace",),
                categories=("cs.CL", "stat.ML")[: number % 3],
                venue=("ACL", "ACL Findings", None)[number % 3],
                doi=f"10.1000/{number}" if number % 4 else None,
            )
            for number in range(240)
        ]
    )
    folder = IndexFolder(tmp_path / "index")
    with Searcher(Library.open(folder.library), open_current(folder), fake_encoder) as searcher:
        sound = check_filters.checked(searcher, 6, 0)
        nothing = dict.fromkeys([*MODES, "dense, exact"], 0)
        assert sound["filters"]["0.1 % to 1 %"] == {"filters": 6, "fewest_papers": 1, "most_papers": 2}
        assert sound["filters"]["up to 0.001 %"]["filters"] == 0, "not of 240 papers"
        for fault in ("short_answers", "leaks", "wrong_totals"):
            assert _faults(sound, fault) == nothing
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Generation, "matching", lambda generation, where, rows_of_ids: generation.live)
            leaking = check_filters.checked(searcher, 6, 0)
        assert min(_faults(leaking, "leaks").values()) > 0
        assert min(_faults(leaking, "wrong_totals").values()) > 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Ranker, "ranked", _without_the_first(Ranker.ranked))
            short = check_filters.checked(searcher, 6, 0)
        assert min(_faults(short, "short_answers").values()) > 0
        assert _faults(short, "leaks") == nothing
        assert _missed(sound) == dict.fromkeys(["dense", "lexical", "dense, exact"], 0)
        assert min(_missed(short).values()) > 0


def _missed(result: dict[str, Any]) -> dict[str, int]:
    return {
        mode: sum(kind["missed"] for each in by_decade.values() for kind in each["ten_best"].values())
        for mode, by_decade in result["modes"].items()
        if mode != "hybrid"
    }


def _without_the_first(ranked: Callable[..., Ranking]) -> Callable[..., Ranking]:
    def broken(ranker: Ranker, window: int, *, places: int | None = None) -> Ranking:
        whole = ranked(ranker, window, places=places)
        parts = {name: getattr(whole, name) for name in Ranking.__dataclass_fields__}
        rest: dict[str, Any] = {name: part[1:] for name, part in parts.items() if isinstance(part, np.ndarray)}
        return replace(whole, **rest)

    return broken
