"""Evaluation against values worked out by hand, against ir_measures (trec_eval underneath), and through the command."""

import json
import math
import random
import threading
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from conftest import FakeEncoder, FakeLoader, Index, make_paper, write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import RR, R, nDCG
from numpy.typing import NDArray

from semsearch.errors import SourceError
from semsearch.evaluate import (
    JUDGED,
    JudgedSet,
    KnownItems,
    Run,
    Scores,
    Subject,
    ask_judged,
    ask_known,
    compare_runs,
    envelope,
    index_corpus,
    load_run,
    save_run,
    side_by_side,
    table,
)
from semsearch.evaluate.asking import each_value
from semsearch.evaluate.certainty import bootstrap_interval, compare, share_interval
from semsearch.evaluate.known_item import FIRST, TESTS, Question
from semsearch.evaluate.measures import MRR, NDCG, RECALL, ndcg, recall, reciprocal_rank, score
from semsearch.generation import IndexFolder, open_current
from semsearch.library import Library
from semsearch.ranking import MODES, Mode
from semsearch.reindex import imports_of, update_index
from semsearch.search import Page, Searcher

# Measures of one ranking


def test_ndcg_by_hand() -> None:
    grades = {"a": 3, "b": 2, "c": 1, "d": 0}
    gained = 2 / math.log2(2) + 0 / math.log2(3) + 3 / math.log2(4)
    best = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    assert ndcg(["b", "x", "a"], grades, 10) == pytest.approx(gained / best)
    assert ndcg(["b", "x", "a"], grades, 2) == pytest.approx(2 / (3 + 2 / math.log2(3)))
    assert ndcg(["a", "b", "c"], grades, 10) == pytest.approx(1)
    assert ndcg([], grades, 10) == 0
    assert ndcg(["d"], {"d": 0}, 10) == 0, "nothing is relevant, so nothing can be gained"


def test_the_best_ranking_counts_relevant_papers_that_no_index_holds() -> None:
    assert ndcg(["a"], {"a": 1, "not indexed": 1}, 10) == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert recall(["a"], {"a": 1, "not indexed": 1}, 100) == 0.5


def test_recall_and_reciprocal_rank_by_hand() -> None:
    grades = {"a": 2, "b": 1, "c": 1, "d": 0, "e": -1}
    assert recall(["x", "a", "d", "b"], grades, 3) == pytest.approx(1 / 3)
    assert recall(["x", "a", "d", "b"], grades, 100) == pytest.approx(2 / 3)
    assert reciprocal_rank(["d", "e", "b", "a"], grades) == pytest.approx(1 / 3)
    assert reciprocal_rank(["d", "e"], grades) == 0


def test_a_paper_found_twice_would_be_counted_twice() -> None:
    with pytest.raises(ValueError, match="the ranking holds 'a' twice"):
        score(["a", "b", "a"], {"a": 1})


_IDS = [f"d{number}" for number in range(14)]
_RANKINGS = st.lists(st.sampled_from(_IDS), unique=True)
_GRADES = st.dictionaries(st.sampled_from([*_IDS, "lost 1", "lost 2"]), st.integers(-1, 3), min_size=1)


def oracle(runs: Mapping[str, Sequence[str]], grades: Mapping[str, Mapping[str, int]]) -> dict[str, list[float]]:
    """Return what ir_measures gives each query for the same measures; it tells a ranking by its scores."""
    qrels = [ir_measures.Qrel(query, *pair) for query, judged in grades.items() for pair in judged.items()]
    run = [
        ir_measures.ScoredDoc(query, paper_id, -float(rank))
        for query, ranking in runs.items()
        for rank, paper_id in enumerate(ranking)
    ]
    measures = [nDCG @ 10, R @ 100, RR]
    found = {query: [0.0] * 3 for query in grades}
    for value in ir_measures.iter_calc(measures, qrels, run):
        found[value.query_id][measures.index(value.measure)] = value.value
    return found


_QUERIES = st.sampled_from("abcd")


@given(st.dictionaries(_QUERIES, st.tuples(_RANKINGS, _GRADES), min_size=1), st.sets(_QUERIES))
def test_measures_are_those_of_trec_eval(drawn: dict[str, tuple[list[str], dict[str, int]]], silent: set[str]) -> None:
    grades = {query: judged for query, (_, judged) in drawn.items()}
    runs = {query: ranking for query, (ranking, _) in drawn.items() if query not in silent}
    for query, expected in oracle(runs, grades).items():
        assert score(runs.get(query, []), grades[query]) == pytest.approx(expected)


def test_many_papers_against_trec_eval() -> None:
    chance = random.Random(4)
    ids = [f"d{number}" for number in range(400)]
    runs = {f"q{query}": chance.sample(ids, 300) for query in range(20)}
    grades = {query: {paper_id: chance.choice([0, 1, 1, 2]) for paper_id in chance.sample(ids, 150)} for query in runs}
    for query, expected in oracle(runs, grades).items():
        assert score(runs[query], grades[query]) == pytest.approx(expected)


# Certainty


def test_the_bootstrap_interval_of_a_share_is_the_binomials() -> None:
    values = np.repeat([1.0, 0.0], [60, 40])
    interval = bootstrap_interval(values)
    assert interval is not None
    # of Binomial(100, 0.6), 2.5 % lie below 50 and 2.5 % above 70: resampling the values draws from just that
    assert interval == pytest.approx((0.50, 0.70), abs=0.011)
    assert bootstrap_interval(values) == interval, "the seed is fixed"


def test_the_bootstrap_interval_of_a_normal_mean_is_the_textbooks() -> None:
    values = np.random.default_rng(7).normal(0.5, 0.1, size=2_000)
    interval = bootstrap_interval(values)
    reach = 1.96 * values.std() / math.sqrt(len(values))
    assert interval == pytest.approx((values.mean() - reach, values.mean() + reach), abs=3e-4)


def test_one_question_tells_nothing_of_how_values_vary() -> None:
    assert bootstrap_interval(np.array([0.5])) is None
    with pytest.raises(ValueError, match="1 questions are too few to compare by"):
        compare(np.array([0.5]), np.array([0.4]))


def test_the_interval_of_a_share_by_hand() -> None:
    # Wilson: for n successes of n the lower end is 1 / (1 + z2 / n), the upper 1
    assert share_interval(np.ones(200)) == pytest.approx((1 / (1 + 1.959964**2 / 200), 1.0))
    assert share_interval(np.zeros(10)) == pytest.approx((0.0, 1.959964**2 / (10 + 1.959964**2)))
    assert share_interval(np.repeat([1.0, 0.0], [50, 50])) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert share_interval(np.empty(0)) is None


def exact_p(differences: NDArray[np.float64]) -> float:
    """Return the p-value of the paired randomisation test over all sign patterns."""
    observed = abs(differences.sum()) - 1e-9
    patterns = list(product([-1, 1], repeat=len(differences)))
    return sum(abs(float(np.dot(signs, differences))) >= float(observed) for signs in patterns) / len(patterns)


@pytest.mark.parametrize("seed", range(4))
def test_the_p_value_is_that_of_all_sign_patterns(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, against = rng.random(11), rng.random(11) - 0.1 * seed
    compared = compare(values, against)
    assert compared.p_value == pytest.approx(exact_p(values - against), abs=0.015)
    assert compared.difference == pytest.approx(values.mean() - against.mean())
    assert compared.low < compared.difference < compared.high


def test_no_difference_is_no_evidence_and_p_is_never_zero() -> None:
    values = np.random.default_rng(1).random(50)
    same = compare(values, values)
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    assert compare(values + 0.5, values).p_value == pytest.approx(1 / 10_001)


# Runs


def a_run(values: Sequence[Sequence[float]], corpus: str = "c0", questions: str = "q0") -> Run:
    setting = {
        "semsearch": "0",
        "date": "2026-01-01T00:00:00+00:00",
        "model": {"name": "m", "fingerprint": "f" * 64},
        "mode": "dense",
        "papers": 3,
    }
    names = tuple(f"q{number}" for number in range(len(values)))
    scores = Scores(names, (NDCG, RECALL, MRR), np.array(values, dtype=np.float64).reshape(len(values), 3))
    return Run(Subject("tiny", corpus, questions, "test"), setting, {JUDGED: scores})


def test_a_run_comes_back_from_its_file(tmp_path: Path) -> None:
    run = a_run([(0.1, 0.2, 1 / 3), (0.5, 1, 1)])
    save_run(run, tmp_path / "run.json")
    again = load_run(tmp_path / "run.json")
    assert again.subject == run.subject
    assert again.setting == run.setting
    np.testing.assert_array_equal(again.tests[JUDGED].values, run.tests[JUDGED].values)
    assert envelope(again) == envelope(run)
    assert json.loads((tmp_path / "run.json").read_text())["per_query"][JUDGED]["q1"] == {NDCG: 0.5, RECALL: 1, MRR: 1}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting"),
        ("[]", "list indices"),
        ("{}", "it has no 'format'"),
        ('{"format": 99}', "it has format 99, this semsearch reads 1"),
        ('{"format": 1}', "it has no 'corpus'"),
    ],
)
def test_a_file_that_is_no_run(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=f"run.json is no run that semsearch eval --save wrote: {reason}"):
        load_run(tmp_path / "run.json")


def test_runs_over_other_papers_or_questions_are_not_compared() -> None:
    run = a_run([(0, 0, 0), (1, 1, 1)])
    with pytest.raises(ValueError, match="the earlier run was over other papers: tiny"):
        compare_runs(run, a_run([(0, 0, 0), (1, 1, 1)], corpus="c1"))
    with pytest.raises(ValueError, match="the earlier run asked other questions"):
        compare_runs(run, a_run([(0, 0, 0), (1, 1, 1)], questions="q1"))
    with pytest.raises(ValueError, match="does not have the same questions and measures"):
        compare_runs(run, a_run([(0, 0, 0)]))


def test_the_table_shows_value_interval_and_difference() -> None:
    lines = table(a_run([(0.5, 1, 1)] * 4), a_run([(0.25, 1, 1)] * 4)).splitlines()
    assert lines[0] == "tiny, split test: 3 papers, dense search, m (ffffffffffff)"
    assert lines[1].startswith("before: tiny")
    assert " ".join(lines[3].split()) == "questions value 95 % interval before difference 95 % interval p"
    p_value = compare(np.full(4, 0.5), np.full(4, 0.25)).p_value
    expected = f"nDCG@10 4 0.5000 0.5000 to 0.5000 0.2500 +0.2500 +0.2500 to +0.2500 {p_value:.4f}"
    assert " ".join(lines[4].split()) == expected
    assert lines[5].split()[-1] == "1.0000"


def test_rankings_side_by_side() -> None:
    one, other = (a_run(values).tests[JUDGED] for values in ([(0.5, 1, 1)] * 4, [(0.25, 1, 1), (0, 1, 1)] * 2))
    both = side_by_side({"hybrid": one, "dense": other})
    assert list(both) == ["hybrid", "dense"]
    assert (both["hybrid"][NDCG], both["dense"][NDCG], both["dense"]["queries"]) == (0.5, 0.125, 4)
    assert "dense_minus_this" not in both["hybrid"]
    compared = compare(one.of(NDCG), other.of(NDCG))
    assert both["dense"]["hybrid_minus_this"][NDCG] == {
        "difference": 0.375,
        "interval_95": [0.25, 0.5],
        "p": round(compared.p_value, 6),
    }
    assert both["dense"]["hybrid_minus_this"][MRR]["p"] == 1
    few = a_run([(1, 1, 1)]).tests[JUDGED]
    assert "hybrid_minus_this" not in side_by_side({"hybrid": few, "dense": few})["dense"]


# Asking


def test_values_come_in_the_order_of_the_questions_whoever_is_first() -> None:
    last = threading.Event()

    def value(number: int) -> int:
        if number == 1:
            last.set()
        else:
            assert last.wait(10), "another thread asks the second question meanwhile"
        return number * number

    told: list[tuple[int, int]] = []
    assert each_value([0, 1], value, lambda *counts: told.append(counts)) == [0, 1]
    assert told == [(1, 2), (2, 2)]


def test_the_first_failure_ends_the_asking() -> None:
    asked: list[int] = []

    def value(number: int) -> int:
        asked.append(number)
        raise ValueError(f"no answer to {number}")

    with pytest.raises(ValueError, match="no answer to 0"):
        each_value(range(10_000), value)
    assert len(asked) < 10_000, "the rest was not asked"


# Judged sets

CORPUS = [
    {"_id": "w1", "title": "Whale song", "text": "whales sing long songs in the deep sea", "metadata": {"year": 1}},
    {"_id": "b1", "title": "Birdsong", "text": "birds learn songs from their parents"},
    {"_id": "1706.03762", "title": "Prices", "text": "stock prices follow a random walk"},
    {"_id": "empty", "title": "A title without a text", "text": ""},
]
QUERIES = [
    {"_id": "q1", "text": "songs that whales sing", "metadata": {}},
    {"_id": "q2", "text": "random walk of stock prices"},
    {"_id": "q3", "text": "songs"},
    {"_id": "blank", "text": " "},
    {"_id": "never judged", "text": "birds"},
]
QRELS = [
    ("q1", "w1", 2),
    ("q1", "b1", 1),
    ("q2", "1706.03762", 1),
    ("q2", "empty", 1),
    ("q3", "nowhere", 1),
    ("q3", "w1", 0),
    ("blank", "w1", 1),
    ("no text at all", "b1", 1),
    ("nothing relevant", "b1", 0),
]


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """Return a judged set that has a little of everything that real ones have."""
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    for name, records in (("corpus", CORPUS), ("queries", QUERIES)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    rows = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in QRELS)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(rows) + "\n")
    (folder / "qrels" / "dev.tsv").write_text("\n".join(rows[:3]) + "\n")
    return folder


def test_a_judged_set_is_read_and_what_it_lacks_is_counted(beir: Path) -> None:
    judged = JudgedSet.read(beir, "test")
    assert set(judged.grades) == {"q1", "q2", "q3", "blank", "no text at all", "nothing relevant"}
    assert judged.grades["q2"] == {"arxiv:1706.03762": 1, "empty": 1}, "ids as papers have them in an index"
    assert set(judged.queries) == {"q1", "q2", "q3"}
    assert judged.counts() == {
        "papers": 3,
        "records_without_paper": 1,
        "judgements": 9,
        "judgements_of_unknown_papers": 1,
        "unknown_papers": 1,
        "relevant_not_indexed": 2,
        "queries_not_asked": 3,
        "queries_without_relevant": 1,
    }


def test_every_judged_query_counts_even_without_an_answer(beir: Path) -> None:
    answers = {
        "songs that whales sing": ["b1", "w1"],
        "random walk of stock prices": ["arxiv:1706.03762"],
        "songs": [],
    }
    asked: list[tuple[int, int]] = []
    scores = ask_judged(JudgedSet.read(beir, "test"), answers.__getitem__, lambda *counts: asked.append(counts))
    assert scores.questions == ("blank", "no text at all", "nothing relevant", "q1", "q2", "q3")
    both = 1 + 1 / math.log2(3)
    found = dict(zip(scores.questions, scores.values.tolist(), strict=True))
    assert found["q1"] == pytest.approx([(1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3)), 1, 1])
    assert found["q2"] == pytest.approx([1 / both, 0.5, 1])
    assert scores.values.sum(axis=1).nonzero()[0].tolist() == [3, 4], "the others score 0, not nothing"
    assert asked == [(number, 6) for number in range(1, 7)]


def test_the_digest_of_the_questions_covers_texts_and_grades(beir: Path) -> None:
    def digest() -> str:
        return JudgedSet.read(beir, "test").subject.questions_sha256

    digests = [digest()]
    for path, old, new in [
        (beir / "queries.jsonl", "songs that whales sing", "songs whales sing"),
        (beir / "qrels" / "test.tsv", "q1\tw1\t2", "q1\tw1\t1"),
        (beir / "queries.jsonl", "never judged", "still not judged"),
    ]:
        path.write_text(path.read_text().replace(old, new))
        digests.append(digest())
    assert len(set(digests)) == 3
    assert digests[2] == digests[3], "who is not judged is not asked"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "qrels/test.tsv",
            "query-id\tcorpus-id\tscore\nq1\tw1\n",
            r"test\.tsv:2: not a query, a paper and a whole num",
        ),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n\nq1\tw1\t1.5\n", r"test\.tsv:3: not a query, a paper"),
        ("qrels/test.tsv", "q1\tw1\t1\n", r"test\.tsv:1: the header is not query-id <tab> corpus-id <tab> score"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n", r"test\.tsv holds no judgements"),
        (
            "qrels/test.tsv",
            "query-id\tcorpus-id\tscore\nq1\tw1\t1\nq1\tw1\t1\nq1\tw1\t2\n",
            r"test\.tsv:4: paper 'w1' was judged otherwise for query 'q1' above",
        ),
        ("queries.jsonl", '{"_id": "q1", "text": "x"}\n{broken\n', r"queries\.jsonl:2: the record is not valid JSON"),
        ("queries.jsonl", '{"_id": "q1"}\n', r"queries\.jsonl:1: a query is"),
        (
            "queries.jsonl",
            '{"_id": "q1", "text": "x"}\n{"_id": "q1", "text": "y"}\n',
            r"queries\.jsonl:2: the query 'q1' stands above with another text",
        ),
    ],
)
def test_a_malformed_line_is_named(beir: Path, name: str, content: str, message: str) -> None:
    (beir / name).write_text(content)
    with pytest.raises(SourceError, match=message):
        JudgedSet.read(beir, "test")


def test_judgements_that_are_not_utf_8(beir: Path) -> None:
    (beir / "qrels" / "test.tsv").write_bytes(b"query-id\tcorpus-id\tscore\r\nq1\tw1\t1\r\nq1\t\xff\t1\r\n")
    with pytest.raises(SourceError, match=r"test\.tsv:3: the line is not valid UTF-8"):
        JudgedSet.read(beir, "test")


def test_a_missing_split_names_those_that_are_there(beir: Path) -> None:
    with pytest.raises(SourceError, match=r"tiny has no split 'train'; it has dev, test$"):
        JudgedSet.read(beir, "train")
    with pytest.raises(SourceError, match=r"is no judged set: it has no qrels/test\.tsv"):
        JudgedSet.read(beir / "qrels", "test")
    with pytest.raises(SourceError, match="there is no folder"):
        JudgedSet.read(beir / "nowhere", "test")
    (beir / "queries.jsonl").unlink()
    with pytest.raises(SourceError, match=r"queries\.jsonl cannot be opened"):
        JudgedSet.read(beir, "test")


def test_the_corpus_wants_an_index_of_its_own(beir: Path, index_papers: Index, tmp_path: Path) -> None:
    index_papers([make_paper(1)])
    with pytest.raises(ValueError, match=r"holds papers that are not in .*corpus\.jsonl, such as p1; give the judged"):
        index_corpus(JudgedSet.read(beir, "test"), tmp_path / "index")


def test_a_corpus_that_cannot_be_read_any_more(beir: Path, tmp_path: Path, loader: FakeLoader) -> None:
    judged = JudgedSet.read(beir, "test")
    assert index_corpus(judged, tmp_path / "index", load=loader).papers == 3
    (beir / "corpus.jsonl").unlink()
    with pytest.raises(SourceError, match=r"corpus\.jsonl"):
        index_corpus(judged, tmp_path / "index", load=loader)


# Known items

NAMED = [
    make_paper(1, title="WhaleNet: Songs of the deep", words="Whales sing. They sing long songs. Nobody knows why."),
    make_paper(2, title="Whalenet: songs of the DEEP.", words="The same work, told again by its publisher."),
    make_paper(3, title="Learning: a study", words="one sentence of six words only"),
    make_paper(4, title="Prices", words="Stock prices follow a random walk. Bonds do not."),
    make_paper(5, title="", words="There is no title. There is only text."),
    make_paper(6, title="bird2vec: Vectors for birds", words="Birds become vectors. Near vectors sing alike."),
]


def asked_of(known: KnownItems) -> dict[str, dict[str, str]]:
    return {
        test: {question.paper_id: question.text for question in questions}
        for test, questions in known.questions.items()
    }


@pytest.fixture
def library(index_papers: Index, tmp_path: Path) -> Library:
    index_papers(NAMED)
    return Library.open(tmp_path / "index" / "library.db")


def draw(library: Library, count: int, seed: int = 0) -> KnownItems:
    return KnownItems.draw(library, library.all_live_seqs(library.last_seq()), dict.fromkeys(TESTS, count), seed)


def test_what_is_asked_about_a_paper(library: Library) -> None:
    asked = asked_of(draw(library, 10))
    assert asked["title"] == {paper.paper_id: paper.title for paper in NAMED if paper.title}
    assert asked["name"] == {"p1": "WhaleNet", "p6": "bird2vec"}, "Learning and Whalenet look like words"
    assert asked["abstract_half"] == {
        "p1": "Nobody knows why.",
        "p2": "again by its publisher.",
        "p3": "six words only",
        "p4": "Bonds do not.",
        "p5": "There is only text.",
        "p6": "Near vectors sing alike.",
    }
    assert set(asked["partial_title"]) == {"p1", "p2", "p3", "p6"}, "a title of one word has no part"
    for paper in NAMED:
        if partial := asked["partial_title"].get(paper.paper_id):
            words = paper.title.lower().split()
            assert partial in {" ".join(words[:gap] + words[gap + 1 :]) for gap in range(len(words))}
    library.close()


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("BERT: Deep things", "BERT"),
        ("word2vec: Words", "word2vec"),
        ("Sentence-BERT: Sentences", "Sentence-BERT"),
        ("GloVe: Global", "GloVe"),
        ("Introduction: The beginning", None),
        ("Cross-Lingual: A study", None),
        ("Deep Learning: A review", None),
        ("A plain title", None),
        ("BERT:", None),
        ("X: the unknown", None),
    ],
)
def test_which_titles_begin_with_a_name(title: str, name: str | None) -> None:
    assert TESTS["name"].ask(make_paper(1, title=title), random.Random(0)) == name


def test_a_draw_depends_on_ids_and_seed_only(tmp_path: Path, loader: FakeLoader) -> None:
    papers = [make_paper(number) for number in range(120)]
    libraries: list[Library] = []
    for name, order in (("forward", papers), ("backward", papers[::-1])):
        source = write_jsonl(tmp_path / f"{name}.jsonl", order)
        update_index(tmp_path / name, imports_of([source]), load=loader)
        libraries.append(Library.open(tmp_path / name / "library.db"))
    one, other = (draw(library, 10) for library in libraries)
    assert asked_of(one) == asked_of(other)
    assert one.subject("a") == Subject("a", other.papers_sha256, other.subject("b").questions_sha256)
    drawn = [set(asked_of(draw(libraries[0], 10, seed))["title"]) for seed in range(30)]
    assert len({frozenset(ids) for ids in drawn}) > 25
    assert len(set.union(*drawn)) > 90, "every paper can be drawn"
    libraries[0].delete(["p7"])
    assert draw(libraries[0], 10).papers_sha256 != one.papers_sha256
    for library in libraries:
        library.close()


def test_known_items_by_hand(library: Library) -> None:
    rankings: dict[str, list[str]] = {
        "WhaleNet: Songs of the deep": ["p4", "p2", "p1"],  # p2 has the same title
        "Prices": ["p4"],
        "bird2vec": ["p1", "p2", "p3", "p6"],
    }
    scores = ask_known(draw(library, 10), lambda query: rankings.get(query, []))
    found = {test: dict(zip(each.questions, each.values.tolist(), strict=True)) for test, each in scores.items()}
    assert {each.measures for each in scores.values()} == {(MRR, FIRST)}
    assert found["title"] == {"p1": [0.5, 0], "p2": [0, 0], "p3": [0, 0], "p4": [1, 1], "p6": [0, 0]}
    assert found["name"] == {"p1": [0, 0], "p6": [0.25, 0]}
    library.close()


TWICE_TOLD = [
    *(make_paper(number, title=f"Net{number % 9}: the Songs of whales") for number in range(40)),
    *(make_paper(number, title=f"net{number % 9}: The songs of whales.") for number in range(40, 60)),
    *(make_paper(number, title="") for number in range(60, 66)),
]


def slowly(searcher: Searcher, questions: Sequence[Question], test: str, mode: Mode) -> list[tuple[float, float]]:
    """Return the figures of a test's questions by reading every paper found and comparing it with the one asked for."""
    figures = []
    own = {paper.paper_id: paper for paper in TWICE_TOLD}
    for question in questions:
        found = [hit.paper for hit in searcher.search(question.text, Page(1_000, collapse="none"), mode).hits]
        key = TESTS[test].key(own[question.paper_id])
        right = [
            rank
            for rank, paper in enumerate(found, 1)
            if paper.paper_id == question.paper_id or (key and TESTS[test].key(paper) == key)
        ]
        figures.append((1 / right[0], float(right[0] == 1)) if right else (0.0, 0.0))
    return figures


@pytest.mark.parametrize("mode", MODES)
def test_ids_alone_score_as_the_papers_found_do(
    index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder, mode: Mode
) -> None:
    index_papers(TWICE_TOLD)
    folder = IndexFolder(tmp_path / "index")
    with Searcher(Library.open(folder.library), open_current(folder), fake_encoder) as searcher:
        known = KnownItems.draw(searcher.library, searcher.generation.live_seqs(), dict.fromkeys(TESTS, 50))
        scores = ask_known(known, lambda query: searcher.ranked(query, mode))
        for test, questions in known.questions.items():
            assert questions
            expected = slowly(searcher, questions, test, mode)
            assert [tuple(row) for row in scores[test].values.tolist()] == expected


def test_only_the_tests_wanted_are_drawn(library: Library) -> None:
    seqs = library.all_live_seqs(library.last_seq())
    known = KnownItems.draw(library, seqs, {"title": 4, "abstract_half": 2})
    assert {test: len(questions) for test, questions in known.questions.items()} == {"title": 4, "abstract_half": 2}
    everything = KnownItems.draw(library, seqs, dict.fromkeys(TESTS, 4)).questions
    assert known.questions["title"] == everything["title"]
    assert known.questions["abstract_half"] == everything["abstract_half"][:2]
    library.close()


def test_papers_without_titles_leave_tests_without_questions(index_papers: Index, tmp_path: Path) -> None:
    index_papers([make_paper(number, title="") for number in range(3)])
    generation = open_current(IndexFolder(tmp_path / "index"))
    with Library.open(tmp_path / "index" / "library.db") as library:
        known = KnownItems.draw(library, generation.live_seqs(), dict.fromkeys(TESTS, 2))
    scores = ask_known(known, lambda query: [])
    assert [len(each.questions) for each in scores.values()] == [0, 0, 2, 0]
    run = Run(known.subject("x"), a_run([]).setting, scores)
    assert run.headline == ("title MRR", None)
    title: Any = envelope(run)["tests"]["title"]
    assert title == {MRR: None, FIRST: None, "intervals_95": {MRR: None, FIRST: None}, "queries": 0}
    assert table(run, run).splitlines()[4].split() == ["title", "MRR", "0", "-", "-"]
