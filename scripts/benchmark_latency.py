#!/usr/bin/env python3
"""Time one question after the other in each mode, tell what its parts cost, and do the same within filters.

scripts/benchmark_latency.py indexes/small indexes/large --queries 500

Questions are made of the index's own papers: titles in lower case without one of their words, natural questions with
words of title and abstract, and abstracts in full. Each is asked once and comes from another paper, so that no query's
vector is remembered from before. Ten hits are asked for, versions of one work folded.
"""

import argparse
import math
import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from measuring import counting, index_facts, keep

from semsearch import Page, Paper, Searcher, parse_filter, search
from semsearch.evaluate import TESTS
from semsearch.filters import Filter, escape_label
from semsearch.generation import Generation
from semsearch.lexical import LexicalIndex
from semsearch.library import Library
from semsearch.ranking import MODES, Mode, Ranker
from semsearch.search import MAX_QUERY_CHARACTERS
from semsearch.works import Works

_SHARES = (0.1, 0.01, 0.001)
_WARM_UP = 20
_PAPERS_PER_READ = 256
_OTHER = "other"

Query = Callable[[Paper, random.Random], str | None]


def main() -> None:
    """Run the measurements and keep their result."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("indexes", type=Path, nargs="+", metavar="index")
    arguments.add_argument("--queries", type=int, default=500, help="of each kind, in each mode and each filter")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    result = {}
    for index in options.indexes:
        with Searcher.open(index) as searcher:
            papers = f"{searcher.generation.papers} papers"
            result[papers] = measured(searcher, options.queries, options.seed)
    keep("latency", result, [])


def measured(searcher: Searcher, count: int, seed: int) -> dict[str, Any]:
    """Return percentiles and parts of each kind of query in each mode, within filters, and with facets."""
    questions, generation = Questions(searcher, seed), searcher.generation
    for mode in MODES:
        timed(searcher, questions.take(title_without_a_word, _WARM_UP), Page(), mode, "warm-up")

    def each_mode(kind: str, page: Page, name: str) -> dict[str, Any]:
        return {mode: timed(searcher, questions.take(KINDS[kind], count), page, mode, name) for mode in MODES}

    return {
        "queries": count,
        "queries_asked": "one at a time, each once",
        "hits": Page().limit,
        "unit": "milliseconds; the means of the parts add up to that of the whole; processor: the mean of all cores",
        "kinds": {kind: each_mode(kind, Page(), kind) for kind in KINDS},
        "titles_within_filters": [
            facts | each_mode("titles", Page(where=where), facts["filter"])
            for share in _SHARES
            for where, facts in filters_near(generation, share)
        ],
        "titles_with_facets": each_mode("titles", Page(facet_values=10), "facets"),
        "seed": seed,
        **index_facts(generation),
    }


# What is asked


def title_without_a_word(paper: Paper, chance: random.Random) -> str | None:
    """Return the title as it is remembered."""
    return TESTS["partial_title"].ask(paper, chance)


def natural_question(paper: Paper, chance: random.Random) -> str | None:
    """Return a question as people type it, about words that stand together in title and abstract."""
    subject, aim = (_together(text, chance) for text in (paper.title, paper.abstract))
    return chance.choice(_QUESTIONS).format(subject, aim) if subject and aim else None


_QUESTIONS = (
    "how does {} help with {}?",
    "what is known about {} and {}?",
    "which papers use {} for {}?",
    "is {} better than {}?",
    "why is {} so hard when there is {}?",
)
_WORD = re.compile(r"[^\W\d_]{3,}")


def _together(text: str, chance: random.Random) -> str:
    """Return two words that follow each other in the text, or one if it has no more."""
    words = _WORD.findall(text.lower())
    start = chance.randrange(max(1, len(words) - 1))
    return " ".join(words[start : start + 2])


def whole_abstract(paper: Paper, chance: random.Random) -> str | None:
    """Return the abstract, if it is not too long to be asked."""
    return paper.abstract if len(paper.abstract) <= MAX_QUERY_CHARACTERS else None


KINDS: dict[str, Query] = {
    "titles": title_without_a_word,
    "questions": natural_question,
    "abstracts": whole_abstract,
}


class Questions:
    """Queries about the papers of an index, drawn by a seed: no paper gives two, and none is given twice."""

    def __init__(self, searcher: Searcher, seed: int) -> None:
        """Begin with all papers."""
        self._papers = _drawn(searcher, seed)
        self._given: set[str] = set()

    def take(self, make: Query, count: int) -> list[str]:
        """Return so many queries.

        :raises ValueError: if the papers do not give as many.
        """
        taken: list[str] = []
        while len(taken) < count:
            paper = next(self._papers, None)
            if paper is None:
                raise ValueError(f"the index has too few papers to ask each for one thing; take under {count} queries")
            text = make(paper, random.Random(paper.paper_id))
            if text and text not in self._given:
                taken.append(text)
                self._given.add(text)
        return taken


def _drawn(searcher: Searcher, seed: int) -> Iterator[Paper]:
    seqs = np.random.default_rng(seed).permutation(searcher.generation.live_seqs())
    for start in range(0, len(seqs), _PAPERS_PER_READ):
        batch = seqs[start : start + _PAPERS_PER_READ].tolist()
        versions = searcher.library.versions_at(batch)
        yield from (versions[seq].paper for seq in batch if seq in versions)  # else purged since


def filters_near(generation: Generation, share: float) -> Iterator[tuple[Filter, dict[str, Any]]]:
    """Yield the filter on one year, category, venue or source that leaves about this share of the papers, if any do."""
    values = [
        (field, value.value, value.count)
        for field, facet in generation.facets(generation.live, generation.papers).items()
        for value in facet.values
    ]
    if values:
        field, value, papers = min(values, key=lambda each: abs(math.log(each[2] / (share * generation.papers))))
        facts = {"filter": f"{field}={value}", "papers": papers, "share": round(papers / generation.papers, 6)}
        yield parse_filter([(field, escape_label(value))]), facts


# What it costs


class Clock:
    """Tells the seconds that each part took, without the parts that ran inside it; for one thread."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        """Begin with nothing."""
        self._now = now
        self._inside = [0.0]
        self.spent: defaultdict[str, float] = defaultdict(float)

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function; what it takes counts for the part."""

        def call(*arguments: Any, **named: Any) -> Any:
            self._inside.append(0.0)
            started = self._now()
            try:
                return function(*arguments, **named)
            finally:
                took = self._now() - started
                self.spent[part] += took - self._inside.pop()
                self._inside[-1] += took

        return call


@contextmanager
def parts_timed(searcher: Searcher, clock: Clock) -> Iterator[None]:
    """Let the clock time the functions that a search consists of."""
    parts: dict[str, Iterable[tuple[Any, Sequence[str]]]] = {
        "encoding": [(searcher.encoder, ("encode_queries", "tokenise", "encode_passages"))],
        "filter": [(Searcher, ("_allowed",))],
        "scan": [(Generation, ("nearest_to",))],
        "words": [(LexicalIndex, ("search", "most"))],
        "joining and feedback": [(Ranker, ("ranked",))],
        "ids of ties": [(Generation, ("ids_at",))],
        "folding": [(Works, ("best_of_each", "versions_of", "count", "several"))],
        "papers": [(Library, ("versions_at",))],
        "titles": [(Generation, ("titled", "title_words_at")), (LexicalIndex, ("in_titles",))],
        "weak": [(search, ("is_weak",))],
        "evidence": [(search, ("explain",)), (Searcher, ("_terms_of",))],
        "facets": [(Generation, ("facets",))],
    }
    with ExitStack() as patches:
        for part, places in parts.items():
            for owner, names in places:
                for name in names:
                    patches.enter_context(patch.object(owner, name, clock.timed(part, getattr(owner, name))))
        yield


def timed(searcher: Searcher, asked: Sequence[str], page: Page, mode: Mode, name: str) -> dict[str, Any]:
    """Return what `figures` does of these queries, and the mean of the processor's time, all cores together."""
    clock, on_asked = Clock(), counting(f"{name}, {mode}")
    spent: list[dict[str, float]] = []
    with parts_timed(searcher, clock):
        ask, busy = clock.timed(_OTHER, searcher.search), 0.0
        for query in asked:
            clock.spent.clear()
            before = time.process_time()
            ask(query, page, mode)
            busy += time.process_time() - before
            spent.append(dict(clock.spent))
            on_asked(len(spent), len(asked))
    return figures(spent) | {"processor": _milliseconds(busy / len(asked))}


def figures(spent: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return the percentiles of the sums, and mean and 95th percentile of each part, in milliseconds.

    :param spent: the seconds of each part that a query had, by query.
    """
    wholes = [sum(each.values()) for each in spent]
    names = {part for each in spent for part in each}
    parts = {part: [each.get(part, 0.0) for each in spent] for part in names}
    means = {part: float(np.mean(values)) for part, values in parts.items()}
    return {
        **{f"p{at}": _milliseconds(np.percentile(wholes, at)) for at in (50, 95, 99)},
        "mean": _milliseconds(np.mean(wholes)),
        "parts": {
            part: {"mean": _milliseconds(means[part]), "p95": _milliseconds(np.percentile(parts[part], 95))}
            for part in sorted(means, key=lambda part: (part == _OTHER, -means[part]))
        },
    }


def _milliseconds(seconds: float | np.floating[Any]) -> float:
    return round(1_000 * float(seconds), 3)


if __name__ == "__main__":
    main()
