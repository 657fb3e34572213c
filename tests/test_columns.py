import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from itertools import pairwise, permutations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from conftest import make_paper
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from semsearch.columns import FACETS, Columns, Facet, FacetValue, facets, matching_rows, write_columns, writing
from semsearch.columns.form import header
from semsearch.errors import GenerationDamageError
from semsearch.filters import (
    EVERY_PAPER,
    AllOf,
    AnyOf,
    Author,
    Filter,
    HasDoi,
    Ids,
    Labelled,
    Not,
    Published,
    escape_label,
    parse_filter,
)
from semsearch.papers import Paper

Bits = NDArray[np.bool_]


def columns_of(papers: Sequence[Paper], folder: Path, name: str = "columns") -> Columns:
    """Write the papers' columns and open them."""
    with (folder / name).open("xb") as file:
        assert write_columns(iter(papers), file.write, folder) == len(papers)
    return Columns(folder / name)


def rows_by_id(papers: Sequence[Paper]) -> Callable[[Sequence[str]], NDArray[np.int64]]:
    rows = {paper.paper_id: row for row, paper in enumerate(papers)}
    return lambda ids: np.array([rows.get(paper_id, -1) for paper_id in ids], dtype=np.int64)


def found(papers: Sequence[Paper], folder: Path, *typed: str) -> list[str]:
    """Return the ids of the papers that meet what is typed."""
    wanted = parse_filter(tuple(word.split("=", 1)) for word in typed)  # type: ignore[misc]
    matching = matching_rows([columns_of(papers, folder)], wanted, rows_by_id(papers))
    return [papers[row].paper_id for row in np.flatnonzero(matching).tolist()]


# By hand


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("date_from=2017-06-01", "year june day"),  # "2017" may mean a day of June
        ("date_from=2017-06-13", "year june"),
        ("date_from=2017-07-01", "year"),
        ("date_from=2018-01-01", ""),
        ("date_to=2017-06-11", "old year june"),
        ("date_to=2017-01-01", "old year"),
        ("date_to=2016-12-31", "old"),
        ("date_from=!2017-06-01", "none old"),
        ("year=2017", "year june day"),
        ("year=!2017", "none old"),
        ("year=-9999", "old year june day"),
        ("year=1000-", "old year june day"),
    ],
)
def test_dates_are_met_by_the_days_that_they_may_mean(tmp_path: Path, typed: str, expected: str) -> None:
    dates = {"none": None, "old": "1000-01-01", "year": "2017", "june": "2017-06", "day": "2017-06-12"}
    papers = [make_paper(1, paper_id=name, published=published) for name, published in dates.items()]
    assert found(papers, tmp_path, typed) == expected.split()


def test_an_open_interval_of_days_is_any_date(tmp_path: Path) -> None:
    columns = columns_of([make_paper(1, published="9999"), make_paper(2)], tmp_path)
    assert columns.matches(Published()).tolist() == [True, False]
    assert columns.first_day[0] == 9999_01_01
    assert columns.last_day.tolist() == [9999_12_31, 0]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("Hinton", "full initials"),
        ("hinton geoffrey", "full"),
        ("G. Hinton", "full initials"),
        ("G.E. Hinton", "full initials"),
        ("E G Hinton", "full initials"),
        ("Geoffrey Hinton", "full"),  # a full word does not find a bare initial
        ("G. G. Hinton", ""),
        ("H. Hinton", ""),  # the H of Hinton is taken
        ("Hint", ""),
        ("Hinton Wang", ""),  # of two authors
        ("W. Wang", "wei"),
        ("W. W.", "wei"),
        ("Wang", "wei li"),
        ("Wang Wang", ""),
        ("Muller", "umlaut"),
        ("MÜLLER", "umlaut"),
        ("Jean Luc", "umlaut"),
        ("J-L Müller", "umlaut"),
        ("王", "han"),
        ("Lovelace|Li Wang", "li"),
        ("!Wang", "full initials umlaut han nobody"),
    ],
)
def test_authors_are_met_by_words_and_initials_of_one_name(tmp_path: Path, typed: str, expected: str) -> None:
    authors: dict[str, tuple[str, ...]] = {
        "full": ("Geoffrey E. Hinton", "Ada Wu"),
        "initials": ("Ada Wu", "G. E. Hinton"),
        "wei": ("Wei Wang",),
        "li": ("Li Wang", "Hanna Hintonova"),
        "umlaut": ("Jean-Luc Müller",),
        "han": ("王伟",),
        "nobody": ("...",),
    }
    papers = [make_paper(1, paper_id=paper_id, authors=names) for paper_id, names in authors.items()]
    assert found(papers, tmp_path, f"author={typed}") == expected.split()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("category=cs.CL", "a b"),
        ("category=CS.cl", "a b"),
        ("category=cs.C", ""),
        ("category=cs.*", "a b c"),
        ("category=cs.CV|stat.*", "b c"),
        ("category=*", "a b c"),
        ("category=!*", "d"),
        ("category=!cs.CL", "c d"),
        ("category=cs.cl*", "a b"),
        ("venue=acl", "a"),
        ("venue=ACL*", "a b"),
        ("venue=findings of   ACL", "c"),
        ("venue=!ACL", "b c d"),
        (r"venue=ACL \| NAACL", "b"),
        ("source=arxiv", "d"),
        ("has_doi=true", "b"),
        ("has_doi=false", "a c d"),
        ("ids=d|zzz|a", "a d"),
        ("ids=!d|zzz|a", "b c"),
    ],
)
def test_labels_dois_and_ids(tmp_path: Path, typed: str, expected: str) -> None:
    papers = [
        make_paper(1, paper_id="a", categories=("cs.CL",), venue="ACL"),
        make_paper(2, paper_id="b", categories=("stat.ML", "cs.CL"), venue="ACL | NAACL", doi="10.1000/b"),
        make_paper(3, paper_id="c", categories=("cs.CV",), venue="Findings of ACL"),
        make_paper(4, paper_id="d", source="arXiv"),
    ]
    assert found(papers, tmp_path, typed) == expected.split()


def test_ids_are_those_of_the_rows_asked_for(tmp_path: Path) -> None:
    papers = [make_paper(1, paper_id=name) for name in ("arxiv:1706.03762", "a", "doi:10.1000/e", "b")]
    columns = columns_of(papers, tmp_path)
    assert columns.ids_at(np.array([2, 0, 2, 3])) == ["doi:10.1000/e", "arxiv:1706.03762", "doi:10.1000/e", "b"]
    assert columns.ids_at(np.empty(0, dtype=np.int64)) == []


def test_a_title_is_told_however_it_is_typed(tmp_path: Path) -> None:
    titles = ("Multi-Task Naïve Bayes", "Multitask naive Bayes!", "Multi-Task Bayes", "", "...", "數學", "a a a b")
    columns = columns_of([make_paper(number, title=title) for number, title in enumerate(titles)], tmp_path)
    assert columns.titled("MULTI TASK NAIVE BAYES").tolist() == [0, 1]
    assert columns.titled("multi-task bayes").tolist() == [2]
    assert columns.titled("數學").tolist() == [5]
    assert columns.titled("").tolist() == columns.titled("?!").tolist() == []
    assert columns.title_words.tolist() == [4, 3, 3, 0, 0, 1, 2]


def test_several_conditions_must_all_hold(tmp_path: Path) -> None:
    papers = [
        make_paper(number, published=str(2010 + number), categories=("cs.CL",) if number % 2 else ())
        for number in range(9)
    ]
    typed = ("year=2012-2016", "category=cs.CL", "ids=p1|p3|p5|p6")
    assert found(papers, tmp_path, *typed) == ["p3", "p5"]


def test_facets_by_hand_over_two_segments(tmp_path: Path) -> None:
    first = [
        make_paper(1, published="2019-05", categories=("cs.CL", "CS.cl", "cs.LG"), venue="NeurIPS", source="x"),
        make_paper(2, published="2021", categories=("cs.LG",), venue="ACL", source="x"),
        make_paper(3, published="1850", categories=("dead",), venue="dead"),
    ]
    second = [make_paper(4, published="2021-01-02", categories=("cs.lg",), venue="neurips"), make_paper(5)]
    columns = [columns_of(first, tmp_path, "1"), columns_of(second, tmp_path, "2")]
    among = np.array([True, True, False, True, True])
    found = facets(columns, among, limit=1)
    assert found == {
        "year": Facet((FacetValue("2021", 2),), more=1),
        "category": Facet((FacetValue("cs.LG", 3),), more=1),
        "venue": Facet((FacetValue("NeurIPS", 2),), more=1),
        "source": Facet((FacetValue("x", 2),), more=0),
    }
    assert facets(columns, among)["category"].values == (FacetValue("cs.LG", 3), FacetValue("cs.CL", 1))
    assert facets(columns, np.zeros(5, dtype=np.bool_)) == dict.fromkeys(FACETS, Facet((), 0))


def test_nothing_is_a_generation_too() -> None:
    nothing = np.empty(0, dtype=np.bool_)
    for wanted in (EVERY_PAPER, HasDoi(), ~Ids(("a",)), AnyOf(())):
        assert matching_rows([], wanted, rows_by_id([])).tolist() == []
    assert facets([], nothing) == dict.fromkeys(FACETS, Facet((), 0))


def test_only_a_condition_can_be_asked_of_one_segment(tmp_path: Path) -> None:
    columns = columns_of([make_paper(1)], tmp_path)
    with pytest.raises(TypeError, match="AllOf is no condition of one segment"):
        columns.matches(EVERY_PAPER)


# Against brute force

NAMES = ["Wei Wang", "W. Wang", "Li Wang", "Geoffrey E. Hinton", "Ána Wu", "J. J. Smith", "John J Smith", "王伟", "—"]
LABELS = ["cs.CL", "CS.cl", "cs.C", "cs.LG", "stat.ML", "Straße", "STRASSE", "a|b", "x*", "!y", "back\\slash"]
DATES = [f"{year}{rest}" for year in (2019, 2020) for rest in ("", "-02", "-02-28", "-03-01", "-12-31")]
DAYS = [date(2018, 12, 31) + timedelta(number) for number in range(733)]  # all of 2019 and 2020, a day on each side
IDS = [f"p{number}" for number in range(12)]

labels = st.sampled_from(LABELS) | st.text(st.sampled_from("aAbß.é"), min_size=1, max_size=3)
names = st.sampled_from(NAMES) | st.text(st.sampled_from("aAbBé -"), min_size=1, max_size=6)


@st.composite
def paper_lists(draw: st.DrawFn) -> list[Paper]:
    return [
        make_paper(
            number,
            authors=tuple(draw(st.lists(names, max_size=3))),
            published=draw(st.none() | st.sampled_from(DATES)),
            categories=tuple(draw(st.lists(labels, max_size=3))),
            venue=draw(st.none() | labels),
            source=draw(st.none() | labels),
            doi=draw(st.none() | st.just("10.1000/x")),
        )
        for number in range(draw(st.integers(0, len(IDS))))
    ]


def days() -> st.SearchStrategy[date | None]:
    return st.none() | st.sampled_from(DAYS)


conditions: st.SearchStrategy[Filter] = st.one_of(
    st.tuples(days(), days())
    .filter(lambda pair: not (pair[0] and pair[1]) or pair[0] <= pair[1])
    .map(lambda pair: Published(*pair)),
    st.builds(
        Labelled,
        st.sampled_from(("category", "venue", "source")),
        st.lists(labels, min_size=1, max_size=3).map(tuple),
        st.lists(st.sampled_from(("", "c", "cs.", "CS.C", "stra", "é")), max_size=1).map(tuple),
    ),
    st.lists(
        st.sampled_from(
            ["Wang", "W Wang", "W. W.", "wei", "G Hinton", "e hinton g", "J Smith", "J J Smith", "ana", "a", "王"]
        ),
        min_size=1,
        max_size=2,
    ).map(lambda chosen: Author(tuple(chosen))),
    st.just(HasDoi()),
    st.lists(st.sampled_from([*IDS, "unknown"]), min_size=1, max_size=5).map(lambda chosen: Ids(tuple(chosen))),
)
filters: st.SearchStrategy[Filter] = st.recursive(
    conditions,
    lambda part: st.one_of(
        st.lists(part, max_size=3).map(lambda parts: AllOf(tuple(parts))),
        st.lists(part, max_size=3).map(lambda parts: AnyOf(tuple(parts))),
        part.map(Not),
    ),
    max_leaves=6,
)


def meets(paper: Paper, wanted: Filter) -> bool:
    """Return whether a paper meets a filter, in the plainest way."""
    match wanted:
        case AllOf(parts):
            return all(meets(paper, part) for part in parts)
        case AnyOf(parts):
            return any(meets(paper, part) for part in parts)
        case Not(part):
            return not meets(paper, part)
        case Published(first, last):
            return paper.published is not None and any(
                (first is None or day >= first) and (last is None or day <= last)
                for day in DAYS
                if day.isoformat().startswith(paper.published)
            )
        case Labelled(field, exact, prefixes):
            carried = [plain(label) for label in labels_of(paper, field)]
            return any(label in exact or label.startswith(prefixes) for label in carried)
        case Author(authors):
            return any(is_name(typed.split(), words_of(name)) for typed in authors for name in paper.authors)
        case HasDoi():
            return paper.doi is not None
        case Ids(ids):
            return paper.paper_id in ids
    raise AssertionError(wanted)


def labels_of(paper: Paper, field: str) -> tuple[str, ...]:
    value = getattr(paper, "categories" if field == "category" else field)
    return value if isinstance(value, tuple) else (value,) if value else ()


def plain(label: str) -> str:
    return " ".join(label.casefold().split())


def words_of(name: str) -> list[str]:
    decomposed = unicodedata.normalize("NFKD", name).lower()
    letters = (character for character in decomposed if not unicodedata.combining(character))
    return "".join(character if character.isalnum() else " " for character in letters).split()


def is_name(typed: list[str], words: list[str]) -> bool:
    """Return whether each word typed can be given a word of its own."""
    return any(
        all(one == word or (len(one) == 1 and word.startswith(one)) for one, word in zip(typed, chosen, strict=True))
        for chosen in permutations(words, len(typed))
    )


def in_segments(papers: Sequence[Paper], cuts: Sequence[int], folder: Path) -> list[Columns]:
    borders = [0, *sorted(min(cut, len(papers)) for cut in cuts), len(papers)]
    return [columns_of(papers[start:end], folder, str(number)) for number, (start, end) in enumerate(pairwise(borders))]


cuts = st.lists(st.integers(0, len(IDS)), max_size=3)


@settings(deadline=None, max_examples=150)
@given(paper_lists(), cuts, st.lists(filters, min_size=1, max_size=6))
def test_filters_against_brute_force(papers: list[Paper], cuts: list[int], wanted: list[Filter]) -> None:
    with TemporaryDirectory() as folder:
        columns = in_segments(papers, cuts, Path(folder))
        for each in wanted:
            matching = matching_rows(columns, each, rows_by_id(papers))
            assert matching.tolist() == [meets(paper, each) for paper in papers]


@settings(deadline=None, max_examples=100)
@given(paper_lists(), cuts, st.data())
def test_facets_against_counters(papers: list[Paper], cuts: list[int], data: st.DataObject) -> None:
    among = np.array([data.draw(st.booleans()) for _ in papers], dtype=np.bool_)
    limit = data.draw(st.integers(0, 5))
    chosen = [paper for paper, is_chosen in zip(papers, among.tolist(), strict=True) if is_chosen]
    with TemporaryDirectory() as folder:
        columns = in_segments(papers, cuts, Path(folder))
        found = facets(columns, among, limit)
        years = Counter(paper.year for paper in chosen if paper.year is not None)
        assert [(int(each.value), each.count) for each in found["year"].values] == sorted(years.items(), reverse=True)[
            :limit
        ]
        assert found["year"].more == max(len(years) - limit, 0)
        for field in ("category", "venue", "source"):
            counts = Counter(key for paper in chosen for key in {plain(label) for label in labels_of(paper, field)})
            ranked = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
            assert [(plain(each.value), each.count) for each in found[field].values] == ranked[:limit]
            assert found[field].more == max(len(counts) - limit, 0)
            assert {each.value for each in found[field].values} <= {
                label for each in papers for label in labels_of(each, field)
            }
        for name, facet in found.items():  # what a reader gets who clicks on a value
            for each in facet.values:
                wanted = parse_filter([(name, escape_label(each.value))])
                assert (matching_rows(columns, wanted, rows_by_id(papers)) & among).sum() == each.count


@settings(deadline=None, max_examples=30)
@given(paper_lists(), st.lists(filters, min_size=1, max_size=6))
def test_a_writer_that_forgets_names_and_spools_to_files_changes_no_answer(
    papers: list[Paper], wanted: list[Filter]
) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        usual = columns_of(papers, Path(folder), "usual")
        patch.setattr(writing, "_REMEMBERED_NAMES", 2)
        patch.setattr(writing, "_BLOCK_ROWS", 2)
        patch.setattr(writing, "_BLOCK_BYTES", 16)
        forgetful = columns_of(papers, Path(folder), "forgetful")
    for each in wanted:
        one, other = (matching_rows([columns], each, rows_by_id(papers)) for columns in (usual, forgetful))
        np.testing.assert_array_equal(one, other)
    everything = np.ones(len(papers), dtype=np.bool_)
    assert facets([usual], everything) == facets([forgetful], everything)


# The file


def test_the_file_is_numpy_arrays_laid_end_to_end(tmp_path: Path) -> None:
    papers = [
        make_paper(1, authors=("Ada Wu", "G. Hinton"), published="2017-02", categories=("b", "a"), venue="V x"),
        make_paper(2, authors=("ada WU",), categories=("A",), source="s", doi="10.1000/x"),
    ]
    columns_of(papers, tmp_path)
    with (tmp_path / "columns").open("rb") as file:
        arrays = [np.load(file, allow_pickle=False) for _ in range(24)]
        assert file.read() == b""
    numbers = [array.tolist() for array in arrays[:19]]
    assert numbers[:4] == [[0, 4, 8], [0, 8], [0, 4], [0, 10, 22]]  # where entries start, and the last line break
    assert numbers.pop(4) == [0, 2, 4]  # and where the ids do, and their end
    hashes = [xxh3_64_intdigest(b"paper1"), xxh3_64_intdigest(b"paper2")]
    assert numbers.pop(4) == sorted(hashes)
    assert numbers.pop(12) == np.argsort(hashes).tolist()
    assert numbers.pop() == [2, 2]  # words of the titles
    assert numbers[4:6] == [[0, 0, 1], [0, 1, 1]]  # rows and codes of the categories
    assert numbers[6:8] == [[0], [0]]
    assert numbers[8:10] == [[1], [0]]
    assert numbers[10:12] == [[0, 0, 1], [0, 1, 0]]
    assert numbers[12:15] == [[2017_02_01, 2**31 - 1], [2017_02_28, 0], [0, 1]]
    texts = [array.tobytes() for array in arrays[19:]]
    assert texts == [b"\nb\tb\na\ta\n", b"\nv x\tV x\n", b"\ns\ts\n", b"\n<ada><wu>\n<g><hinton>\n", b"p1p2"]


def test_equal_papers_give_equal_bytes_and_no_file_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_BLOCK_BYTES", 8)
    papers = [make_paper(number, authors=("Ada Wu",), categories=("c", "b", "a")) for number in range(20)]
    (tmp_path / "scratch").mkdir()
    written: list[bytes] = []
    for _ in range(2):
        pieces: list[bytes] = []

        def take(data: bytes, pieces: list[bytes] = pieces) -> int:
            pieces.append(data)
            return len(data)

        assert write_columns(papers, take, tmp_path / "scratch") == 20
        written.append(b"".join(pieces))
    assert written[0] == written[1]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_source_or_a_disk_that_fails_is_heard_and_nothing_stays_open(tmp_path: Path) -> None:
    def broken() -> Sequence[Paper]:
        raise OSError("the library is gone")

    with pytest.raises(OSError, match="gone"):
        write_columns((paper for papers in ([make_paper(1)], broken()) for paper in papers), len, tmp_path)

    def full(data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_columns([make_paper(1)], full, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    papers = [make_paper(number, authors=("Ada Wu",), published="2017", categories=("c",)) for number in range(3)]
    columns_of(papers, tmp_path)
    return tmp_path / "columns"


def test_the_columns_are_aligned_and_can_not_be_written_through_their_map(path: Path) -> None:
    columns = Columns(path)
    for array in (columns.first_day, columns.last_day, columns.matches(HasDoi())):
        assert array.flags.aligned
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    whole = matching_rows([columns], HasDoi(), rows_by_id([]))
    whole[0] = True  # a copy
    assert not columns.matches(HasDoi()).any()


def test_a_file_cut_anywhere_or_with_something_behind_it_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(GenerationDamageError, match="holds no columns"):
            Columns(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(GenerationDamageError, match="something stands behind its last array"):
        Columns(path)


def test_a_foreign_file_is_refused(path: Path) -> None:
    path.write_bytes(b"IxFI" + bytes(1_000))
    with pytest.raises(GenerationDamageError, match="holds no columns"):
        Columns(path)
    with path.open("wb") as file:
        file.write(header("q", 3) + np.arange(3).tobytes() + header("d", 3) + np.zeros(3).tobytes())
    with pytest.raises(GenerationDamageError, match=r"venue\.starts does not begin at byte 152"):
        Columns(path)


def test_arrays_of_different_rows_are_refused(path: Path) -> None:
    with path.open("rb") as file:
        arrays = [np.load(file) for _ in range(24)]
    # starts, rows and text of the authors, starts and text of ids, last days, has a DOI, hash, row and words of titles
    for changed in (3, 12, 22, 4, 23, 16, 17, 5, 14, 18):
        with path.open("wb") as file:
            for number, array in enumerate(arrays):
                kept = array[:-1] if number == changed else array
                file.write(header(array.dtype.char, len(kept)) + kept.tobytes())
        with pytest.raises(GenerationDamageError, match="columns that do not belong together"):
            Columns(path)


def test_a_bit_flipped_in_a_header_is_refused(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    for place in range(128):
        for bit in (0, 3, 6):
            whole[place] ^= 1 << bit
            path.write_bytes(whole)
            whole[place] ^= 1 << bit
            with pytest.raises(GenerationDamageError):
                Columns(path)
