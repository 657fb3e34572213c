"""The reading corridor against an oracle: a numpy matrix product over the vectors as the library holds them."""

from collections.abc import Iterator, Sequence, Set
from pathlib import Path

import faiss
import numpy as np
import pytest
from conftest import FakeEncoder, Index, make_paper, passage_vectors, write_jsonl
from numpy.typing import NDArray

from semsearch.encoders import EncoderSpec, Tokenised
from semsearch.errors import EncoderError, PaperNotFoundError
from semsearch.generation import IndexFolder, open_current
from semsearch.library import Library
from semsearch.reindex import imports_of, update_index
from semsearch.search import Answer, Searcher


def open_searcher(index: Path, encoder: FakeEncoder) -> Searcher:
    folder = IndexFolder(index)
    return Searcher(Library.open(folder.library), open_current(folder), encoder)


PAPERS = [
    *(make_paper(number) for number in range(60)),
    *(make_paper(number, words="the very same words", title="Twin") for number in range(60, 90)),
]


@pytest.fixture
def searcher(index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder) -> Iterator[Searcher]:
    index_papers(PAPERS)
    with open_searcher(tmp_path / "index", fake_encoder) as opened:
        yield opened


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


QUERIES = ["subject3 method2", "finding41", "the very same words", "twin", "nothing of all this", "paper 12 finding12"]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize(("limit", "offset"), [(1, 0), (10, 0), (7, 13), (25, 60), (100, 0)])
def test_answers_equal_brute_force(searcher: Searcher, query: str, limit: int, offset: int) -> None:
    expected = oracle(searcher, query)[offset : offset + limit]
    answer = searcher.search(query, limit, offset)
    assert ids(answer) == [paper_id for _, paper_id in expected]
    assert [hit.score for hit in answer.hits] == pytest.approx([score for score, _ in expected], abs=2e-6)
    assert [hit.rank for hit in answer.hits] == list(range(offset + 1, offset + 1 + len(expected)))


def test_ties_are_ordered_by_id_and_pages_neither_repeat_nor_skip(searcher: Searcher) -> None:
    twins = sorted(f"p{number}" for number in range(60, 90))
    assert ids(searcher.search("Twin the very same words", 30)) == twins
    paged = [each for offset in range(0, 90, 7) for each in ids(searcher.search("Twin the very same words", 7, offset))]
    assert paged[:30] == twins
    assert sorted(paged) == sorted(paper.paper_id for paper in PAPERS)


def test_threads_and_segments_change_no_answer(index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder) -> None:
    answers = []
    for step, end in enumerate((40, 70, 85, 90)):
        index_papers(PAPERS[:end])
        if step == 3:
            assert len(open_current(IndexFolder(tmp_path / "index")).segments) > 1
    with open_searcher(tmp_path / "index", fake_encoder) as searcher:
        for threads in (1, 2):
            faiss.omp_set_num_threads(threads)
            answers.append([[(hit.score, hit.paper.paper_id) for hit in searcher.search(q, 50).hits] for q in QUERIES])
        assert answers[0] == answers[1] == [oracle(searcher, query)[:50] for query in QUERIES]


def test_a_deleted_paper_vanishes_and_an_older_version_never_shows(
    index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder
) -> None:
    index_papers(PAPERS)
    changed = [make_paper(5, words="brand new words"), *PAPERS[6:]]
    index_papers(changed, sync=True)
    with open_searcher(tmp_path / "index", fake_encoder) as searcher:
        assert searcher.search("x").total == 85
        everything = ids(searcher.search("finding5", 85))
        assert sorted(everything) == sorted(paper.paper_id for paper in changed)
        assert searcher.paper("p5").abstract == "brand new words"
        with pytest.raises(PaperNotFoundError, match="not in the index: 'p4'"):
            searcher.paper("p4")


def test_an_answer_names_what_it_came_from(searcher: Searcher) -> None:
    answer = searcher.search("subject3")
    assert (answer.total, answer.mode, answer.generation, answer.model) == (90, "dense", 1, "all-MiniLM-L6-v2")
    assert (answer.approximate, answer.recall_at_10) == (False, 1.0)
    assert answer.took_ms > 0
    assert answer.hits[0].evidence.dense.rank == 1
    assert answer.hits[0].evidence.dense.cosine == answer.hits[0].score


def test_related_papers_leave_out_the_paper_itself(searcher: Searcher) -> None:
    answer = searcher.related(["p61"], 89)
    assert "p61" not in ids(answer)
    assert ids(answer)[:29] == sorted({f"p{number}" for number in range(60, 90)} - {"p61"})
    assert (len(answer.hits), answer.total) == (89, 89)
    assert ids(answer) == [paper_id for _, paper_id in oracle(searcher, PAPERS[61].text, {"p61"})]


def test_related_to_several_papers_is_nearest_to_their_mean_without_them(searcher: Searcher) -> None:
    answer = searcher.related(["p3", "p10", "p3"], 10)
    assert not {"p3", "p10"} & set(ids(answer))
    assert answer.total == 88
    mean = passage_vectors(searcher.encoder, [PAPERS[3].text, PAPERS[10].text]).mean(axis=0)
    scores = {
        paper.paper_id: float(passage_vectors(searcher.encoder, [paper.text])[0] @ mean / np.linalg.norm(mean))
        for paper in PAPERS
        if paper.paper_id not in ("p3", "p10")
    }
    assert [hit.score for hit in answer.hits] == pytest.approx(sorted(scores.values(), reverse=True)[:10], abs=1e-5)


def test_related_to_pasted_text_reads_it_like_a_paper(searcher: Searcher) -> None:
    answer = searcher.related_to_text("Paper 12", "subject5 method2\n finding12")
    assert ids(answer)[0] == "p12"
    assert answer.hits[0].score == pytest.approx(1)


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
def test_pages_beyond_the_window_are_refused(searcher: Searcher, limit: int, offset: int) -> None:
    with pytest.raises(ValueError, match="both together at most 1,000"):
        searcher.search("x", limit, offset)


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
    assert "p7" not in ids(searcher.search("finding7 subject0 method2", 90))


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
