"""What filters leave, and how totals and facets count it, against SQL over the same papers."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from conftest import FakeEncoder, FakeLoader, make_paper, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st

from semsearch.columns import FACETS, Facet
from semsearch.filters import EVERY_PAPER, Filter, parse_filter
from semsearch.generation import IndexFolder, open_current
from semsearch.library import Library
from semsearch.papers import Paper
from semsearch.ranking import MODES, Mode
from semsearch.reindex import imports_of, update_index
from semsearch.search import Answer, Page, Searcher

TOPICS = [f"topic{number}" for number in range(12)]  # none of them in more than half of the papers
CATEGORIES = ["cs.CL", "CS.cl", "cs.LG", "stat.ML", "math.CO", "math.CV"]
VENUES = ["ACL", "acl", "ACL Findings", "NeurIPS", "Ice Letters"]
SOURCES = ["arXiv", "anthology", "Anthology B"]
GIVEN, FAMILY = ["Ada", "Alan", "Grace", "Geoffrey"], ["Lovelace", "Turing", "Hopper"]
PUBLISHED = ["2019", "2019-06", "2019-06-12", "2020-02-29", "2021", "2021-01", "2021-12-31", "2023-07-01", None]
DAYS = ["2018", "2019-06", "2019-06-12", "2019-07-01", "2020-03", "2021", "2021-12-30", "2024"]
PAPERS = 300
NO_LIMIT = 1_000

SCHEMA = """
    CREATE TABLE papers (
        row INTEGER PRIMARY KEY, id TEXT UNIQUE, work TEXT,
        published TEXT, venue TEXT, source TEXT, doi TEXT
    );
    CREATE TABLE categories (paper TEXT, label TEXT);
    CREATE TABLE authors (paper TEXT, given TEXT, family TEXT);
    CREATE TABLE words (paper TEXT, word TEXT);
"""
YEAR = "CAST(substr(published, 1, 4) AS INTEGER)"
LABELS = {"category": "lower(label)", "venue": "lower(venue)", "source": "lower(source)"}


def store(database: sqlite3.Connection, paper: Paper) -> None:
    """Write a paper behind all others."""
    database.execute(
        "INSERT INTO papers (id, work, published, venue, source, doi) VALUES (?, ?, ?, ?, ?, ?)",
        [paper.paper_id, paper.title, paper.published, paper.venue, paper.source, paper.doi],
    )
    lists = {"words": paper.abstract.split(), "categories": paper.categories}
    for table, values in lists.items():
        database.executemany(f"INSERT INTO {table} VALUES (?, ?)", [(paper.paper_id, value) for value in values])
    names = [(paper.paper_id, *name.split()) for name in paper.authors]
    database.executemany("INSERT INTO authors VALUES (?, ?, ?)", names)


def random_papers(rng: np.random.Generator, of: str) -> list[Paper]:
    """Return papers of which up to three are versions of one work: those of one title."""

    def some(values: Sequence[str], most: int) -> tuple[str, ...]:
        return tuple(rng.choice(values, rng.integers(1, most + 1), replace=False).tolist())

    def one(values: Sequence[str | None]) -> str | None:
        return values[int(rng.integers(len(values)))]

    people = [f"{given} {family}" for given in GIVEN for family in FAMILY]
    works = [(f"What {of} number {number} tells about rivers", some(people, 3)) for number in range(PAPERS // 2)]
    papers = []
    for number in range(PAPERS):
        title, authors = works[int(rng.integers(len(works)))]
        papers.append(
            make_paper(
                number,
                words=" ".join(some(TOPICS, 5)),
                title=title,
                authors=authors,
                published=one(PUBLISHED),
                categories=some(CATEGORIES, 3) if rng.random() < 0.8 else (),
                venue=one([*VENUES, None]),
                source=one(SOURCES),
                doi=f"10.1000/{number}" if rng.random() < 0.4 else None,
            )
        )
    return papers


@dataclass(frozen=True)
class Collection:
    """The same papers in an index and in a table."""

    searcher: Searcher
    database: sqlite3.Connection


@pytest.fixture(scope="module", params=[1, 2])
def collection(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, fake_encoder: FakeEncoder
) -> Iterator[Collection]:
    """Return random papers that came in steps, in which some changed and some went."""
    rng, folder = np.random.default_rng(request.param), tmp_path_factory.mktemp("sql")
    first, second = random_papers(rng, "dust"), random_papers(rng, "ice")
    third = second[:20] + first[20:100] + first[110:]
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(SCHEMA)
        for step in (first[:230], first[:280], third):
            source = write_jsonl(folder / "papers.jsonl", step)
            update_index(folder / "index", imports_of([source], sync=True), load=FakeLoader())
        index = IndexFolder(folder / "index")
        with Searcher(Library.open(index.library), open_current(index), fake_encoder) as searcher:
            generation, papers = searcher.generation, {paper.paper_id: paper for paper in third}
            assert len(generation.segments) > 1
            assert generation.tombstones.size
            ids = generation.ids_at(np.flatnonzero(generation.live))
            assert sorted(ids) == sorted(papers)
            for paper_id in ids:
                store(database, papers[paper_id])
            (works,) = database.execute("SELECT count(DISTINCT work) FROM papers").fetchone()
            assert generation.live_works == works < len(ids)
            yield Collection(searcher, database)


# Filters


@dataclass(frozen=True)
class Asked:
    """One filter as semsearch is told it, and as SQL is: an expression over a row of `papers` that is 0 or 1."""

    where: Filter
    sql: str
    values: tuple[object, ...] = ()


@dataclass(frozen=True)
class Alternative:
    """One alternative of a condition."""

    typed: str
    sql: str
    values: tuple[object, ...] = ()


def labelled(table: str, expression: str, labels: Sequence[str]) -> st.SearchStrategy[Alternative]:
    """Return a label, or the beginning of one with a star; `table` says where, with %s for which."""
    exact = st.sampled_from(labels).map(lambda label: Alternative(label, table % f"{expression} = lower(?)", (label,)))
    prefix = st.tuples(st.sampled_from(labels), st.integers(1, 4)).map(
        lambda drawn: Alternative(
            f"{drawn[0][: drawn[1]]}*",
            table % f"substr({expression}, 1, length(?)) = lower(?)",
            (drawn[0][: drawn[1]].strip(), drawn[0][: drawn[1]].strip()),
        )
    )
    return exact | prefix


def year_alternative(typed: str, first: int, last: int) -> Alternative:
    return Alternative(typed, f"coalesce({YEAR} BETWEEN ? AND ?, 0)", (first, last))


some_year = st.integers(2018, 2024)
years = st.one_of(
    some_year.map(lambda year: year_alternative(f"{year}", year, year)),
    some_year.map(lambda year: year_alternative(f"{year}-", year, 9999)),
    some_year.map(lambda year: year_alternative(f"-{year}", 0, year)),
    st.tuples(some_year, some_year).map(
        lambda pair: year_alternative(f"{min(pair)}-{max(pair)}", min(pair), max(pair))
    ),
)
_IN_CATEGORIES = "EXISTS (SELECT 1 FROM categories WHERE paper = papers.id AND %s)"
_IN_AUTHORS = "EXISTS (SELECT 1 FROM authors WHERE paper = papers.id AND %s)"
authors = st.one_of(
    st.sampled_from(FAMILY).map(lambda family: Alternative(family, _IN_AUTHORS % "family = ?", (family,))),
    st.tuples(st.sampled_from(GIVEN), st.sampled_from(FAMILY)).map(
        lambda name: Alternative(" ".join(name).upper(), _IN_AUTHORS % "(given, family) = (?, ?)", name)
    ),
    st.tuples(st.sampled_from("AGX"), st.sampled_from(FAMILY)).map(
        lambda name: Alternative(f"{name[1]}, {name[0]}.", _IN_AUTHORS % "substr(given, 1, 1) = ? AND family = ?", name)
    ),
)
some_ids = st.integers(0, PAPERS + 5).map(lambda number: Alternative(f"p{number}", "papers.id = ?", (f"p{number}",)))
ALTERNATIVES = {
    "year": years,
    "category": labelled(_IN_CATEGORIES, "lower(label)", [*CATEGORIES, "cs.XX"]),
    "venue": labelled("coalesce(%s, 0)", "lower(venue)", [*VENUES, "nowhere"]),
    "source": labelled("coalesce(%s, 0)", "lower(source)", SOURCES),
    "author": authors,
    "ids": some_ids,
}


def joined(name: str, alternatives: Sequence[Alternative]) -> Asked:
    """Return the condition that any of these alternatives meets."""
    typed = "|".join(each.typed for each in alternatives)
    sql = " OR ".join(each.sql for each in alternatives)
    values = tuple(value for each in alternatives for value in each.values)
    return Asked(parse_filter([(name, typed)]), f"({sql})", values)


def negated_as_typed(name: str, alternatives: Sequence[Alternative]) -> Asked:
    """Return the condition that none of these alternatives meets, by the sign for it."""
    positive = joined(name, alternatives)
    typed = "!" + "|".join(each.typed for each in alternatives)
    return Asked(parse_filter([(name, typed)]), f"NOT {positive.sql}", positive.values)


def from_day(day: str) -> Asked:
    """Return who may have been published on a day or later: what is known of their date says nothing else."""
    return Asked(
        parse_filter([("date_from", day)]), "coalesce(published >= substr(?, 1, length(published)), 0)", (whole(day),)
    )


def to_day(day: str) -> Asked:
    last = {4: f"{day}-12-31", 7: f"{day}-31", 10: day}[len(day)]
    return Asked(parse_filter([("date_to", day)]), "coalesce(published <= substr(?, 1, length(published)), 0)", (last,))


def whole(day: str) -> str:
    """Return the first day that is meant."""
    return day + "-01-01"[len(day) - 4 :] if len(day) < 10 else day


def with_doi(value: str) -> Asked:
    return Asked(parse_filter([("has_doi", value)]), f"doi IS {'NOT ' if value == 'true' else ''}NULL")


conditions: st.SearchStrategy[Asked] = st.one_of(
    *(
        st.lists(alternatives, min_size=1, max_size=40 if name == "ids" else 3).map(partial(said, name))
        for name, alternatives in ALTERNATIVES.items()
        for said in (joined, negated_as_typed)
    ),
    st.sampled_from(DAYS).map(from_day),
    st.sampled_from(DAYS).map(to_day),
    st.sampled_from(["true", "false"]).map(with_doi),
)


def combined(one: Asked, other: Asked, word: str) -> Asked:
    where = one.where & other.where if word == "AND" else one.where | other.where
    return Asked(where, f"({one.sql} {word} {other.sql})", one.values + other.values)


filters: st.SearchStrategy[Asked] = st.just(Asked(EVERY_PAPER, "1")) | st.recursive(
    conditions,
    lambda part: st.one_of(
        st.builds(combined, part, part, st.sampled_from(["AND", "OR"])),
        part.map(lambda each: Asked(~each.where, f"NOT {each.sql}", each.values)),
    ),
    max_leaves=5,
)


# Questions


@dataclass(frozen=True)
class Question:
    """A query: what it demands of every hit, and what has to be met to be found by words alone."""

    typed: str
    demanded: str
    found: str


def _holding(word: str) -> str:
    return f"EXISTS (SELECT 1 FROM words WHERE paper = papers.id AND word = '{word}')"


_BY_HOPPER = _IN_AUTHORS % "family = 'Hopper'"
QUESTIONS = [
    Question("topic1 topic2", "1", f"({_holding('topic1')} OR {_holding('topic2')})"),
    Question("topic3", "1", _holding("topic3")),
    Question("topic4 -topic5", f"NOT {_holding('topic5')}", _holding("topic4")),
    Question("topic6 author:hopper", _BY_HOPPER, _BY_HOPPER),
    Question("nowhere", "1", "0"),
]


# Counts


def ids_in(collection: Collection, sql: str, values: Sequence[object]) -> list[str]:
    return [name for (name,) in collection.database.execute(f"SELECT id FROM papers WHERE {sql} ORDER BY id", values)]


def counted(
    collection: Collection, among: str, values: Sequence[object], what: str = "id"
) -> dict[str, list[tuple[str, int]]]:
    """Return the values of each facet and how many papers or works have them, in the order in which they are told."""
    database, found = collection.database, {}
    years = f"""
        SELECT {YEAR} AS year, count(DISTINCT papers.{what})
        FROM papers WHERE {among} AND year NOT NULL GROUP BY 1 ORDER BY 1 DESC
    """
    found["year"] = [(str(year), papers) for year, papers in database.execute(years, values)]
    for name, label in LABELS.items():
        grouped = f"""
            SELECT {label} AS value, count(DISTINCT papers.{what}) AS papers
            FROM papers LEFT JOIN categories ON paper = papers.id
            WHERE {among} AND value NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1
        """
        found[name] = database.execute(grouped, values).fetchall()
    return found


def assert_counts(answer: Answer, expected: dict[str, list[tuple[str, int]]], limit: int) -> None:
    assert answer.facets is not None
    assert answer.facets.keys() == set(FACETS)
    assert {name: told(facet) for name, facet in answer.facets.items()} == {
        name: (values[:limit], max(len(values) - limit, 0)) for name, values in expected.items()
    }


def told(facet: Facet) -> tuple[list[tuple[str, int]], int]:
    return [(each.value.lower(), each.count) for each in facet.values], facet.more


@settings(max_examples=100)
@given(filters, st.sampled_from(QUESTIONS), st.sampled_from(MODES), st.sampled_from([1, 3, NO_LIMIT]))
def test_papers_their_number_and_their_facets_are_what_sql_says(
    collection: Collection, asked: Asked, question: Question, mode: Mode, limit: int
) -> None:
    matching = f"{asked.sql} AND {question.demanded}"
    if mode == "lexical":
        matching += f" AND {question.found}"
    expected = ids_in(collection, matching, asked.values)
    page = Page(5, where=asked.where, collapse="none", facet_values=limit)
    answer = collection.searcher.search(question.typed, page, mode)
    assert sorted(collection.searcher.ranked(question.typed, mode, asked.where)) == expected
    assert (answer.total, answer.total_is_exact) == (len(expected), True)
    assert len(answer.hits) == min(5, len(expected))
    assert_counts(answer, counted(collection, matching, asked.values), limit)


@settings(max_examples=60)
@given(filters, st.sampled_from(QUESTIONS), st.sampled_from(MODES))
def test_works_count_once_and_once_for_each_value_of_their_versions(
    collection: Collection, asked: Asked, question: Question, mode: Mode
) -> None:
    matching = f"{asked.sql} AND {question.demanded}"
    if mode == "lexical":
        matching += f" AND {question.found}"
    works = f"SELECT count(DISTINCT work) FROM papers WHERE {matching}"
    ((expected,),) = collection.database.execute(works, asked.values)
    answer = collection.searcher.search(question.typed, Page(5, where=asked.where, facet_values=NO_LIMIT), mode)
    assert (answer.total, answer.total_is_exact) == (expected, True)
    assert_counts(answer, counted(collection, matching, asked.values, "work"), NO_LIMIT)
