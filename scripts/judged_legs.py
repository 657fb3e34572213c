"""Judged sets, and what both legs of a search find in them: what every ranking that is tried begins with."""

import csv
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import tantivy
from ir_measures import RR, R, nDCG
from numpy.typing import NDArray
from tantivy import Filter, Occur, Query

from semsearch.papers import normalise_text

WINDOW = 1_000
DEPTH = 100
MEASURES = (nDCG @ 10, R @ 100, RR @ 10)

_BM25_K1 = 1.2  # tantivy's; k1 + 1 is the most that one term can reach, as a multiple of its idf
_RESAMPLES = 10_000

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Boosts = Mapping[str, float]

TITLE_BOOST = 0.2
TEXT_AND_TITLE: Boosts = {"text": 1.0, "title": TITLE_BOOST}


# A judged set


@dataclass(frozen=True, slots=True)
class Document:
    """One paper's text, normalised."""

    document_id: str
    title: str
    abstract: str

    @property
    def text(self) -> str:
        """What is embedded and searched for words."""
        return f"{self.title} {self.abstract}".strip()


@dataclass(frozen=True, slots=True)
class JudgedSet:
    """Papers, and one split of the queries about them."""

    name: str
    documents: list[Document]
    queries: dict[str, str]
    qrels: list[ir_measures.Qrel]
    files: list[Path]

    @classmethod
    def read(cls, folder: Path, split: str) -> "JudgedSet":
        """Return the set in this folder with the queries that the split judges."""
        files = [folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / f"{split}.tsv"]
        documents = [
            Document(record["_id"], normalise_text(record["title"]), normalise_text(record["text"]))
            for record in _records(files[0])
        ]
        with files[2].open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t")
            qrels = [ir_measures.Qrel(row["query-id"], row["corpus-id"], int(row["score"])) for row in rows]
        judged = {qrel.query_id for qrel in qrels}
        queries = {
            record["_id"]: normalise_text(record["text"]) for record in _records(files[1]) if record["_id"] in judged
        }
        return cls(f"{folder.name}-{split}", documents, queries, qrels, files)


def _records(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


# The two legs
class LexicalLeg:
    """BM25 by tantivy over several fields; a paper's row is its place among the documents."""

    def __init__(self, documents: Sequence[Document]) -> None:
        """Index the documents in memory."""
        builder = tantivy.SchemaBuilder()
        for field in ("title", "abstract", "text"):
            builder.add_text_field(field, tokenizer_name="stemmed")
        builder.add_text_field("unstemmed", tokenizer_name="plain")
        self.schema = builder.build()
        self._plain = _analyzer()
        self._stemmed = _analyzer(Filter.stemmer("english"))
        self._without_stop_words = _analyzer(Filter.stopword("english"))
        index = tantivy.Index(self.schema)
        index.register_tokenizer("plain", self._plain)
        index.register_tokenizer("stemmed", self._stemmed)
        writer = index.writer(500_000_000, 1)
        for document in documents:
            writer.add_document(
                tantivy.Document(
                    title=document.title, abstract=document.abstract, text=document.text, unstemmed=document.text
                )
            )
        writer.commit()
        writer.wait_merging_threads()
        index.reload()
        self._searcher = index.searcher()
        if self._searcher.num_segments != 1:
            raise ValueError(f"{len(documents):,} papers made more than one segment, so rows are not places in it")

    def without_stop_words(self, query: str) -> str:
        """Return the query without its stop words, or the query if nothing else is in it."""
        return " ".join(self._without_stop_words.analyze(query)) or query

    def terms(self, text: str, field: str = "text") -> dict[str, float]:
        """Return how often the text says each of its terms, as this field holds them."""
        analyzer = self._plain if field == "unstemmed" else self._stemmed
        return dict(sorted(Counter(analyzer.analyze(text)).items()))

    def heaviest(self, terms: Mapping[str, float], most: int | None) -> dict[str, float]:
        """Return those terms of a text that weigh most by tf * idf; all for None."""
        ordered = sorted(terms, key=lambda term: (-terms[term] * self._idf(term), term))
        return {term: terms[term] for term in ordered[:most]}

    def search(self, query: str, boosts: Boosts) -> tuple[Rows, Floats]:
        """Return (rows, scores) of the best papers: the boosted sum over fields of the terms' BM25."""
        return self._hits(
            clause for field in boosts for clause in self._in_field(field, self.terms(query, field), boosts)
        )

    def search_terms(self, terms: Mapping[str, float]) -> tuple[Rows, Floats]:
        """Return what `search` does for weighted terms, in the recipe's fields."""
        return self._hits(clause for field in TEXT_AND_TITLE for clause in self._in_field(field, terms, TEXT_AND_TITLE))

    def search_pairs(self, query: str, boost: float) -> tuple[Rows, Floats]:
        """Return what `search` does, and so much of the BM25 of each two words of the query that stand together."""
        pairs = dict.fromkeys(pair for pair in pairwise(self._stemmed.analyze(query)))
        phrases = (Query.phrase_query(self.schema, "text", [*pair]) for pair in pairs)
        recipe = (
            clause for field in TEXT_AND_TITLE for clause in self._in_field(field, self.terms(query), TEXT_AND_TITLE)
        )
        return self._hits(chain(recipe, ((Occur.Should, Query.boost_query(phrase, boost)) for phrase in phrases)))

    def ideal(self, terms: Mapping[str, float]) -> float:
        """Return the BM25 of a paper whose text is full of every term; one that no paper has counts too.

        It is (k1 + 1) times the weighted sum of idf.
        """
        return (_BM25_K1 + 1) * sum(weight * self._idf(term) for term, weight in terms.items())

    def _in_field(self, field: str, terms: Mapping[str, float], boosts: Boosts) -> Iterator[tuple[Occur, Query]]:
        for term, weight in terms.items():
            query = Query.term_query(self.schema, field, term, index_option="freq")
            yield Occur.Should, Query.boost_query(query, boosts[field] * weight)

    def _hits(self, clauses: Iterable[tuple[Occur, Query]]) -> tuple[Rows, Floats]:
        hits = self._searcher.search(Query.boolean_query([*clauses]), WINDOW, count=False).hits
        return np.array([at.doc for _, at in hits], dtype=np.int64), np.array([score for score, _ in hits])

    def _idf(self, term: str) -> float:
        """Return ln(1 + (N - df + 0.5) / (df + 0.5))."""
        papers, holding = self._searcher.num_docs, self._searcher.doc_freq("text", term)
        return math.log(1 + (papers - holding + 0.5) / (holding + 0.5))


def _analyzer(*filters: Filter) -> tantivy.TextAnalyzer:
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple()).filter(Filter.lowercase())
    for one in filters:
        builder = builder.filter(one)
    return builder.build()


# What they find together


@dataclass(frozen=True, slots=True)
class Candidates:
    """What both legs know of a query's candidates, one entry a paper; a rank is infinite outside the leg's window."""

    rows: Rows
    all_vectors: NDArray[np.float32]
    query: NDArray[np.float32]
    cosine: Floats
    bm25: Floats
    dense_rank: Floats
    lexical_rank: Floats
    ideal: float

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The candidates' vectors, shape (n, dimension)."""
        return self.all_vectors[self.rows]

    @property
    def share(self) -> Floats:
        """Which part of the query's weight a paper holds, between 0 and 1 (a title in full can go beyond)."""
        return self.bm25 / self.ideal if self.ideal else np.zeros_like(self.bm25)


def candidates(
    vector: NDArray[np.float32],
    vectors: NDArray[np.float32],
    lexical: tuple[Rows, Floats],
    ideal: float,
    without: Collection[int] = (),
) -> Candidates:
    """Return the union of both legs' windows, without the papers of these rows."""
    cosines = (vectors @ vector).astype(np.float64)
    order, excluded = np.argsort(-cosines, kind="stable"), np.array(list(without), dtype=np.int64)
    dense = order[~np.isin(order, excluded)][:WINDOW]
    found, scores = (of[~np.isin(lexical[0], excluded)] for of in lexical)
    rows = np.union1d(dense, found)
    dense_rank, lexical_rank = np.full(len(rows), np.inf), np.full(len(rows), np.inf)
    bm25 = np.zeros(len(rows))
    dense_rank[np.searchsorted(rows, dense)] = np.arange(1, len(dense) + 1)
    lexical_rank[np.searchsorted(rows, found)] = np.arange(1, len(found) + 1)
    bm25[np.searchsorted(rows, found)] = scores
    return Candidates(rows, vectors, vector, cosines[rows], bm25, dense_rank, lexical_rank, ideal)


Fusion = Callable[[Candidates], Floats]
"""Returns a score for each candidate."""


# Figures


def best_of(judged: JudgedSet, query_id: str, found: Candidates, fusion: Fusion) -> Iterator[ir_measures.ScoredDoc]:
    """Yield the candidates of the highest scores that are finite, best first."""
    scores = fusion(found)
    best = np.argsort(-scores, kind="stable")[:DEPTH]
    for at in best[np.isfinite(scores[best])]:
        yield ir_measures.ScoredDoc(query_id, judged.documents[found.rows[at]].document_id, float(scores[at]))


def figures_of(judged: JudgedSet, run: list[ir_measures.ScoredDoc]) -> dict[str, Floats]:
    """Return each measure's figure for every query, in the order of the queries; without a result it is 0."""
    place = {query_id: at for at, query_id in enumerate(judged.queries)}
    figures = {str(measure): np.zeros(len(place)) for measure in MEASURES}
    for metric in ir_measures.iter_calc(list(MEASURES), judged.qrels, run):
        figures[str(metric.measure)][place[metric.query_id]] = metric.value
    return figures


def compared(figures: Floats, baseline: Floats) -> dict[str, Any]:
    """Return the mean difference per query, its 95 % bootstrap interval, and the p of a two-sided sign-flip test."""
    difference = figures - baseline
    random = np.random.default_rng(0)
    means = difference[random.integers(0, len(difference), (_RESAMPLES, len(difference)))].mean(axis=1)
    flipped = random.choice([-1.0, 1.0], (_RESAMPLES, len(difference))) @ difference / len(difference)
    as_far = np.abs(flipped) >= abs(difference.mean()) - 1e-12
    return {
        "difference": round(float(difference.mean()), 4),
        "interval": [round(float(bound), 4) for bound in np.percentile(means, [2.5, 97.5])],
        "p": round(float((as_far.sum() + 1) / (_RESAMPLES + 1)), 4),
    }
