import errno
import hashlib
import math
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from conftest import make_paper
from hypothesis import given, settings
from hypothesis import strategies as st

from semsearch import lexical
from semsearch.errors import DamageError, GenerationDamageError, SemsearchError
from semsearch.lexical import FieldWeights, LexicalIndex, analyse, spellings, terms_of, write_lexical
from semsearch.papers import Paper
from semsearch.queries import LexicalQuery, parse_query

WORDS = ["graph", "neural", "speech", "parser", "tree", "kernel", "markov", "hidden", "zebra"]
SHARES = [0.6, 0.4, 0.3, 0.3, 0.2, 0.1, 0.1, 0.05, 0.01]


def corpus(count: int, seed: int = 1) -> list[tuple[int, Paper]]:
    """Return papers of few and repeated words, so that many scores tie, with seqs that are not their positions."""
    rng = np.random.default_rng(seed)
    shares = np.array(SHARES) / sum(SHARES)
    texts = [" ".join(rng.choice(WORDS, rng.integers(2, 12), p=shares)) for _ in range(count)]
    return [(3 * n + 5, make_paper(n, text, title=text.split()[0])) for n, text in enumerate(texts)]


PAPERS = corpus(400)
WEIGHTS = FieldWeights(text=1.0, title=0.5, author=0.0, name=0.0, id=0.0)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> LexicalIndex:
    folder = tmp_path_factory.mktemp("index") / "lexical"
    assert write_lexical(folder, None, PAPERS, []).papers == len(PAPERS)
    return LexicalIndex(folder, WEIGHTS)


def opened(tmp_path: Path, *papers: Paper) -> LexicalIndex:
    write_lexical(tmp_path / "lexical", None, enumerate(papers, 1), [])
    return LexicalIndex(tmp_path / "lexical")


def found(index: LexicalIndex, typed: str) -> list[int]:
    return sorted(index.search(parse_query(typed), 100)[1].tolist())


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


# Analysis


def test_analysis() -> None:
    text = "Naïve Bayes classifiers, state-of-the-art (GPT-4): don't!"
    terms = ["naiv", "bay", "classifi", "state", "of", "the", "art", "gpt", "4", "don", "t"]
    assert analyse(text) == terms
    places = terms_of(text)
    assert [term.text for term in places] == terms
    assert [text[term.start : term.end] for term in places[:4]] == ["Naïve", "Bayes", "classifiers", "state"]


@given(st.text())
def test_places_are_those_of_the_terms(text: str) -> None:
    terms = terms_of(text)
    assert [term.text for term in terms] == analyse(text)
    for term in terms:
        assert analyse(text[term.start : term.end]) == [term.text]


def test_first_spelling_of_each_term() -> None:
    assert spellings("Parsers and parsing, PARSER") == {"parser": "Parsers", "and": "and", "pars": "parsing"}
    assert spellings("深度 - α?") == {"深": "深", "度": "度", "α": "α"}
    assert spellings("... !") == {}


# Ranking


def bm25(papers: Sequence[tuple[int, Paper]], query: str, weights: FieldWeights) -> dict[int, float]:
    """Return each matching seq's score by the formula: k1 = 1.2, b = 0.75, idf of Lucene; texts under 40 words.

    That short, because tantivy keeps longer lengths with three significant bits only.
    """
    scores: defaultdict[int, float] = defaultdict(float)
    texts = {seq: paper.text.split() for seq, paper in papers}
    titles = {seq: paper.title.split() for seq, paper in papers}
    for weight, contents in ((weights.text, texts), (weights.title, titles)):
        average = sum(map(len, contents.values())) / len(papers)
        for term, times in Counter(query.split()).items():
            holding = sum(term in content for content in contents.values())
            idf = math.log(1 + (len(papers) - holding + 0.5) / (holding + 0.5))
            for seq, content in contents.items():
                if frequency := content.count(term):
                    norm = 1.2 * (1 - 0.75 + 0.75 * len(content) / average)
                    scores[seq] += weight * times * idf * frequency * 2.2 / (frequency + norm)
    return dict(scores)


@pytest.mark.parametrize(
    "query", ["zebra", "tree", "kernel markov", "kernel kernel markov zebra", "hidden markov tree"]
)
def test_scores_against_the_formula(index: LexicalIndex, query: str) -> None:
    scores, seqs = index.search(LexicalQuery.of_text(query), len(PAPERS))
    expected = bm25(PAPERS, query, WEIGHTS)
    assert set(seqs.tolist()) == set(expected)
    np.testing.assert_allclose(scores, [expected[seq] for seq in seqs.tolist()], rtol=1e-4, atol=1e-4)
    assert (np.diff(scores) <= 0).all()


def test_words_of_more_than_half_of_the_papers_count_only_alone(index: LexicalIndex) -> None:
    assert index.document_frequency("graph") > len(PAPERS) / 2
    np.testing.assert_array_equal(
        index.search(parse_query("graph zebra"), 10)[1], index.search(parse_query("zebra"), 10)[1]
    )
    assert len(index.search(parse_query("graph"), 1_000)[1]) == index.document_frequency("graph")


def test_idf_and_document_frequency(tmp_path: Path) -> None:
    index = opened(tmp_path, make_paper(1, "graphs"), make_paper(2, "a graph", title="Graph"), make_paper(3, "trees"))
    assert (index.document_frequency("graph"), index.document_frequency("tree")) == (2, 1)
    assert index.idf("graph") == pytest.approx(math.log(1 + 1.5 / 2.5))
    assert index.idf("nowhere") == pytest.approx(math.log(1 + 3.5 / 0.5))


# The k best


@pytest.mark.parametrize("k", [1, 2, 7, 50, 399, 400, 1_000])
@pytest.mark.parametrize("query", ["speech", "tree kernel", "zebra", "graph"])
def test_all_that_tie_with_the_last_are_returned(index: LexicalIndex, query: str, k: int) -> None:
    scores, seqs = index.search(parse_query(query), len(PAPERS) + 1)
    some_scores, some_seqs = index.search(parse_query(query), k)
    count = np.count_nonzero(scores >= scores[min(k, len(scores)) - 1])
    np.testing.assert_array_equal(some_scores, scores[:count])
    assert set(some_seqs.tolist()) == set(seqs[:count].tolist())


def test_more_ties_than_are_fetched_at_first(tmp_path: Path) -> None:
    index = opened(tmp_path, *(make_paper(n, "the same text", title="") for n in range(300)))
    assert found(index, "text") == list(range(1, 301))


@pytest.mark.parametrize("terms_per_hit", [0, 2, 10**9])  # always fetches until enough pass; as it is; always by terms
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_filter_leaves_scores_and_order_as_they_are(
    index: LexicalIndex, terms_per_hit: int, data: st.DataObject
) -> None:
    query = parse_query(data.draw(st.sampled_from(["speech", "zebra tree", '"hidden markov" tree', "tree -kernel"])))
    k = data.draw(st.sampled_from([1, 3, 20, 500]))
    seed, share = data.draw(st.integers(0, 99)), data.draw(st.sampled_from([0.003, 0.03, 0.3, 0.9, 1.0]))
    known = np.array([seq for seq, _ in PAPERS])
    allowed = np.append(known[np.random.default_rng(seed).random(len(known)) < share], [10**9])
    scores, seqs = index.search(query, len(PAPERS) + 1)
    passing = np.isin(seqs, allowed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lexical, "_TERMS_PER_HIT", terms_per_hit)
        found_scores, found_seqs = index.search(query, k, allowed)
    count = np.count_nonzero(scores[passing] >= scores[passing][min(k, passing.sum()) - 1]) if passing.any() else 0
    np.testing.assert_array_equal(found_scores, scores[passing][:count])
    assert set(found_seqs.tolist()) == set(seqs[passing][:count].tolist())


@pytest.mark.parametrize("k", [0, 5])
def test_nothing_allowed_or_wanted(index: LexicalIndex, k: int) -> None:
    scores, seqs = index.search(parse_query("speech"), k, np.empty(0, dtype=np.int64))
    assert (scores.dtype, scores.shape) == (np.dtype(np.float64), (0,))
    assert (seqs.dtype, seqs.shape) == (np.dtype(np.int64), (0,))
    assert not index.search(parse_query("speech"), 0)[1].size


def test_answers_are_the_same_from_many_threads(index: LexicalIndex) -> None:
    queries = [parse_query(word) for word in WORDS] * 8
    alone = [index.search(query, 20) for query in queries]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda query: index.search(query, 20), queries))
    for (scores, seqs), (other_scores, other_seqs) in zip(alone, together, strict=True):
        np.testing.assert_array_equal(scores, other_scores)
        np.testing.assert_array_equal(seqs, other_seqs)


# Queries

LIBRARY = [
    make_paper(1, "We train hidden Markov models on speech.", title="Speech models", authors=("Geoffrey E. Hinton",)),
    make_paper(2, "Markov was hidden in a tree.", title="State-of-the-art trees", authors=("José Müller", "Long, Li")),
    make_paper(3, "A compiler for C++ and C#.", title="Compilers", doi="10.1000/ABC"),
    make_paper(4, "It answers long questions.", title="GPT-4", paper_id="arxiv:2303.08774"),
    make_paper(5, "Ice, snow, and a survey of the long winter.", title="Winters", paper_id="lab:W-5"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> LexicalIndex:
    return opened(tmp_path_factory.mktemp("library"), *LIBRARY)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("hidden markov", [1, 2]),
        ('"hidden markov"', [1]),
        ('"Hidden Markov Model" winter', [1]),
        ('"hidden markov" "a tree"', []),
        ("markov -speech", [2]),
        ('markov -"hidden markov"', [2]),
        ("-speech", [1]),
        ("-author:hinton", [1]),
        ("-speech author:hinton", []),
        ("title:models", [1]),
        ("title:tree", [2]),
        ("title:survey", []),
        ('title:"art tree"', [2]),
        ("title:state-of-the-art", [2]),
        ("author:hinton", [1]),
        ('author:"geoffrey hinton"', [1]),
        ('author:"Hinton, G. E."', []),
        ("author:muller author:jose", [2]),
        ("markov -author:hinton", [2]),
        ('"" markov -"" title:"!"', [1, 2]),
        ("Hinton", [1]),
        ("https://arxiv.org/abs/2303.08774v2", [4]),
        ("see arXiv:2303.08774.", [4]),
        ("2303.08774", [4]),
        ("doi:10.1000/abc", [3]),
        ("lab:w-5", [5]),
        ("W-5", [5]),
        ("winter's", [5]),
        ("the", [2, 5]),
        ("of", [2, 5]),
    ],
)
def test_what_is_found(library: LexicalIndex, typed: str, expected: list[int]) -> None:
    assert found(library, typed) == expected


@pytest.mark.parametrize(("typed", "best"), [("C++", 3), ("C#", 3), ("gpt-4", 4), ("asked long questions", 4)])
def test_what_is_found_first(library: LexicalIndex, typed: str, best: int) -> None:
    assert library.search(parse_query(typed), 10)[1][0] == best


UNSPACED = [
    make_paper(1, "我们研究机器翻译和对齐。"),
    make_paper(2, "翻译是机器做的吗?"),
    make_paper(3, "электроэнцефалографические исследования"),
    make_paper(4, "социологические исследования"),
    make_paper(5, "Compilers for C++ and their tests"),
    make_paper(6, "Compilers for C and vitamin C"),
]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("机器翻译", [1, 2]),
        ('"机器翻译"', [1]),
        ("исследования -электроэнцефалографические", [4]),
        ('"электроэнцефалографические исследования"', [3]),
        ("compilers -C++", [6]),
        ('"C++"', [5]),
        ('"for C++"', [5]),
        ('"for C"', [5, 6]),
        ("compilers title:" + "a" * 300, []),
    ],
)
def test_what_is_demanded_in_other_scripts_and_with_signs(tmp_path: Path, typed: str, expected: list[int]) -> None:
    assert found(opened(tmp_path, *UNSPACED), typed) == expected


def test_how_few_have_written_a_paper_does_not_count(tmp_path: Path) -> None:
    crowd = tuple(f"Person Number{n}" for n in range(30))
    papers = [
        make_paper(1, "snow and rain", authors=("Ada Berg",)),
        make_paper(2, "snow", authors=("Ada Berg", *crowd)),
    ]
    index = opened(tmp_path, *papers, *(make_paper(n, "rain") for n in range(3, 9)))
    plain, asked = (index.search(parse_query(typed), 10) for typed in ("snow", "snow author:berg"))
    np.testing.assert_array_equal(plain[1], asked[1])
    np.testing.assert_array_equal(plain[0], asked[0])


def test_a_name_that_is_a_common_word_counts_little(tmp_path: Path) -> None:
    papers = [make_paper(n, "long memory of neurons" if n % 3 else "rivers and lakes") for n in range(1, 31)]
    papers += [make_paper(31, "rivers and seas", authors=("Li Long",)), make_paper(32, "a memory")]
    index = opened(tmp_path, *papers)
    assert 31 in found(index, "long")
    assert index.search(parse_query("long memory"), 40)[1][-1] == 31


@pytest.mark.parametrize("typed", ["", " ", "-", '"', "😀", "\x01\x02", "..." * 3_000, "a" * 10_000, "title:"])
def test_nothing_to_search_for_finds_nothing(library: LexicalIndex, typed: str) -> None:
    assert found(library, typed if typed != "title:" else "title:?") == []


@settings(deadline=None)
@given(st.text(max_size=80) | st.text(alphabet='ab the"-:.()+*~^[]{}\\/title:author:', max_size=60))
def test_no_text_is_an_error(library: LexicalIndex, typed: str) -> None:
    query = parse_query(typed)
    seqs = library.search(query, 10)[1]
    assert library.meeting(query, seqs).all()


def test_a_very_long_query(index: LexicalIndex) -> None:
    text = " ".join(f"word{n}" for n in range(1_500)) + " zebra zebra"
    np.testing.assert_array_equal(
        index.search(LexicalQuery.of_text(text), 10)[1], index.search(parse_query("zebra"), 10)[1]
    )


@pytest.fixture(scope="module")
def alphabet(tmp_path_factory: pytest.TempPathFactory) -> LexicalIndex:
    """Return an index of papers of which number n holds word 1 to word n, so that a word is rarer than those before."""
    texts = [" ".join(f"word{one}" for one in range(1, n + 1)) for n in range(1, 101)]
    papers = [make_paper(n, text, title="", authors=("Word60 Word99",)) for n, text in enumerate(texts, 1)]
    return opened(tmp_path_factory.mktemp("alphabet"), *papers)


def test_of_a_long_text_the_words_that_weigh_most_are_searched(alphabet: LexicalIndex) -> None:
    words = [f"word{n}" for n in range(1, 101)]
    idf = {f"word{n}": math.log(1 + (n - 0.5) / (101.5 - n)) for n in range(1, 101)}  # 101 - n of 100 papers hold it
    assert list(alphabet.telling(Counter(words))) == words[:67:-1], "the 32 rarest"
    assert alphabet.telling(Counter(words)) == pytest.approx({word: idf[word] for word in words[68:]})
    said_often = Counter(
        [*words, *["word60"] * 2]
    )  # 3 * idf of word 60 is 2.67; of words 94 and 95 it is 2.60 and 2.74
    assert list(alphabet.telling(said_often))[5:8] == ["word95", "word60", "word94"]
    assert min(alphabet.search(LexicalQuery.of_text(" ".join(words)), 100)[1]) == 69, "no other words are looked up"
    most = 2.2 * sum(idf[word] for word in words[68:])
    assert alphabet.most(LexicalQuery.of_text(" ".join(words))) == pytest.approx(most)


def test_what_no_paper_holds_counts_in_a_long_text_and_hides_no_word(alphabet: LexicalIndex) -> None:
    text = " ".join([*(f"unheard{n}" for n in range(40)), "word99", "word100"])
    assert list(alphabet.telling(Counter(analyse(text)))) == ["word100", "word99"]
    assert alphabet.most(LexicalQuery.of_text(text)) == pytest.approx(2.2 * 32 * math.log(1 + 100.5 / 0.5))


def test_common_words_tell_only_where_there_are_no_others(alphabet: LexicalIndex) -> None:
    assert list(alphabet.telling(Counter(["word50", "word51", "word52"]))) == ["word52", "word51"]
    assert list(alphabet.telling(Counter(["word49", "word50", "unheard"]))) == ["word50", "word49"]
    assert alphabet.telling(Counter(["unheard"])) == {}


def test_what_only_dead_papers_hold_keeps_no_common_word_from_being_searched(tmp_path: Path) -> None:
    papers = [make_paper(n, "ash yew" if n == 3 else "ash", title="", authors=("A.",)) for n in range(1, 7)]
    write_lexical(tmp_path / "1", None, enumerate(papers, 1), [])
    before = LexicalIndex(tmp_path / "1")
    write_lexical(tmp_path / "2", tmp_path / "1", [], [3])
    after = LexicalIndex(tmp_path / "2")
    assert (found(before, "ash yew"), after.document_frequency("yew")) == ([3], 1)
    assert found(after, "ash yew") == [1, 2, 4, 5, 6]


def test_no_file_of_a_commit_is_removed_where_a_folder_may_not_be_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: object) -> None:
        raise PermissionError(f"{path} may not be read")

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", refused)  # as pathlib's glob hears it, and says that there is nothing
        write_lexical(tmp_path / "1", None, PAPERS, [])
    assert len(found(LexicalIndex(tmp_path / "1"), "graph")) == 100  # of the many that hold it


@settings(deadline=None)
@given(st.permutations([f"word{n}" for n in range(45, 100)]))
def test_the_order_of_the_words_changes_nothing(alphabet: LexicalIndex, words: list[str]) -> None:
    text, other = " ".join(words), " ".join(sorted(words))
    assert list(alphabet.telling(Counter(words))) == list(alphabet.telling(Counter(sorted(words))))
    assert alphabet.most(LexicalQuery.of_text(text)) == alphabet.most(LexicalQuery.of_text(other))
    for found, expected in zip(
        alphabet.search(LexicalQuery.of_text(text), 20), alphabet.search(LexicalQuery.of_text(other), 20), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_only_a_text_short_enough_to_be_typed_asks_for_authors(alphabet: LexicalIndex) -> None:
    """All papers are by Word60, and 41 of them also hold that word."""
    short = " ".join(f"unheard{n}" for n in range(31)) + " word60"
    assert len(found(alphabet, short)) == 100
    assert found(alphabet, f"{short} unheard31") == list(range(60, 101))


def test_which_papers_meet_the_demands(library: LexicalIndex) -> None:
    seqs = np.array([5, 2, 1, 99, 3])
    assert library.meeting(parse_query("markov -speech"), seqs).tolist() == [True, True, False, False, True]
    assert library.meeting(parse_query('winter "hidden markov"'), seqs).tolist() == [False, False, True, False, False]
    assert library.meeting(parse_query("winter"), seqs).tolist() == [True] * 5
    assert library.meeting(parse_query("-winter"), seqs[:0]).tolist() == []


def test_many_papers_are_found_range_after_range(library: LexicalIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [parse_query(typed) for typed in ("long -survey", "x -the -of", '"hidden markov" -speech', "x -nothing")]
    at_once = [library.holding(query.excluded, every=False) for query in asked]
    assert any(found is not None and len(found) > 1 for found in at_once)
    for most in (1, 2, 3):
        monkeypatch.setattr("semsearch.lexical._MOST_HITS", most)
        for query, expected in zip(asked, at_once, strict=True):
            found = library.holding(query.excluded, every=False)
            assert (found is None) == (expected is None)
            assert found is None or expected is None or sorted(found.tolist()) == sorted(expected.tolist())


# Files


def test_a_child_shares_files_and_leaves_the_parent_as_it_was(tmp_path: Path) -> None:
    write_lexical(tmp_path / "1", None, PAPERS[:300], [])
    before = digests(tmp_path / "1")
    dead = [seq for seq, _ in PAPERS[10:30]]
    assert write_lexical(tmp_path / "2", tmp_path / "1", PAPERS[300:], dead).papers == 380
    assert digests(tmp_path / "1") == before
    shared = {name for name in before if (tmp_path / "2" / name).exists()} - {"meta.json", ".managed.json"}
    assert all((tmp_path / "1" / name).samefile(tmp_path / "2" / name) for name in shared)
    assert shared == set(before) - {"meta.json", ".managed.json"}
    old, new = LexicalIndex(tmp_path / "1"), LexicalIndex(tmp_path / "2")
    assert (old.papers, new.papers) == (300, 380)
    assert set(new.search(parse_query("graph"), 1_000)[1].tolist()) == {
        seq for seq, paper in PAPERS if "graph" in paper.text and seq not in dead
    }
    assert set(old.search(parse_query("graph"), 1_000)[1].tolist()) == {
        seq for seq, paper in PAPERS[:300] if "graph" in paper.text
    }


def test_many_generations_merge_and_hold_what_they_should(tmp_path: Path) -> None:
    alive: dict[int, Paper] = {}
    for number in range(12):
        added = PAPERS[number * 20 : number * 20 + 20]
        dead = sorted(alive)[:3]
        alive = {seq: paper for seq, paper in [*alive.items(), *added] if seq not in dead}
        parent = tmp_path / str(number - 1) if number else None
        assert write_lexical(tmp_path / str(number), parent, added, dead).papers == len(alive)
        index = LexicalIndex(tmp_path / str(number), WEIGHTS)
        for word in ("speech", "tree"):
            expected = {seq for seq, paper in alive.items() if word in paper.text.split()}
            assert set(index.search(parse_query(word), 1_000)[1].tolist()) == expected
    assert len(list((tmp_path / "11").glob("*.idx"))) < 8
    assert {path.name for path in (tmp_path / "11").iterdir()} == set(lexical._committed(tmp_path / "11"))


def test_only_the_index_own_files_with_ordinary_permissions_are_left(tmp_path: Path) -> None:
    write_lexical(tmp_path / "1", None, PAPERS[:10], [])
    (tmp_path / "1" / ".tantivy-writer.lock").touch()  # what another tool may have left
    write_lexical(tmp_path / "2", tmp_path / "1", PAPERS[10:20], [])
    names = {path.name.partition(".")[2] for path in (tmp_path / "2").iterdir()}
    assert names == {"json", "managed.json", "idx", "pos", "term", "store", "fast", "fieldnorm"}
    (tmp_path / "usual").touch()
    usual = (tmp_path / "usual").stat().st_mode
    assert {(tmp_path / "2" / name).stat().st_mode for name in ("meta.json", ".managed.json")} == {usual}


def test_opening_and_searching_change_nothing_in_the_folder(tmp_path: Path) -> None:
    write_lexical(tmp_path / "1", None, PAPERS, [])
    before, times = digests(tmp_path / "1"), os.stat(tmp_path / "1").st_mtime_ns
    indexes = [LexicalIndex(tmp_path / "1") for _ in range(3)]
    assert {len(index.search(parse_query("speech"), 10)[1]) > 0 for index in indexes} == {True}
    assert (digests(tmp_path / "1"), os.stat(tmp_path / "1").st_mtime_ns) == (before, times)


def test_opening_leaves_nothing_in_the_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lexical(tmp_path / "1", None, PAPERS[:10], [])
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(LexicalIndex, [tmp_path / "1"] * 100))
    assert {index.papers for index in opened} == {10}
    assert list((tmp_path / "temporary").iterdir()) == []


def test_without_a_folder_for_temporary_files_nothing_is_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tmp_path, make_paper(1))

    def none_usable(*_: object, **__: object) -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr("tempfile.mkdtemp", none_usable)
    with pytest.raises(
        SemsearchError, match=r"no folder for temporary files can be written.*name one by TMPDIR"
    ) as told:
        LexicalIndex(tmp_path / "lexical")
    assert not isinstance(told.value, DamageError)


def test_a_removed_folder_is_still_searched_by_who_has_it_open(tmp_path: Path, index: LexicalIndex) -> None:
    write_lexical(tmp_path / "1", None, PAPERS, [])
    opened = LexicalIndex(tmp_path / "1", WEIGHTS)
    for path in (tmp_path / "1").iterdir():
        path.unlink()
    for typed in ("speech tree", '"hidden markov"'):
        np.testing.assert_array_equal(opened.search(parse_query(typed), 50)[0], index.search(parse_query(typed), 50)[0])


def test_an_index_without_papers(tmp_path: Path) -> None:
    assert write_lexical(tmp_path / "1", None, [], []).papers == 0
    empty = LexicalIndex(tmp_path / "1")
    assert (empty.papers, found(empty, "speech")) == (0, [])
    assert write_lexical(tmp_path / "2", tmp_path / "1", PAPERS[:5], []).papers == 5
    assert write_lexical(tmp_path / "3", tmp_path / "2", [], [seq for seq, _ in PAPERS[:5]]).papers == 0
    assert found(LexicalIndex(tmp_path / "3"), "graph speech") == []


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    write_lexical(tmp_path / "1", None, PAPERS[:10], [])
    monkeypatch.setattr(os, "link", refuse)
    assert write_lexical(tmp_path / "2", tmp_path / "1", PAPERS[10:20], []).papers == 20


def test_what_cannot_be_read_is_damage_and_the_source_of_papers_keeps_its_error(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    with pytest.raises(GenerationDamageError, match=r"lexical index cannot be read: .*meta\.json"):
        LexicalIndex(tmp_path / "0")
    with pytest.raises(ValueError, match="invalid literal"):
        write_lexical(tmp_path / "1", None, ((int(paper.title), paper) for _, paper in PAPERS), [])


def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    code = (
        "import resource\nfrom pathlib import Path\nfrom test_lexical import PAPERS, write_lexical\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n"
        f"write_lexical(Path({str(tmp_path / 'full')!r}), None, PAPERS, [])"
    )
    paths = [str(Path(__file__).parent), *filter(None, sys.path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "RUST_BACKTRACE": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1
    assert "OSError: " in done.stderr.splitlines()[-1]
