"""Which answers are weak: the words salads are made of, what they score, when that is measured, what it says."""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import SAMPLES, FakeEncoder, FakeLoader, Index, make_paper, write_jsonl
from numpy.typing import NDArray

from semsearch import weakness
from semsearch.encoders import Encoder, EncoderSpec, ModelFolder
from semsearch.errors import EncoderError, LibraryDamageError
from semsearch.filters import parse_filter
from semsearch.generation import IndexFolder, open_current
from semsearch.lexical import analyse, terms_of
from semsearch.library import Library
from semsearch.manifest import Manifest, WeakBelow
from semsearch.papers import Paper
from semsearch.publishing import publish_pending
from semsearch.queries import parse_query
from semsearch.ranking import MODES
from semsearch.reindex import imports_of, update_index
from semsearch.repair import repair
from semsearch.search import Page, Searcher
from semsearch.weakness import best_scores, is_due, measured, word_salads

_RHYMES = ("ad", "el", "im", "on", "ur", "ab", "ek", "il", "op", "us")
WORDS = [onset + rhyme + end for onset in "bdfgklmnprstvz" for rhyme in _RHYMES for end in ("o", "ant", "ings")]
"""420 words that nobody ever wrote, of which no two have the same stem."""


def field_papers(count: int, first: int = 0) -> list[Paper]:
    """Return papers of a field: each about ten of its words, and all of them about "results"."""
    papers = []
    for number in range(first, first + count):
        chosen = np.random.default_rng(number).choice(WORDS, 30, replace=False).tolist()
        abstract = f"Results on {' '.join(chosen[10:])}. Once{number} 2nd."
        author = f"Ada {chosen[0].capitalize()}son"
        papers.append(make_paper(number, title=" ".join(chosen[:10]), words=abstract, authors=(author,)))
    return papers


PAPERS = field_papers(120)


def opened(index: Path, encoder: FakeEncoder) -> Searcher:
    folder = IndexFolder(index)
    return Searcher(Library.open(folder.library), open_current(folder), encoder)


@pytest.fixture(scope="module")
def field_index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("field")
    update_index(folder / "index", imports_of([write_jsonl(folder / "field.jsonl", PAPERS)]), load=FakeLoader())
    return folder / "index"


@pytest.fixture(scope="module")
def searcher(field_index: Path) -> Iterator[Searcher]:
    with opened(field_index, FakeEncoder(ModelFolder.find().spec)) as searcher:
        yield searcher


# The salads


FREQUENCY = Counter(term for paper in PAPERS for term in set(analyse(paper.text)))


def test_salads_are_drawn_from_the_words_that_neither_few_nor_most_papers_hold(searcher: Searcher) -> None:
    salads = word_salads(searcher.library, searcher.generation.lexical)
    allowed = {term for term, count in FREQUENCY.items() if 3 <= count <= 60 and term.isalpha() and len(term) > 2}
    drawn = Counter(term for salad in salads for term in analyse(salad))
    assert set(drawn) <= allowed
    assert {"result", "on", "paper", "2nd", "once7"}.isdisjoint(drawn)
    assert len(allowed) > 400
    assert len(drawn) > 0.9 * len(allowed), "1,548 draws of some 420 words leave out about 11"
    assert max(drawn.values()) < 20, "each is as likely as any other"


def test_salads_have_the_lengths_of_questions_and_the_spellings_of_papers(searcher: Searcher) -> None:
    salads = [salad.split() for salad in word_salads(searcher.library, searcher.generation.lexical)]
    assert Counter(map(len, salads)) == dict.fromkeys((1, 2, 3, 4, 6, 8, 12), 43)
    written = {paper.text[term.start : term.end].lower() for paper in PAPERS for term in terms_of(paper.text)}
    words = {word for salad in salads for word in salad}
    assert words <= written
    assert any(word.endswith("ings") for word in words), "no stems"


def test_the_same_papers_make_the_same_salads(searcher: Searcher, index_papers: Index, tmp_path: Path) -> None:
    for end in (50, 110, 120):
        index_papers(PAPERS[:end])
    with opened(tmp_path / "index", FakeEncoder(searcher.encoder.spec)) as other:
        assert len(other.generation.segments) > 1
        mine, theirs = (word_salads(each.library, each.generation.lexical) for each in (searcher, other))
    assert [analyse(salad) for salad in mine] == [analyse(salad) for salad in theirs]


def test_in_many_papers_a_word_must_be_held_by_more(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weakness, "_PAPERS_PER_WORD", 15)
    drawn = {term for salad in word_salads(searcher.library, searcher.generation.lexical) for term in analyse(salad)}
    assert min(FREQUENCY[term] for term in drawn) == 8, "one paper in 15 of 120"


def test_a_word_whose_paper_was_purged_meanwhile_is_asked_as_its_stem(
    index_papers: Index, tmp_path: Path, fake_encoder: FakeEncoder
) -> None:
    index_papers(PAPERS)
    with opened(tmp_path / "index", fake_encoder) as searcher:
        before = word_salads(searcher.library, searcher.generation.lexical)
        names = [paper.paper_id for paper in PAPERS]
        searcher.library.delete(names)
        searcher.library.purge(names)
        after = word_salads(searcher.library, searcher.generation.lexical)
    assert before != after
    assert [term for salad in before for term in analyse(salad)] == [word for salad in after for word in salad.split()]


def test_the_vocabulary_and_its_examples_are_those_of_the_papers(searcher: Searcher) -> None:
    lexical = searcher.generation.lexical
    vocabulary = lexical.vocabulary()
    assert dict(vocabulary) == FREQUENCY
    assert vocabulary == sorted(vocabulary, key=lambda each: (-each[1], each[0]))
    for term, _ in vocabulary[::25]:
        example = lexical.example_of(term)
        assert example is not None
        assert term in analyse(searcher.library.versions_at([example])[example].paper.text)
    assert lexical.example_of("nosuchword") is None


# What they score


def best_by_brute_force(searcher: Searcher, query: str) -> dict[str, float]:
    """Return the highest cosine of all papers, and the highest mean of cosine and share."""
    generation = searcher.generation
    seqs = generation.live_seqs()
    vectors = generation.vectors_at(generation.rows_of(seqs)).astype(np.float64)
    cosines = vectors @ searcher.encoder.encode_queries([query])[0].astype(np.float64)
    bm25 = np.zeros(len(seqs))
    scores, found = generation.lexical.search(parse_query(query), len(seqs))
    bm25[np.searchsorted(seqs, found)] = scores
    most = 2.2 * sum(math.log(1 + (120.5 - FREQUENCY[term]) / (FREQUENCY[term] + 0.5)) for term in analyse(query))
    return {"dense": max(cosines), "hybrid": max(0.5 * cosines + 0.5 * bm25 / most)}


QUERIES = [f"{WORDS[0]} {WORDS[7]}", "results", f"{WORDS[100]} unheard", "wholly unheard of", " ".join(WORDS[40:52])]


def test_best_scores_are_those_of_brute_force(searcher: Searcher) -> None:
    vectors = searcher.encoder.encode_queries(QUERIES)
    scores = best_scores(searcher.generation, [parse_query(query) for query in QUERIES], vectors)
    assert set(scores) == {"dense", "hybrid"}
    for place, query in enumerate(QUERIES):
        for mode, expected in best_by_brute_force(searcher, query).items():
            assert scores[mode][place] == pytest.approx(expected, abs=2e-6), (query, mode)


def test_a_small_window_is_as_good_as_a_large_one(searcher: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    small = measured(searcher.library, searcher.generation, searcher.encoder)
    monkeypatch.setattr(weakness, "_WINDOW", 1_000)
    assert measured(searcher.library, searcher.generation, searcher.encoder) == small


def test_what_is_measured_are_medians(searcher: Searcher) -> None:
    salads = word_salads(searcher.library, searcher.generation.lexical)
    by_hand = [best_by_brute_force(searcher, salad) for salad in salads]
    known = searcher.generation.manifest.weak_below
    assert known is not None
    assert known.papers == 120
    for mode in ("dense", "hybrid"):
        middle = sorted(each[mode] for each in by_hand)[len(salads) // 2]
        assert known.scores[mode] == pytest.approx(middle, abs=2e-6)


# When it is measured


@pytest.mark.parametrize(
    ("known", "papers", "due"),
    [
        (None, 99, False),
        (None, 100, True),
        (WeakBelow(100, {}), 125, False),
        (WeakBelow(100, {}), 126, True),
        (WeakBelow(1_000, {}), 750, False),
        (WeakBelow(1_000, {}), 749, True),
        (WeakBelow(1_000, {}), 20, False),
    ],
)
def test_it_is_due_when_it_is_unknown_or_the_papers_are_many_more_or_less(
    known: WeakBelow | None, papers: int, due: bool
) -> None:
    assert is_due(known, papers) is due


def known_of(index: Path) -> WeakBelow | None:
    return open_current(IndexFolder(index)).manifest.weak_below


def test_a_generation_takes_it_over_until_a_quarter_more_papers_came(
    index_papers: Index, tmp_path: Path, loader: FakeLoader
) -> None:
    index_papers(PAPERS[:99])
    assert known_of(tmp_path / "index") is None
    index_papers(PAPERS)
    first = known_of(tmp_path / "index")
    assert first is not None
    assert first.papers == 120
    index_papers(field_papers(30, first=120))
    assert known_of(tmp_path / "index") == first
    index_papers(field_papers(1, first=150))
    second = known_of(tmp_path / "index")
    assert second is not None
    assert second.papers == 151
    assert second.scores != first.scores


def test_nothing_changed_means_no_encoder_and_no_new_generation(
    index_papers: Index, tmp_path: Path, loader: FakeLoader
) -> None:
    first = index_papers(PAPERS)
    loaded = len(loader.made)
    second = index_papers(PAPERS)
    assert (second.generation, second.encoder_calls, len(loader.made)) == (first.generation, 0, loaded)


def test_what_is_made_anew_keeps_it(index_papers: Index, tmp_path: Path) -> None:
    folder = IndexFolder(tmp_path / "index")
    index_papers(PAPERS)
    known = known_of(folder.path)
    assert repair(folder, no_encoder, anew=True).left == ()
    assert open_current(folder).manifest.parent is None
    assert known_of(folder.path) == known is not None


def test_a_damaged_row_only_puts_it_off(
    index_papers: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    index_papers(PAPERS)
    known = known_of(tmp_path / "index")

    def damaged(*_: object) -> WeakBelow:
        raise LibraryDamageError("change 5 fails its digest")

    with monkeypatch.context() as patch:
        patch.setattr("semsearch.publishing.measured", damaged)
        index_papers(field_papers(40, first=120))
    assert "is not measured anew, but next time: change 5 fails its digest" in caplog.text
    assert open_current(IndexFolder(tmp_path / "index")).papers == 160
    assert known_of(tmp_path / "index") == known


def no_encoder(spec: EncoderSpec) -> Encoder:
    raise AssertionError("nothing is encoded")


def test_without_an_encoder_it_is_taken_over_or_left_to_the_next_reindex(
    index_papers: Index, tmp_path: Path, loader: FakeLoader
) -> None:
    folder = IndexFolder(tmp_path / "index")
    index_papers(PAPERS)
    known = known_of(folder.path)
    with Library.open(folder.library) as library:
        library.delete([paper.paper_id for paper in PAPERS[:40]])
        spec = open_current(folder).manifest.encoder
        assert publish_pending(folder, library, spec).manifest.weak_below == known
        for number in folder.published():
            (folder.generation(number) / "manifest.json").write_text("damaged")
        rebuilt = publish_pending(folder, library, spec)
        assert rebuilt.manifest.weak_below is None
    index_papers([])
    assert open_current(folder).manifest == rebuilt.manifest, "80 papers are too few"
    index_papers(PAPERS[:40], "again")
    with Library.open(folder.library) as library:
        (folder.path / "CURRENT").unlink()
        for number in folder.published():
            (folder.generation(number) / "manifest.json").write_text("damaged")
        replayed = publish_pending(folder, library, spec)
    assert replayed.manifest.weak_below is None
    report = update_index(folder.path, [], load=loader)
    assert (report.encoded, report.generation) == (0, replayed.manifest.generation + 1)
    measured_now = known_of(folder.path)
    assert measured_now is not None
    assert measured_now.papers == 120


def test_too_few_words_are_found_out_once(index_papers: Index, tmp_path: Path, loader: FakeLoader) -> None:
    papers = [make_paper(number, words=f"water{number % 3} flows") for number in range(110)]
    first = index_papers(papers)
    assert known_of(tmp_path / "index") == WeakBelow(110, {})
    assert index_papers(papers).generation == first.generation


def test_papers_are_published_although_it_cannot_be_measured(
    tmp_path: Path, index_papers: Index, loader: FakeLoader, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(FakeEncoder):
        def encode_queries(self, queries: Sequence[str]) -> NDArray[np.float32]:
            raise EncoderError("out of order")

    source = write_jsonl(tmp_path / "field.jsonl", PAPERS)
    report = update_index(
        tmp_path / "index", imports_of([source]), load=lambda model, device: Broken(model.spec, device)
    )
    assert report.papers == 120
    assert known_of(tmp_path / "index") is None
    (warned,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert "out of order" in warned.message
    update_index(tmp_path / "index", [], load=loader)
    assert known_of(tmp_path / "index") is not None


def test_a_manifest_keeps_it(searcher: Searcher) -> None:
    manifest = searcher.generation.manifest
    assert manifest.weak_below is not None
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest


# What it says

ABOUT_ONE = " ".join(PAPERS[5].title.split()[:4])
NOISE = "qwpo zxmn, vbty"


def test_an_answer_is_weak_when_nothing_is_near(searcher: Searcher) -> None:
    for mode in ("hybrid", "dense"):
        assert searcher.search(ABOUT_ONE, mode=mode).weak is False
        assert searcher.search(NOISE, mode=mode).weak is True


def test_every_page_of_an_answer_says_the_same(searcher: Searcher) -> None:
    for page in (Page(5), Page(5, 20), Page(5, collapse="none"), Page(5, facet_values=2), Page(5, 990)):
        assert searcher.search(ABOUT_ONE, page).weak is False
        assert searcher.search(NOISE, page).weak is True


def test_a_filter_leaves_what_it_leaves(searcher: Searcher) -> None:
    others = Page(where=parse_filter([("ids", "!p5")]))
    title = PAPERS[5].title
    assert searcher.search(title, Page(where=parse_filter([("ids", "p5")]))).weak is False
    assert searcher.search(title, Page(where=parse_filter([("ids", "p6")]))).weak is True
    assert searcher.search(title, others).weak is True


def test_demands_that_are_met_are_an_answer(searcher: Searcher) -> None:
    surname = PAPERS[5].authors[0].split()[1]
    for asked in (f"author:{surname}", f'title:"{ABOUT_ONE}"', f"title:{WORDS[3]}", f'"{ABOUT_ONE}"'):
        answer = searcher.search(asked)
        assert answer.hits
        assert answer.weak is False, asked
    assert searcher.search("author:nobody").weak is True
    assert searcher.search(f"author:nobody {ABOUT_ONE}").weak is True


def test_a_name_or_an_id_is_an_answer(searcher: Searcher) -> None:
    for asked in (PAPERS[5].authors[0], PAPERS[5].authors[0].split()[1].lower(), "p5"):
        assert searcher.search(asked).weak is False, asked
    assert searcher.search(f"{PAPERS[5].authors[0]} qwpo zxmn vbty").weak is True, "nobody is called that"


def test_where_nothing_is_known_nothing_is_said(searcher: Searcher, index_papers: Index, tmp_path: Path) -> None:
    assert searcher.search(ABOUT_ONE, mode="lexical").weak is None
    assert searcher.related(["p5"]).weak is None
    assert searcher.related_to_text(NOISE, NOISE).weak is None
    index_papers(PAPERS[:99])
    with opened(tmp_path / "index", FakeEncoder(searcher.encoder.spec)) as small:
        assert [small.search(asked, mode=mode).weak for asked in (ABOUT_ONE, NOISE) for mode in MODES] == [
            *(None, None, None),
            *(None, None, True),  # no paper holds a word of it
        ]


# With the default model


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searcher]:
    index = tmp_path_factory.mktemp("samples") / "index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weakness, "FEWEST_PAPERS", 50)
        update_index(index, imports_of([SAMPLES]))
    with Searcher.open(index) as searcher:
        yield searcher


@pytest.mark.parametrize(
    ("asked", "weak"),
    [
        ("predicting the next word", False),
        ("how is DNA copied?", False),
        ("training neural networks", False),
        ("cheap flights in october", True),
        ("how do i reset my password", True),
        ("lyrics of a birthday song", True),
        ("wlkej qpoi fjm", True),
    ],
)
def test_the_default_model_tells_what_landmark_papers_answer(samples: Searcher, asked: str, weak: bool) -> None:
    assert samples.search(asked).weak is weak
    assert samples.search(asked, mode="dense").weak is weak
