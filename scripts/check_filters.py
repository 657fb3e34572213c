#!/usr/bin/env python3
"""Ask an index within random filters, from those that leave one paper to those that leave all, and check the answers.

scripts/check_filters.py FOLDER --filters 40

What a filter should leave is worked out from the papers as the library tells them, without the index's columns, and
what should be found among that by brute force: from the cosines of all papers, and from all papers that hold a word.
Of each decade of selectivity as many filters are drawn; where an index is too small for one, fewer. Counted are

- short answers: fewer hits than were asked for, and than there are,
- leaks: hits that the filter does not leave, that come twice, or that hold no word where only words are asked for,
- wrong totals,
- misses: those of the ten best that were not shown. Lists cause some (`dense`, but not `dense, exact`), more where the
  question lies far from all papers.
"""

import argparse
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from measuring import counting, index_facts, keep
from numpy.typing import NDArray

from semsearch import Page, Searcher
from semsearch.filters import EVERY_PAPER, Filter, LabelField, escape_label, fold_label, fold_name, parse_filter
from semsearch.papers import Paper
from semsearch.queries import parse_query
from semsearch.ranking import MODES, Mode
from semsearch.search import MAX_WINDOW, Answer

DECADES = {
    "10 % to 100 %": 1e-1,
    "1 % to 10 %": 1e-2,
    "0.1 % to 1 %": 1e-3,
    "0.01 % to 0.1 %": 1e-4,
    "0.001 % to 0.01 %": 1e-5,
    "up to 0.001 %": 0.0,
    "none": -1.0,
}
"""Each decade of selectivity and the share of all papers that is just below it."""

_EVERYDAY = Path(__file__).parent / "everyday_questions.txt"
_QUESTIONS = 10  # everyday ones, and as many titles
_LIMITS = (1, 10, 100)
_DRAWS_PER_FILTER = 100
_BLOCK = 5_000
_FLOAT32_ERROR = 2e-6

Mask = NDArray[np.bool_]
Scores = NDArray[np.float64]
Rows = NDArray[np.int64]
Condition = tuple[str, str, Rows]
"""A name, what is typed for it, and the rows that it leaves."""


def main() -> None:
    """Run the checks and keep their result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("index", type=Path)
    arguments.add_argument("--filters", type=int, default=40, help="how many of each decade")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    with Searcher.open(options.index) as searcher:
        facts = index_facts(searcher.generation)
        result = checked(searcher, options.filters, options.seed)
    keep("filters", {"index": facts, "seed": options.seed} | result, [])


def checked(searcher: Searcher, filters: int, seed: int) -> dict[str, Any]:
    """Return what was asked, and what of the answers was wrong, by mode and decade."""
    rng = np.random.default_rng(seed)
    by_decade = drawn(Papers(searcher), filters, rng)
    questions = Question.of(searcher, _texts(searcher, rng))
    ways: dict[str, tuple[Mode, bool]] = {mode: (mode, True) for mode in MODES} | {"dense, exact": ("dense", False)}
    modes: dict[str, dict[str, Verdict]] = {name: defaultdict(Verdict) for name in ways}
    tell, asked, of = counting("filters"), 0, sum(map(len, by_decade.values()))
    for decade, some in by_decade.items():
        for each in some:
            question, limit = questions[int(rng.integers(len(questions)))], int(rng.choice(_LIMITS))
            for name, (mode, approximate) in ways.items():
                page = Page(limit, where=each.where, collapse="none", approximate=approximate)
                answer = searcher.search(question.text, page, mode)
                modes[name][decade].add(searcher, answer, question, each.rows, limit)
            asked += 1
            tell(asked, of)
    return {
        "questions": len(questions),
        "limits": _LIMITS,
        "filters": {decade: _described(some) for decade, some in by_decade.items()},
        "conditions": dict(Counter(kind for some in by_decade.values() for each in some for kind in each.kinds)),
        "modes": {
            name: {decade: each.figures() for decade, each in verdicts.items()} for name, verdicts in modes.items()
        },
    }


def _described(some: Sequence["Drawn"]) -> dict[str, int]:
    counts = [int(np.count_nonzero(each.rows)) for each in some]
    return {"filters": len(some), "fewest_papers": min(counts, default=0), "most_papers": max(counts, default=0)}


def _texts(searcher: Searcher, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Return everyday questions, which hardly any paper answers, and words of titles, none in a query's syntax."""
    everyday = _EVERYDAY.read_text(encoding="utf-8").splitlines()[:_QUESTIONS]
    rows = rng.permutation(np.flatnonzero(searcher.generation.live))[: 4 * _QUESTIONS]
    versions = searcher.library.versions_at(searcher.generation.seqs_at(np.sort(rows)).tolist())
    titles = [" ".join(re.findall(r"[a-z0-9]{3,}", each.paper.title.lower())[:6]) for each in versions.values()]
    asked = {"everyday questions": everyday, "words of titles": [title for title in titles if title][:_QUESTIONS]}
    return [(kind, text) for kind, texts in asked.items() for text in texts]


# What filters should leave


@dataclass(frozen=True, slots=True)
class Drawn:
    """A filter, the rows that it should leave, and the names of its conditions."""

    where: Filter
    rows: Mask
    kinds: tuple[str, ...]


class Papers:
    """What the library tells of each live paper, by value: which rows hold it."""

    def __init__(self, searcher: Searcher) -> None:
        """Read all of it."""
        self._searcher = searcher
        self._generation = searcher.generation
        self.live: Rows = np.flatnonzero(self._generation.live)
        held: dict[str, dict[str, list[int]]] = defaultdict(partial(defaultdict, list))
        for row, paper in self._all():
            for name, value in _values_of(paper):
                held[name][value].append(row)
        self._rows: dict[str, dict[str, Rows]] = {
            name: {value: np.array(rows) for value, rows in by_value.items()} for name, by_value in held.items()
        }
        self._names: dict[str, list[str]] = defaultdict(list)
        for name in self._rows.get("author", ()):
            for word in set(name.split()):
                self._names[word].append(name)

    def _all(self) -> Iterator[tuple[int, Paper]]:
        for start in range(0, len(self.live), _BLOCK):
            rows = self.live[start : start + _BLOCK]
            seqs = self._generation.seqs_at(rows).tolist()
            versions = self._searcher.library.versions_at(seqs)
            yield from ((row, versions[seq].paper) for row, seq in zip(rows.tolist(), seqs, strict=True))

    def drawn(self, rng: np.random.Generator) -> Drawn:
        """Return a random filter: conditions that one paper meets, some of them negated, or two such lists."""
        one = self._conjunction(rng)
        if rng.random() < 0.1:
            other = self._conjunction(rng)
            one = Drawn(one.where | other.where, one.rows | other.rows, one.kinds + other.kinds)
        if rng.random() < 0.1:
            one = Drawn(~one.where, self._generation.live & ~one.rows, one.kinds)
        return one

    def _conjunction(self, rng: np.random.Generator) -> Drawn:
        (version,) = self._searcher.library.versions_at(
            self._generation.seqs_at(rng.choice(self.live, 1)).tolist()
        ).values()
        kinds = rng.permutation(8)[: int(rng.integers(1, 5))].tolist()
        where: Filter = EVERY_PAPER
        rows, names = self._generation.live.copy(), []
        for kind in kinds:
            for name, typed, found in self._condition(kind, version.paper, rng):
                mask = np.zeros_like(rows)
                mask[found] = True
                negated = rng.random() < 0.1
                condition = parse_filter([(name, typed)])
                where &= ~condition if negated else condition
                rows &= ~mask if negated else mask
                names.append(name)
        return Drawn(where, rows, tuple(names))

    def _condition(self, kind: int, paper: Paper, rng: np.random.Generator) -> Iterable[Condition]:
        """Return a condition of this kind that the paper meets, none where it has nothing to be met by."""
        makers: list[Callable[[Paper, np.random.Generator], Iterable[Condition]]] = [
            self._of_year,
            self._of_day,
            *(partial(self._of_label, name) for name in ("category", "venue", "source")),
            self._of_author,
            self._of_doi,
            self._of_ids,
        ]
        return makers[kind](paper, rng)

    def _of_year(self, paper: Paper, rng: np.random.Generator) -> Iterable[Condition]:
        if paper.year is not None:
            span = int(rng.choice([0, 0, 1, 5, 20]))
            first = max(paper.year - int(rng.integers(span + 1)), 1000)
            last = min(first + span, 9999)
            yield "year", f"{first}-{last}", self._dated(lambda date: first <= int(date[:4]) <= last)

    def _of_day(self, paper: Paper, rng: np.random.Generator) -> Iterable[Condition]:
        if paper.published:
            day = (paper.published + "-01-01"[len(paper.published) - 4 :])[:10]
            if rng.random() < 0.5:  # of a date that is known in part, any day may be meant
                yield "date_from", day, self._dated(lambda date: date >= day[: len(date)])
            else:
                yield "date_to", day, self._dated(lambda date: date <= day[: len(date)])

    def _dated(self, meets: Callable[[str], bool]) -> Rows:
        return _together(rows for date, rows in self._rows["date"].items() if meets(date))

    def _of_label(self, name: LabelField, paper: Paper, rng: np.random.Generator) -> Iterable[Condition]:
        labels = _labels_of(paper)[name]
        if labels:
            label, held = labels[int(rng.integers(len(labels)))], self._rows[name]
            beginning = re.split(r"(?<=[.\s])", label)[0].strip()
            if rng.random() < 0.3 and fold_label(beginning):
                folded = fold_label(beginning)
                found = _together(rows for key, rows in held.items() if key.startswith(folded))
                yield name, escape_label(beginning) + "*", found
            else:
                yield name, escape_label(label), held[fold_label(label)]

    def _of_author(self, paper: Paper, rng: np.random.Generator) -> Iterable[Condition]:
        if paper.authors:
            author = paper.authors[int(rng.integers(len(paper.authors)))]
            words = fold_name(author).split()[-1 if rng.random() < 0.5 else 0 :]
            if any(len(word) > 1 for word in words) and len(words) <= 4:
                longest = max(words, key=len)
                names = (name for name in self._names[longest] if _is_name(words, name.split()))
                yield "author", " ".join(words), _together(self._rows["author"][name] for name in names)

    def _of_doi(self, paper: Paper, rng: np.random.Generator) -> Iterable[Condition]:
        with_doi = _together(self._rows.get("doi", {}).values())
        if paper.doi:
            yield "has_doi", "true", with_doi
        else:
            without = self._generation.live.copy()
            without[with_doi] = False
            yield "has_doi", "false", np.flatnonzero(without)

    def _of_ids(self, paper: Paper, rng: np.random.Generator) -> Iterable[Condition]:
        rows = np.unique(rng.choice(self.live, int(10 ** rng.uniform(0, 3))))
        versions = self._searcher.library.versions_at(self._generation.seqs_at(rows).tolist())
        yield "ids", "|".join(version.paper.paper_id for version in versions.values()), rows


def _values_of(paper: Paper) -> Iterator[tuple[str, str]]:
    """Yield each field by which papers are filtered, and what this one holds there: once, as it is compared."""
    if paper.published:
        yield "date", paper.published
    if paper.doi:
        yield "doi", ""
    yield from (("author", name) for name in {fold_name(author) for author in paper.authors})
    for name, labels in _labels_of(paper).items():
        yield from ((name, label) for label in {fold_label(label) for label in labels})


def _labels_of(paper: Paper) -> dict[LabelField, tuple[str, ...]]:
    venue, source = ((each,) if each else () for each in (paper.venue, paper.source))
    return {"category": paper.categories, "venue": venue, "source": source}


def _is_name(typed: Sequence[str], words: Sequence[str]) -> bool:
    """Return whether each word typed can be given a word of its own, one letter any that begins with it."""
    return any(
        all(one == word or (len(one) == 1 and word.startswith(one)) for one, word in zip(typed, chosen, strict=True))
        for chosen in permutations(words, len(typed))
    )


def _together(rows: Iterable[Rows]) -> Rows:
    return np.concatenate([np.empty(0, dtype=np.int64), *rows])


def drawn(papers: Papers, filters: int, rng: np.random.Generator) -> dict[str, list[Drawn]]:
    """Return random filters of each decade, so many if they can be had."""
    found: dict[str, list[Drawn]] = {decade: [] for decade in DECADES}
    for _ in range(filters * _DRAWS_PER_FILTER):
        each = papers.drawn(rng)
        some = found[decade_of(np.count_nonzero(each.rows) / len(papers.live))]
        if len(some) < filters:
            some.append(each)
        if all(len(some) == filters for some in found.values()):
            break
    return found


def decade_of(share: float) -> str:
    """Return the decade in which this share of all papers is."""
    return next(decade for decade, below in DECADES.items() if share > below)


# What should be found among it


@dataclass(frozen=True, slots=True)
class Question:
    """A question and what every row scores by it: its cosine, its BM25; and which rows hold a word of it."""

    kind: str
    text: str
    cosines: Scores
    bm25: Scores
    found: Mask

    @classmethod
    def of(cls, searcher: Searcher, texts: Sequence[tuple[str, str]]) -> "list[Question]":
        """Return the questions, given by their kind and text, with the scores of all rows."""
        cosines = _cosines(searcher, [text for _, text in texts])
        return [cls(*each, mine, *_bm25(searcher, each[1])) for each, mine in zip(texts, cosines, strict=True)]


def _cosines(searcher: Searcher, texts: Sequence[str]) -> Scores:
    """Return the cosine of each text and each row, shape (texts, rows)."""
    rows = searcher.generation.manifest.rows
    vectors, cosines = searcher.encoder.encode_queries(texts), np.zeros((len(texts), rows))
    for start in range(0, rows, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, rows))
        cosines[:, block] = vectors @ searcher.generation.vectors_at(block).T
    return cosines


def _bm25(searcher: Searcher, text: str) -> tuple[Scores, Mask]:
    """Return the BM25 of each row, and which rows hold a word of the text."""
    generation = searcher.generation
    scores, seqs = generation.lexical.search(parse_query(text), generation.papers)
    bm25, found = np.zeros(len(generation.live)), np.zeros_like(generation.live)
    rows = generation.rows_of(seqs)
    bm25[rows], found[rows] = scores, True
    return bm25, found


@dataclass(slots=True)
class Verdict:
    """What was wrong with some answers."""

    answers: int = 0
    short: int = 0
    leaks: int = 0
    wrong_totals: int = 0
    expected: int = 0
    ten_best: Counter[str] = field(default_factory=Counter)
    missed: Counter[str] = field(default_factory=Counter)

    def add(self, searcher: Searcher, answer: Answer, question: "Question", left: Mask, limit: int) -> None:
        """Judge one more answer, to a question within a filter that leaves these rows."""
        rows = left & question.found if answer.mode == "lexical" else left
        there, shown = int(np.count_nonzero(rows)), _rows_of(searcher, answer)
        self.answers += 1
        self.short += len(answer.hits) < min(limit, there)
        self.leaks += len(shown) - int(np.count_nonzero(rows[np.unique(shown)]))
        self.wrong_totals += not _is_total(answer, there)
        self.expected += min(limit, there)
        if answer.mode != "hybrid":  # whose best nobody knows without doing what it does
            scores = question.bm25 if answer.mode == "lexical" else question.cosines
            best = -np.sort(-scores[rows])[: min(limit, 10)]
            self.ten_best[question.kind] += len(best)
            self.missed[question.kind] += _missed(best, scores[np.unique(shown[:10])])

    def figures(self) -> dict[str, Any]:
        """Return the counts."""
        figures: dict[str, Any] = {
            "answers": self.answers,
            "hits_expected": self.expected,
            "short_answers": self.short,
            "leaks": self.leaks,
            "wrong_totals": self.wrong_totals,
        }
        misses = {kind: {"expected": of, "missed": self.missed[kind]} for kind, of in self.ten_best.items()}
        return figures | ({"ten_best": misses} if misses else {})


def _rows_of(searcher: Searcher, answer: Answer) -> Rows:
    """Return the row of each hit, in its order."""
    generation = searcher.generation
    seqs = searcher.library.live_seqs([hit.paper.paper_id for hit in answer.hits], generation.manifest.last_seq)
    return generation.rows_of(np.array([seqs[hit.paper.paper_id] for hit in answer.hits], dtype=np.int64))


def _missed(best: Scores, shown: Scores) -> int:
    """Return how many of the best scores were not shown, nor others as high."""
    return len(best) - int(np.count_nonzero(shown >= best[-1] - _FLOAT32_ERROR)) if best.size else 0


def _is_total(answer: Answer, there: int) -> bool:
    if answer.total_is_exact:
        return answer.total == there
    return MAX_WINDOW <= answer.total <= there


if __name__ == "__main__":
    main()
