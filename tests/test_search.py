"""The reading corridor against oracles: a numpy matrix product over the library's vectors, and plain set logic."""

import gc
import math
import shutil
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import faiss
import numpy as np
import pytest
from conftest import FakeEncoder, FakeLoader, Index, make_paper, passage_vectors, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from storage import hurry, memory_folder

from semsearch import search
from semsearch.encoders import EncoderSpec, Tokenised
from semsearch.errors import EncoderError, LibraryDamageError, PaperNotFoundError
from semsearch.filters import EVERY_PAPER, Filter, parse_filter
from semsearch.generation import Generation, IndexFolder, open_current
from semsearch.library import Library
from semsearch.papers import Paper
from semsearch.queries import LexicalQuery, parse_query
from semsearch.ranking import MODES, Mode, Ranker
from semsearch.ranking import Question as RankedQuestion
from semsearch.reindex import imports_of, update_index
from semsearch.search import Answer, Collapse, LegEvidence, Page, Searcher


def open_searcher(index: Path, encoder: FakeEncoder) -> Searcher:
    folder = IndexFolder(index)
    return Searcher(Library.open(folder.library), open_current(folder), encoder)


PAPERS = [
    *(make_paper(number) for number in range(60)),
    *(make_paper(number, words="the very same words", title="Twin") for number in range(60, 90)),
]
EVERY_ID = frozenset(paper.paper_id for paper in PAPERS)


@pytest.fixture
def searcher(index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder) -> Iterator[Searcher]:
    index_papers(PAPERS)
    with open_searcher(tmp_path / "index", fake_encoder) as opened:
        yield opened


def scored(answer: Answer) -> list[tuple[float, str]]:
    return [(hit.score, hit.paper.paper_id) for hit in answer.hits]


def ids(answer: Answer) -> list[str]:
    return [hit.paper.paper_id for hit in answer.hits]


def oracle(searcher: Searcher, query: str, excluded: Set[str] = frozenset()) -> list[tuple[float, str]]:
    """Return (score, id) of all live papers by brute force, ties by id."""
    library = searcher.library
    number = library.encoder_number(searcher.encoder.spec.fingerprint, "")
    vector = searcher.encoder.encode_queries([query])[0].astype(np.float64)
    scored: list[tuple[float, str]] = []
    for seqs, vectors in library.vectors_at(library.all_live_seqs(library.last_seq()).tolist(), number):
        scores = np.round((vectors.astype(np.float64) * vector).sum(axis=1), 6)
        names = library.ids_at(seqs.tolist())
        scored += [(float(score), names[seq]) for score, seq in zip(scores, seqs.tolist(), strict=True)]
    return sorted((pair for pair in scored if pair[1] not in excluded), key=lambda pair: (-pair[0], pair[1]))


ABSTRACT = " ".join(f"Subject{n % 7} and method{n % 5} led to finding{n}, the very same words." for n in range(20))
QUERIES = ["subject3 method2", "finding41", "the very same words", "twin", "nothing of all this", "paper 12 finding12"]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize(("limit", "offset"), [(1, 0), (10, 0), (7, 13), (25, 60), (100, 0)])
def test_answers_equal_brute_force(searcher: Searcher, query: str, limit: int, offset: int) -> None:
    expected = oracle(searcher, query)[offset : offset + limit]
    answer = searcher.search(query, Page(limit, offset, collapse="none"), "dense")
    assert ids(answer) == [paper_id for _, paper_id in expected]
    assert [hit.score for hit in answer.hits] == pytest.approx([score for score, _ in expected], abs=2e-6)
    assert [hit.rank for hit in answer.hits] == list(range(offset + 1, offset + 1 + len(expected)))


@pytest.mark.parametrize("mode", MODES)
def test_ids_alone_are_those_of_the_hits(searcher: Searcher, mode: Mode) -> None:
    where = parse_filter([("ids", "|".join(f"p{number}" for number in range(0, 90, 3)))])
    for query in [*QUERIES, "finding7 -subject0", '"method2 finding2"']:
        for filtered in (EVERY_PAPER, where):
            page = Page(1_000, where=filtered, collapse="none")
            assert searcher.ranked(query, mode, filtered) == ids(searcher.search(query, page, mode))
    with pytest.raises(ValueError, match="the text is blank"):
        searcher.ranked(" ", mode)


def test_lists_are_told_and_can_be_done_without(
    index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semsearch.generation.files.LISTS_FROM", 200)
    index_papers([make_paper(number) for number in range(400)])
    with open_searcher(tmp_path / "index", fake_encoder) as searcher:
        measured = searcher.generation.manifest.recall_at_10
        cases: list[tuple[Mode, bool]] = [("dense", True), ("hybrid", True), ("lexical", False)]
        for mode, approximate in cases:
            answer = searcher.search("finding41", mode=mode)
            assert (answer.approximate, answer.recall_at_10) == (approximate, measured if approximate else 1.0)
        for query in QUERIES:
            answer = searcher.search(query, Page(20, collapse="none", approximate=False), "dense")
            assert ids(answer) == [paper_id for _, paper_id in oracle(searcher, query)[:20]]
            assert (answer.approximate, answer.recall_at_10) == (False, 1.0)
        assert searcher.related(["p41"]).approximate
        assert not searcher.related(["p41"], Page(approximate=False)).approximate
        assert not searcher.related_to_text("finding41", "", Page(approximate=False)).approximate


def test_pages_of_what_lists_find_fit_each_other(
    index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semsearch.generation.files.LISTS_FROM", 200)
    monkeypatch.setattr("semsearch.vectors.nearest._FEW_ROWS", 20)
    monkeypatch.setattr("semsearch.vectors.lists._FEWEST_CANDIDATES", 20)  # so they depend on how many
    monkeypatch.setattr("semsearch.ranking._CANDIDATES", 260)
    index_papers([make_paper(number) for number in range(600)])
    wheres = [EVERY_PAPER, parse_filter([("ids", "|".join(f"p{number}" for number in range(0, 600, 2)))])]
    with open_searcher(tmp_path / "index", fake_encoder) as searcher:
        for query, where in product(QUERIES, wheres):
            whole = searcher.search(query, Page(120, where=where, collapse="none"), "dense")
            pages = [
                searcher.search(query, Page(7, offset, where=where, collapse="none"), "dense")
                for offset in range(0, 119, 7)
            ]
            assert [name for page in pages for name in ids(page)] == ids(whole)[:119]
            assert {page.total for page in pages} == {whole.total}


def test_a_filter_is_evaluated_once_while_it_is_asked_again(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[Filter] = []
    matching = Generation.matching

    def counted(self: Generation, wanted: Filter, rows_of_ids: Any) -> Any:
        evaluated.append(wanted)
        return matching(self, wanted, rows_of_ids)

    monkeypatch.setattr(Generation, "matching", counted)
    one, other = (parse_filter([("ids", name)]) for name in ("p1|p2|p3", "p4|p5"))
    for where, expected in [(one, {"p1", "p2", "p3"}), (other, {"p4", "p5"}), (one, {"p1", "p2", "p3"})]:
        for mode in ("hybrid", "dense"):
            assert set(ids(searcher.search("the very same words", Page(where=where), mode))) == expected
        assert set(ids(searcher.search("subject1 -finding2", Page(where=where)))) == expected - {"p2"}
    assert evaluated == [one, other]


def test_ties_are_ordered_by_id_and_pages_neither_repeat_nor_skip(searcher: Searcher) -> None:
    twins = sorted(f"p{number}" for number in range(60, 90))
    for mode in MODES:
        assert ids(searcher.search("Twin the very same words", Page(30), mode)) == twins
        pages = [searcher.search("Twin the very same words", Page(7, offset), mode) for offset in range(0, 90, 7)]
        paged = [each for page in pages for each in ids(page)]
        assert paged[:30] == twins
        assert len(paged) == len(set(paged))
    assert sorted(paged[:30]) == twins


Question = Callable[[Searcher], Answer]


def searched(text: str, page: Page, mode: Mode) -> Question:
    return lambda searcher: searcher.search(text, page, mode)


def pasted(text: str, page: Page) -> Question:
    return lambda searcher: searcher.related_to_text("", text, page)


def liked(names: Sequence[str], page: Page) -> Question:
    """Return the question for papers like the first three and unlike the others."""
    return lambda searcher: searcher.related(names[:3], page, names[3:])


def questions(page: Page) -> list[Question]:
    texts = [*QUERIES, ABSTRACT]
    return [
        *(searched(text, page, mode) for text in texts for mode in MODES),
        *(pasted(text, page) for text in texts),
        *(liked(names.split(), page) for names in ("p3", "p61", "p3 p10", "p61 p4 p12 p5 p80")),
    ]


@pytest.fixture
def grown(index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder) -> Iterator[Searcher]:
    """Return a searcher over an index that came about in steps."""
    for end in (40, 70, 85, 90):
        index_papers(PAPERS[:end])
    with open_searcher(tmp_path / "index", fake_encoder) as searcher:
        assert len(searcher.generation.segments) > 1
        yield searcher


def test_threads_change_no_answer(grown: Searcher) -> None:
    answers = []
    for threads in (1, 2):
        faiss.omp_set_num_threads(threads)
        answers.append([scored(ask(grown)) for ask in questions(Page(50))])
        dense = [scored(grown.search(query, Page(50), "dense")) for query in QUERIES]
        assert dense == [oracle(grown, query)[:50] for query in QUERIES]
    assert answers[0] == answers[1]


def test_those_who_ask_at_once_get_the_answers_of_those_who_ask_alone(grown: Searcher) -> None:
    asked = questions(Page(3)) + questions(Page(30, 10))
    alone = [ask(grown) for ask in asked]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda ask: ask(grown), asked * 2))
    for one, other in zip(alone * 2, together, strict=True):
        assert replace(one, took_ms=0.0) == replace(other, took_ms=0.0)


def made_at_once(searcher: Searcher, path: Path) -> Searcher:
    """Return a searcher over the index that one step makes of the same library."""
    path.mkdir()
    shutil.copy(searcher.library.path, path)
    update_index(path, [], load=FakeLoader())
    return Searcher(Library.open(IndexFolder(path).library), open_current(IndexFolder(path)), searcher.encoder)


def test_an_index_grown_in_steps_answers_like_one_made_at_once(grown: Searcher, tmp_path: Path) -> None:
    with made_at_once(grown, tmp_path / "anew") as at_once:
        assert len(at_once.generation.segments) == 1
        for ask in questions(Page(90)):
            assert replace(ask(grown), took_ms=0.0, generation=1) == replace(ask(at_once), took_ms=0.0)


VOCABULARY = [f"{stem}{number}" for number in range(12) for stem in ("tree", "graph", "speech", "cell", "ice")]


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), window=st.sampled_from([10, 25, 1_000]))
def test_neither_steps_nor_merges_nor_windows_change_an_answer(
    seed: int, window: int, fake_encoder: FakeEncoder
) -> None:
    """Papers come in steps of any size, whose segments merge or do not, and are compared with an index made at once."""
    rng = np.random.default_rng(seed)
    chances = 1 / np.arange(1, len(VOCABULARY) + 1)

    def text(words: int) -> str:
        return " ".join(rng.choice(VOCABULARY, words, p=chances / chances.sum()))

    lengths = zip(rng.integers(1, 9, 120).tolist(), rng.integers(1, 60, 120).tolist(), strict=True)
    papers = [make_paper(n, text(words), title=text(title)) for n, (title, words) in enumerate(lengths)]
    asked = [
        *(searched(text(words), Page(10), mode) for words in (1, 4, 12, 60) for mode in MODES),
        *(pasted(text(words), Page(10)) for words in (5, 60)),
        *(liked([f"p{n}" for n in rng.choice(120, names)], Page(10)) for names in (1, 2, 5)),
    ]
    with memory_folder() as path, pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        patch.setattr(search, "MAX_WINDOW", window)
        for end in (*sorted(rng.choice(119, 3, replace=False) + 1), 120):
            source = write_jsonl(path / "s.jsonl", papers[:end])
            update_index(path / "index", imports_of([source]), load=FakeLoader())
        with (
            open_searcher(path / "index", fake_encoder) as grown,
            made_at_once(grown, path / "anew") as at_once,
        ):
            for ask in asked:
                assert replace(ask(grown), took_ms=0.0, generation=1) == replace(ask(at_once), took_ms=0.0)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, fake_encoder: FakeEncoder) -> Iterator[Searcher]:
    rng = np.random.default_rng(12)
    chances = 1 / np.arange(1, len(VOCABULARY) + 1)
    texts = (" ".join(rng.choice(VOCABULARY, 14, p=chances / chances.sum())) for _ in range(400))
    papers = [make_paper(n, text, title=" ".join(text.split()[:4])) for n, text in enumerate(texts)]
    path = tmp_path_factory.mktemp("many")
    update_index(path / "index", imports_of([write_jsonl(path / "many.jsonl", papers)]), load=FakeLoader())
    with open_searcher(path / "index", fake_encoder) as searcher:
        yield searcher


def test_settled_places_are_what_they_would_be_if_all_was_looked_up(many: Searcher) -> None:
    rng, left = np.random.default_rng(13), 0
    for window, places in product((20, 60), (1, 5, 30)):
        for _ in range(25):
            text = " ".join(rng.choice(VOCABULARY, int(rng.integers(1, 9))))
            titled = rng.choice(400, int(rng.integers(0, 2)))
            asked = RankedQuestion(many.encoder.encode_queries([text])[0], parse_query(text), titled=titled)
            ranker = Ranker(many.generation, asked)
            whole, part = ranker.ranked(window), ranker.ranked(window, places=places)
            assert whole.settled == len(whole.rows)
            assert part.settled >= min(places, len(part.rows))
            for field in ("rows", "scores", "bm25", "cosines", "dense_ranks", "lexical_ranks"):
                np.testing.assert_array_equal(
                    getattr(part, field)[: part.settled], getattr(whole, field)[: part.settled]
                )
            assert part.best == whole.best
            left += part.settled < len(part.rows)
    assert left > 10, "or nothing was left unknown"


# Titles


TITLED = [
    make_paper(100, title="Snow -and ice"),
    make_paper(101, title="Snow and ice"),
    make_paper(102, title="On the colours of winter birds in the far north"),
    *(make_paper(110 + number, words="snow and ice and winter birds in the far north") for number in range(30)),
]


@pytest.fixture
def titled(index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder) -> Iterator[Searcher]:
    index_papers([*PAPERS[:60], *TITLED])
    with open_searcher(tmp_path / "index", fake_encoder) as opened:
        yield opened


def test_a_paper_whose_title_is_typed_comes_first_and_its_signs_are_no_syntax(titled: Searcher) -> None:
    for typed in ("Snow -and ice", "snow and ICE", '"Snow" and: ice!'):
        answer = titled.search(typed, Page(5, collapse="none"))
        assert sorted(ids(answer)[:2]) == ["p100", "p101"]
        assert answer.hits[1].score > 1 > answer.hits[2].score
    assert ids(titled.search("snow -and ice winter", mode="lexical")) == ["p102"], "no title, so it excludes"
    assert ids(titled.search("Paper 7"))[0] == "p7"
    assert ids(titled.search("Paper 7", Page(where=parse_filter([("ids", "p8|p9")])))) in (["p8", "p9"], ["p9", "p8"])


def test_what_no_argument_can_be_is_refused(titled: Searcher) -> None:
    with pytest.raises(ValueError, match="mode must be one of hybrid, dense, lexical, not 'Dense'"):
        titled.search("snow", mode="Dense")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="collapse must be one of work, none, not 'works'"):
        Page(collapse="works")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="facet_values must be 0 or more, not -1"):
        Page(facet_values=-1)
    with pytest.raises(ValueError, match="name at least one paper, in a list"):
        titled.related("p7")


def test_a_phrase_is_demanded_though_it_is_the_title_of_a_paper(titled: Searcher) -> None:
    assert ids(titled.search('"Paper 7"', Page(50))) == ["p7"]
    assert titled.search('"Paper 7"', Page(50, facet_values=5)).total == 1
    by_words = titled.search('"Paper 7" snow', Page(1), "lexical")
    assert (by_words.total, by_words.total_is_exact) == (1, True)


def test_a_title_half_remembered_finds_its_paper_first(titled: Searcher) -> None:
    for typed in ("on the colours of winter birds in the north", "the colours of winter birds in the far north"):
        assert ids(titled.search(typed))[0] == "p102", typed
    plain = titled.search("winter birds in the far north", Page(40, collapse="none"))
    assert all(hit.score < 1 for hit in plain.hits), "half of a title is a question like any other"


def test_a_title_of_hundreds_of_words_is_nearly_no_question(
    index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder
) -> None:
    asked = "snow and ice and winter birds in the far north of the old town"
    title = " ".join([*(f"{chr(97 + n // 26)}{chr(97 + n % 26)}o" for n in range(247)), "in", "the", "of"])
    index_papers([*TITLED, make_paper(99, title=title)])
    with open_searcher(tmp_path / "index", fake_encoder) as opened:
        assert ids(opened.search(asked, Page(40)))[-1] == "p99"


def test_titles_raise_no_score_of_a_single_leg(titled: Searcher) -> None:
    dense = titled.search("Snow and ice", Page(10, collapse="none"), "dense")
    assert scored(dense) == oracle(titled, "Snow and ice")[:10]
    lexical = titled.search("Snow and ice", Page(10, collapse="none"), "lexical")
    assert [hit.score for hit in lexical.hits] == [
        hit.evidence.lexical.score for hit in lexical.hits if hit.evidence.lexical
    ]


def test_a_deleted_paper_vanishes_and_an_older_version_never_shows(
    index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder
) -> None:
    index_papers(PAPERS)
    changed = [make_paper(5, words="brand new words"), *PAPERS[6:]]
    index_papers(changed, sync=True)
    with open_searcher(tmp_path / "index", fake_encoder) as searcher:
        assert searcher.search("x").total == 85
        everything = ids(searcher.search("finding5", Page(85)))
        assert ids(searcher.search("brand", mode="lexical")) == ["p5"]
        assert ids(searcher.search("finding4", mode="lexical")) == []
        assert sorted(everything) == sorted(paper.paper_id for paper in changed)
        assert searcher.paper("p5").abstract == "brand new words"
        with pytest.raises(PaperNotFoundError, match="not in the index: 'p4'"):
            searcher.paper("p4")


def test_a_paper_that_a_damaged_key_hides_is_not_said_to_be_missing(searcher: Searcher) -> None:
    searcher.library._connection.execute("DELETE FROM changes WHERE paper_id = 'p5'")
    asked: list[Callable[[], object]] = [
        lambda: searcher.paper("p5"),
        lambda: searcher.related(["p4", "p5"]),
        lambda: searcher.search("finding", Page(where=parse_filter([("ids", "p5")]))),
    ]
    for ask in asked:
        with pytest.raises(LibraryDamageError, match="no longer finds paper 'p5', which it held"):
            ask()
    with pytest.raises(PaperNotFoundError, match="not in the index: 'p900'"):
        searcher.paper("p900")


def test_an_answer_names_what_it_came_from(searcher: Searcher) -> None:
    answer = searcher.search("subject3")
    assert (answer.total, answer.total_is_exact, answer.mode, answer.generation) == (90, True, "hybrid", 1)
    assert (answer.model, answer.approximate, answer.recall_at_10) == ("all-MiniLM-L6-v2", False, 1.0)
    assert answer.took_ms > 0


def test_a_hit_says_where_each_leg_put_it(searcher: Searcher) -> None:
    dense = searcher.search("subject3 method2 finding17", Page(90), "dense")
    lexical = searcher.search("subject3 method2 finding17", Page(90), "lexical")
    hybrid = searcher.search("subject3 method2 finding17", Page(90))
    assert {hit.evidence.lexical for hit in dense.hits} == {hit.evidence.dense for hit in lexical.hits} == {None}
    assert [hit.evidence.dense for hit in dense.hits] == [LegEvidence(hit.rank, hit.score) for hit in dense.hits]
    assert [hit.evidence.lexical for hit in lexical.hits] == [LegEvidence(hit.rank, hit.score) for hit in lexical.hits]
    cosines = {hit.paper.paper_id: hit.evidence.dense for hit in dense.hits}
    bm25 = {hit.paper.paper_id: hit.evidence.lexical for hit in lexical.hits}
    assert len(hybrid.hits) == 90
    for hit in hybrid.hits:
        assert hit.evidence.dense == cosines[hit.paper.paper_id]
        assert hit.evidence.lexical == (bm25.get(hit.paper.paper_id) or LegEvidence(None, 0.0))


def fused(searcher: Searcher, vector: NDArray[np.float32], words: LexicalQuery, allowed: Set[str]) -> dict[str, float]:
    """Return the hybrid scores of these papers, worked out from their own vectors and from BM25 over all papers."""
    lexical = searcher.generation.lexical
    scores, seqs = lexical.search(words, 1_000)
    names = searcher.library.ids_at(seqs.tolist())
    bm25 = {names[seq]: score for score, seq in zip(scores.tolist(), seqs.tolist(), strict=True)}
    share = {name: bm25.get(name, 0.0) / lexical.most(words) for name in allowed}
    texts = [searcher.paper(name).text for name in allowed]
    vectors = dict(zip(allowed, passage_vectors(searcher.encoder, texts).astype(np.float64), strict=True))
    first = {name: (round(float(vectors[name] @ vector), 6) + share[name]) / 2 for name in allowed}
    best = sorted(allowed, key=lambda name: (-round(first[name], 6), name))[:10]
    weights = np.exp([30 * first[name] for name in best])
    moved = vector.astype(np.float64)
    for name, weight in zip(best, weights / weights.sum(), strict=True):
        moved = moved + 0.5 * weight * vectors[name]
    moved /= np.linalg.norm(moved)
    return {name: float((vectors[name] @ moved + share[name]) / 2) for name in allowed}


def fused_search(searcher: Searcher, query: str, allowed: Set[str]) -> dict[str, float]:
    return fused(searcher, searcher.encoder.encode_queries([query])[0], parse_query(query), allowed)


@pytest.mark.parametrize("query", ["subject3 method2 finding17", "which paper 12 has finding12", "twin words", "zebra"])
def test_a_hybrid_score_joins_both_legs_after_feedback(searcher: Searcher, query: str) -> None:
    expected = fused_search(searcher, query, EVERY_ID)
    answer = searcher.search(query, Page(90, collapse="none"))
    assert {hit.paper.paper_id: hit.score for hit in answer.hits} == pytest.approx(expected, abs=3e-6)
    assert scored(answer) == sorted(scored(answer), key=lambda pair: (-pair[0], pair[1]))


def test_what_could_be_scored_at_most_is_the_idf_of_all_words(searcher: Searcher) -> None:
    """Of 90 papers 30 say "very", none says "zebra"; k1 is 1.2, and what is asked twice counts twice."""
    idf = 2 * math.log(1 + (90 - 30 + 0.5) / 30.5) + math.log(1 + 90.5 / 0.5)
    assert searcher.generation.lexical.most(parse_query("very zebra very")) == pytest.approx(2.2 * idf)


@pytest.mark.parametrize("mode", MODES)
def test_a_word_with_a_minus_alone_is_a_word(searcher: Searcher, mode: Mode) -> None:
    alone, word = (searcher.search(query, Page(20), mode) for query in ("-subject2", "subject2"))
    assert alone.mode == word.mode == mode
    assert alone.hits
    if mode == "lexical":
        assert ids(alone) == ids(word)


def test_evidence_is_the_sentence_and_the_words(index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder) -> None:
    abstract = "We study rivers. Meltwater from glaciers drains fast in spring. Nothing else is known."
    index_papers([make_paper(1, words=abstract), make_paper(2), make_paper(3), make_paper(4)])
    with open_searcher(tmp_path / "index", fake_encoder) as searcher:
        for mode in MODES:
            evidence = searcher.search("which glaciers lose meltwater?", mode=mode).hits[0].evidence
            assert evidence.sentence is not None
            start, end = evidence.sentence
            assert abstract[start:end] == "Meltwater from glaciers drains fast in spring."
            assert set(evidence.terms) == {"glaciers", "meltwater"}
        assert searcher.search("subject2", mode="dense").hits[-1].evidence.sentence is None


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ('"same words"', {f"p{n}" for n in range(60, 90)}),
        ('"words same"', set()),
        ("title:twin finding5", {f"p{n}" for n in range(60, 90)}),
        ("-title:twin subject3", {f"p{n}" for n in range(60)}),
        ("subject3 -method2", {f"p{n}" for n in range(90) if n >= 60 or n % 5 != 2}),
        ("-the title:twin", set()),
        ("author:lovelace", set()),
    ],
)
def test_what_a_query_demands_holds_in_every_mode(searcher: Searcher, query: str, expected: set[str]) -> None:
    for mode in ("hybrid", "dense"):
        answer = searcher.search(query, Page(100, collapse="none"), mode)
        if answer.mode == "lexical":  # nothing was left to encode
            assert set(ids(answer)) <= expected
        else:
            assert set(ids(answer)) == expected
            assert answer.total == len(expected)
    assert set(ids(searcher.search(query, Page(100, collapse="none"), "lexical"))) <= expected


CATEGORIES = ("cs.CL", "cs.LG", "stat.ML", "math.CO")
DATED = [
    make_paper(
        number,
        published=str(2000 + number % 10),
        categories=tuple(CATEGORIES[place] for place in range(4) if number >> place & 1),
        venue=f"Venue {number % 3}",
        authors=(f"Ada{number % 4} Lovelace", "Grace Hopper") if number % 2 else ("Alan Turing",),
        doi=f"10.1000/{number}" if number % 5 == 0 else None,
    )
    for number in range(120)
]
PREDICATES: dict[tuple[str, str], Callable[[Paper], bool]] = {
    ("year", "2003-2005"): lambda paper: paper.year in (2003, 2004, 2005),
    ("year", "!2003-2005"): lambda paper: paper.year not in (2003, 2004, 2005),
    ("year", "2001"): lambda paper: paper.year == 2001,
    ("category", "cs.*"): lambda paper: any(name.startswith("cs.") for name in paper.categories),
    ("category", "math.CO|stat.ML"): lambda paper: bool({"math.CO", "stat.ML"} & set(paper.categories)),
    ("category", "!cs.CL"): lambda paper: "cs.CL" not in paper.categories,
    ("venue", "venue 1"): lambda paper: paper.venue == "Venue 1",
    ("author", "ada1 lovelace"): lambda paper: "Ada1 Lovelace" in paper.authors,
    ("author", "!hopper"): lambda paper: "Grace Hopper" not in paper.authors,
    ("has_doi", "true"): lambda paper: paper.doi is not None,
    ("ids", "p7|p8|p9|p200"): lambda paper: paper.paper_id in ("p7", "p8", "p9"),
    ("source", "elsewhere"): lambda paper: False,
}


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory, fake_encoder: FakeEncoder) -> Iterator[Searcher]:
    """Return a searcher over papers with all fields, in several segments, some of them deleted."""
    folder = tmp_path_factory.mktemp("dated")
    for end in (80, 110, 120):
        source = write_jsonl(folder / "dated.jsonl", DATED[:end])
        update_index(folder / "index", imports_of([source]), load=FakeLoader())
    source = write_jsonl(folder / "dated.jsonl", DATED[:115])
    update_index(folder / "index", imports_of([source], sync=True), load=FakeLoader())
    with open_searcher(folder / "index", fake_encoder) as opened:
        assert len(opened.generation.segments) > 1
        yield opened


@given(
    st.lists(st.sampled_from(list(PREDICATES)), max_size=3),
    st.sampled_from(["subject3 method2", "finding41", "paper", "nothing of all this"]),
    st.sampled_from(MODES),
    st.integers(1, 120),
)
def test_a_filter_leaves_exactly_the_ranking_of_what_it_allows(
    dated: Searcher, conditions: list[tuple[str, str]], query: str, mode: Mode, limit: int
) -> None:
    allowed = {paper.paper_id for paper in DATED[:115] if all(PREDICATES[each](paper) for each in conditions)}
    everything = scored(dated.search(query, Page(200, collapse="none"), mode))
    answer = dated.search(query, Page(limit, where=parse_filter(conditions), collapse="none", facet_values=50), mode)
    if mode == "hybrid":  # its feedback comes from the papers allowed
        expected = sorted(fused_search(dated, query, allowed).values(), reverse=True) if allowed else []
        assert [hit.score for hit in answer.hits] == pytest.approx(expected[:limit], abs=3e-6)
        assert set(ids(answer)) <= allowed
    else:
        assert scored(answer) == [pair for pair in everything if pair[1] in allowed][:limit]
    if mode != "lexical":
        assert (answer.total, answer.total_is_exact) == (len(allowed), True)
    counted = allowed & {name for _, name in everything}  # in lexical mode, those that hold a word
    years = Counter(str(paper.year) for paper in DATED[:115] if paper.paper_id in counted)
    assert answer.facets is not None
    assert {value.value: value.count for value in answer.facets["year"].values} == years


LONG = (
    "Glaciers store most of the fresh water of the planet, and their retreat changes rivers far below them. We follow "
    "forty valley glaciers over thirty summers with the same instruments, and relate what they lose to the weather of "
    "the year before. Warm springs matter more than hot summers, and dust on the snow more than both of them together."
)


@pytest.fixture
def versions(index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder) -> Iterator[Searcher]:
    """Return a searcher over a preprint, what was published of it, and other papers."""
    fields = {"title": "What forty glaciers tell about the springs before", "authors": ("Mina Berg", "Ole Sand")}
    preprint = make_paper(1, words=LONG, paper_id="arxiv:2101.00001", published="2021", venue=None, **fields)
    published = make_paper(2, words=LONG, paper_id="doi:10.1000/g1", published="2022", venue="Ice Letters", **fields)
    index_papers([preprint, *(make_paper(number) for number in range(10, 40))], "preprints")
    index_papers([published], "journals")
    with open_searcher(tmp_path / "index", fake_encoder) as opened:
        yield opened


def test_versions_of_one_work_are_one_hit(versions: Searcher) -> None:
    for mode in MODES:
        answer = versions.search("glaciers and dust on the snow", Page(40), mode)
        assert ids(answer)[0] == "arxiv:2101.00001"
        assert "doi:10.1000/g1" not in ids(answer)
        assert [paper.paper_id for paper in answer.hits[0].versions] == ["doi:10.1000/g1"]
        apart = versions.search("glaciers and dust on the snow", Page(40, collapse="none"), mode)
        assert ids(apart)[:2] == ["arxiv:2101.00001", "doi:10.1000/g1"]
        assert apart.hits[0].versions == ()
        assert apart.total == answer.total + 1


def test_a_filter_shows_the_version_that_it_allows(versions: Searcher) -> None:
    page = Page(where=parse_filter([("venue", "ice letters")]), facet_values=5)
    answer = versions.search("glaciers", page)
    assert ids(answer) == ["doi:10.1000/g1"]
    assert [paper.paper_id for paper in answer.hits[0].versions] == ["arxiv:2101.00001"]
    assert answer.total == 1
    facets = versions.search("glaciers", Page(facet_values=50)).facets
    assert facets is not None
    assert [(value.value, value.count) for value in facets["venue"].values] == [("Ice Letters", 1)]


def test_related_papers_leave_out_every_version_of_what_is_named(versions: Searcher) -> None:
    assert not {"arxiv:2101.00001", "doi:10.1000/g1"} & set(ids(versions.related(["doi:10.1000/g1"], Page(40))))
    liked = versions.related(["p10"], Page(40, collapse="none"), disliked=["doi:10.1000/g1"])
    assert not {"p10", "arxiv:2101.00001", "doi:10.1000/g1"} & set(ids(liked))
    assert liked.total == 29


WORKS = [
    f"What forty years of {what} tell about {where}"
    for what in ("dust", "ice", "rain", "wind")
    for where in ("rivers", "forests", "towns")
]


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory, fake_encoder: FakeEncoder) -> Iterator[Searcher]:
    """Return a searcher over works of one to three versions, whose ids end in the number of their work."""
    folder = tmp_path_factory.mktemp("works")
    papers = [
        make_paper(
            number, f"Part {number % 4} of text.", paper_id=f"{kind}-{number}", title=title, authors=("Mina Berg",)
        )
        for number, title in enumerate(WORKS)
        for kind in ("preprint", "talk", "article")[: 1 + number % 3]
    ]
    update_index(folder / "index", imports_of([write_jsonl(folder / "works.jsonl", papers)]), load=FakeLoader())
    with open_searcher(folder / "index", fake_encoder) as opened:
        assert opened.search("dust").total == len(WORKS)
        yield opened


@pytest.mark.parametrize("mode", MODES)
def test_pages_fit_each_other_however_much_is_folded(
    index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    """Of the 60 candidates of a window only some twenty works are left, so a page far behind needs a wider one."""
    monkeypatch.setattr("semsearch.search.MAX_WINDOW", 60)
    random, words = Random(5), [f"word{number}" for number in range(40)]
    index_papers(
        [
            make_paper(
                number,
                " ".join(random.choices(words, k=12)),
                paper_id=f"{kind}-{number}",
                title=f"What {number} years of {words[number % 40]} tell",
                authors=("Mina Berg",),
            )
            for number in range(70)
            for kind in ("preprint", "talk", "article")
        ]
    )
    with open_searcher(tmp_path / "index", fake_encoder) as opened:
        for query in ("word1 word2 word3", "word7 and word9"):
            at_once = scored(opened.search(query, Page(60), mode))
            pages = [scored(opened.search(query, Page(6, start), mode)) for start in range(0, 60, 6)]
            assert [hit for page in pages for hit in page] == at_once
            numbers = [name.rpartition("-")[2] for _, name in at_once]
            assert len(numbers) == len(set(numbers)) > 30


@given(
    st.lists(st.integers(0, len(WORKS) - 1), min_size=1, max_size=14),
    st.lists(st.integers(0, len(WORKS) - 1), max_size=4),
    st.sampled_from(["work", "none"]),
    st.integers(1, 40),
)
def test_no_paper_named_is_among_its_related_ones_in_any_version(
    works: Searcher, liked: list[int], disliked: list[int], collapse: Collapse, limit: int
) -> None:
    page = Page(limit, collapse=collapse)
    answer = works.related([f"preprint-{number}" for number in liked], page, [f"preprint-{n}" for n in disliked])
    shown = [int(name.rpartition("-")[2]) for name in ids(answer)]
    others = set(range(len(WORKS))) - {*liked, *disliked}
    assert set(shown) <= others
    assert answer.total == sum(1 if collapse == "work" else 1 + number % 3 for number in others)
    assert len(shown) == min(limit, answer.total)


def test_disliked_papers_push_away(searcher: Searcher) -> None:
    before = {name: score for score, name in scored(searcher.related(["p3"], Page(90)))}
    pushed = {name: score for score, name in scored(searcher.related(["p3"], Page(90), ["p10"]))}
    like_p10 = set(ids(searcher.related(["p10"], Page(5)))) - {"p3"}
    assert all(pushed[name] < before[name] for name in like_p10)


def test_related_papers_leave_out_the_paper_itself(searcher: Searcher) -> None:
    answer = searcher.related(["p61"], Page(89))
    assert "p61" not in ids(answer)
    assert ids(answer)[:29] == sorted({f"p{number}" for number in range(60, 90)} - {"p61"})
    assert (len(answer.hits), answer.total, answer.mode) == (89, 89, "hybrid")


def between(searcher: Searcher, liked: Sequence[str], disliked: Sequence[str] = ()) -> NDArray[np.float32]:
    """Return the unit vector from the mean of these papers' own vectors, and half of the others' mean away from it."""
    encoded = [passage_vectors(searcher.encoder, [searcher.paper(name).text])[0] for name in (*liked, *disliked)]
    vectors = np.array(encoded, dtype=np.float64)
    mean = vectors[: len(liked)].mean(axis=0)
    if disliked:
        mean = mean - 0.5 * vectors[len(liked) :].mean(axis=0)
    unit: NDArray[np.float32] = (mean / np.linalg.norm(mean)).astype(np.float32)
    return unit


@pytest.mark.parametrize(
    ("liked", "disliked"),
    [(("p3",), ()), (("p61",), ()), (("p3", "p10"), ()), (("p3", "p61", "p10"), ("p17", "p80")), (("p4",), ("p11",))],
)
def test_related_papers_are_near_to_the_mean_and_hold_the_words_of_all(
    searcher: Searcher, liked: tuple[str, ...], disliked: tuple[str, ...]
) -> None:
    words = LexicalQuery.of_text(" ".join(searcher.paper(name).text for name in liked))
    expected = fused(searcher, between(searcher, liked, disliked), words, EVERY_ID - {*liked, *disliked})
    answer = searcher.related(liked, Page(90, collapse="none"), disliked)
    assert {hit.paper.paper_id: hit.score for hit in answer.hits} == pytest.approx(expected, abs=3e-6)
    assert scored(answer) == sorted(scored(answer), key=lambda pair: (-pair[0], pair[1]))
    assert answer.total == 90 - len(liked) - len(disliked)


def test_whom_one_names_first_or_twice_changes_nothing(searcher: Searcher) -> None:
    once = searcher.related(["p3", "p10", "p61"], Page(90), ["p5", "p70"])
    assert scored(once) == scored(searcher.related(["p61", "p3", "p10", "p3"], Page(90), ["p70", "p5", "p5"]))


def test_related_to_pasted_text_reads_it_like_a_paper(searcher: Searcher) -> None:
    text = "Paper 12 subject5 method2 finding12"
    answer = searcher.related_to_text("Paper 12", "subject5 method2\n finding12", Page(90))
    expected = fused(searcher, passage_vectors(searcher.encoder, [text])[0], LexicalQuery.of_text(text), EVERY_ID)
    assert ids(answer)[0] == "p12"
    assert answer.mode == "hybrid"
    assert {hit.paper.paper_id: hit.score for hit in answer.hits} == pytest.approx(expected, abs=3e-6)


def test_pasted_text_demands_nothing(searcher: Searcher) -> None:
    assert len(searcher.related_to_text("", 'author:nobody -paper "such a phrase"', Page(90)).hits) == 90


def test_related_papers_say_which_of_the_papers_words_they_share(
    index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder
) -> None:
    papers = [
        make_paper(1, "We study glaciers. Glaciers lose meltwater early.", title="Ice"),
        make_paper(2, "Nothing is new. A glacier feeds the river with meltwater. Fish like it.", title="Rivers"),
        make_paper(3, "Sheep graze in fields of grass.", title="Wool"),
        *(make_paper(number) for number in range(4, 10)),
    ]
    index_papers(papers)
    with open_searcher(tmp_path / "index", fake_encoder) as searcher:
        (first, *others) = searcher.related(["p1"]).hits
        assert first.paper.paper_id == "p2"
        assert first.evidence.terms == ("glaciers", "meltwater"), "what is said twice tells most"
        assert first.evidence.sentence is not None
        start, end = first.evidence.sentence
        assert papers[1].abstract[start:end] == "A glacier feeds the river with meltwater."
        assert first.evidence.lexical is not None
        assert first.evidence.lexical.rank == 1
        assert all(hit.evidence.terms == () for hit in others if hit.paper.paper_id != "p3")
        (sheep,) = (hit for hit in searcher.related(["p1", "p3"]).hits if hit.paper.paper_id == "p2")
        assert set(sheep.evidence.terms) == {"glaciers", "meltwater"}


def test_a_paper_is_found_in_any_spelling_of_its_id(
    index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder
) -> None:
    index_papers([make_paper(1, paper_id="doi:10.1038/Nature14539"), make_paper(2, paper_id="arxiv:1706.03762")])
    with open_searcher(tmp_path / "index", fake_encoder) as searcher:
        assert searcher.paper("https://doi.org/10.1038/NATURE14539").title == "Paper 1"
        assert searcher.paper("ARXIV:1706.03762v5").title == "Paper 2"
        assert ids(searcher.related(["1706.03762v1"])) == ["doi:10.1038/nature14539"]


def test_unknown_and_unusable_ids_are_named(searcher: Searcher) -> None:
    with pytest.raises(PaperNotFoundError, match="not in the index: 'p900', 'no id at all'"):
        searcher.related(["p1", "p900", "no id at all"])


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "blank"),
        (" \n", "blank"),
        ("\u200b", "blank"),
        ("x" * 10_001, "10,000"),
        ("a\x00", "NUL"),
        ("\udc80", "surrog"),
    ],
)
def test_bad_queries_are_refused(searcher: Searcher, query: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        searcher.search(query)


@pytest.mark.parametrize(("limit", "offset"), [(0, 0), (-1, 0), (10, -1), (1, 1_000), (1_001, 0)])
def test_pages_beyond_the_window_are_refused(limit: int, offset: int) -> None:
    with pytest.raises(ValueError, match="both together at most 1,000"):
        Page(limit, offset)


def test_no_ids_are_refused(searcher: Searcher) -> None:
    with pytest.raises(ValueError, match="at least one paper"):
        searcher.related([])


def test_another_encoders_vectors_are_refused_with_the_command_that_fixes_it(searcher: Searcher) -> None:
    other = FakeEncoder(EncoderSpec("other/model", "0" * 64, 384, 256))
    with pytest.raises(EncoderError, match=r"semsearch index --index \S+ --model other/model"):
        Searcher(searcher.library, searcher.generation, other)


def test_an_empty_index_answers_with_nothing(index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder) -> None:
    index_papers([])
    with open_searcher(tmp_path / "index", fake_encoder) as searcher:
        answer = searcher.search("anything")
        assert (answer.hits, answer.total) == ((), 0)
        with pytest.raises(PaperNotFoundError):
            searcher.paper("p1")


def test_a_paper_purged_after_the_publish_is_left_out(searcher: Searcher) -> None:
    searcher.library.delete(["p7"])
    searcher.library.purge(["p7"])
    assert "p7" not in ids(searcher.search("finding7 subject0 method2", Page(90)))


def test_opposite_papers_have_nothing_between_them(tmp_path: Path, fake_encoder: FakeEncoder) -> None:
    class Opposites(FakeEncoder):
        def encode_passages(self, passages: Sequence[Tokenised]) -> NDArray[np.float32]:
            rows = np.zeros((len(passages), self.spec.dimension), dtype=np.float32)
            rows[:, 0] = [-1.0 if "minus" in passage.text else 1.0 for passage in passages]
            return rows

    source = write_jsonl(tmp_path / "s.jsonl", [make_paper(1, words="plus"), make_paper(2, words="minus")])
    update_index(tmp_path / "index", imports_of([source]), load=lambda model, device: Opposites(model.spec))
    with (
        open_searcher(tmp_path / "index", Opposites(fake_encoder.spec)) as searcher,
        pytest.raises(ValueError, match="opposite directions"),
    ):
        searcher.related(["p1", "p2"])


def test_what_is_searched_no_more_is_let_go_at_once(
    index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder
) -> None:
    """Each generation has files, mappings and threads, and additions replace two of them a second."""
    index_papers(PAPERS)
    gc.disable()
    try:
        with open_searcher(tmp_path / "index", fake_encoder) as searcher:
            for mode in MODES:
                searcher.search("subject3", mode=mode)
            held = [weakref.ref(each) for each in (searcher.generation, searcher.generation.lexical)]
        del searcher
        assert [each() for each in held] == [None, None]
    finally:
        gc.enable()
