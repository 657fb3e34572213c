#!/usr/bin/env python3
"""Measure what each part of hybrid ranking adds, over judged sets in BEIR's folder format.

    scripts/ablation.py SCIFACT:train NFCORPUS:dev --vectors FOLDER

Every row of the table is one ranking; `against_recipe` is its mean difference in nDCG@10 from the recipe, with a paired
bootstrap's 95 % interval and the p of a paired sign-flip permutation test. Defaults were chosen on these two splits.

The candidates of a query are the 1,000 best papers of each leg. Cosines are exact for all of them; a paper outside the
lexical leg's 1,000 has no BM25 and counts as 0.

Another table asks with papers instead of words, as related papers do. Papers that are relevant to one question are
liked; whoever likes them should find the others that are. A question that several papers are drawn from counts once, by
the mean of their figures. `against_dense` compares with the cosines alone.
"""

import argparse
import csv
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import tantivy
from ir_measures import RR, R, nDCG
from measuring import corpus, keep
from numpy.typing import NDArray
from tantivy import Filter, Occur, Query

from semsearch.encoders import Encoder, LazyEncoder, ModelFolder
from semsearch.papers import normalise_text

WINDOW = 1_000
DEPTH = 100
MEASURES = (nDCG @ 10, R @ 100, RR @ 10)
TITLE_BOOST = 0.2
DENSE_WEIGHT = 0.5
FEEDBACK_PAPERS, FEEDBACK_SHARPNESS, FEEDBACK_WEIGHT = 10, 30.0, 0.5

PAPER_TERMS = 32
LIKED = (1, 2, 5)
PAPERS_OF_A_QUESTION = 3
FEWEST_QUESTIONS = 20

_BM25_K1 = 1.2  # tantivy's; k1 + 1 is the most that one term can reach, as a multiple of its idf
_RESAMPLES = 10_000

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Boosts = Mapping[str, float]


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


def document_vectors(judged: JudgedSet, encoder: Encoder, cache: Path) -> NDArray[np.float32]:
    """Return the papers' vectors, shape (papers, dimension), from the cache if it holds those of this corpus."""
    digest = corpus(judged.files[0])["sha256"]
    path = cache / f"{judged.name}-{digest[:12]}-{encoder.spec.fingerprint[:12]}.npy"
    if path.exists():
        cached: NDArray[np.float32] = np.load(path)
        return cached
    texts = encoder.tokenise([document.text for document in judged.documents])
    vectors = np.empty((len(texts), encoder.spec.dimension), dtype=np.float32)
    order = np.argsort([len(text.ids) for text in texts], kind="stable")
    size = max(1, encoder.batch_tokens // encoder.spec.max_tokens)
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        vectors[batch] = encoder.encode_passages([texts[row] for row in batch])
    cache.mkdir(parents=True, exist_ok=True)
    np.save(path, vectors)
    return vectors


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

    def terms(self, field: str, query: str) -> list[str]:
        """Return the query's distinct terms as this field holds them."""
        return sorted(set((self._plain if field == "unstemmed" else self._stemmed).analyze(query)))

    def without_stop_words(self, query: str) -> str:
        """Return the query without its stop words, or the query if nothing else is in it."""
        return " ".join(self._without_stop_words.analyze(query)) or query

    def search(self, query: str, boosts: Boosts) -> tuple[Rows, Floats]:
        """Return (rows, scores) of the best papers: the boosted sum over fields of the terms' BM25."""
        clauses = [
            (Occur.Should, Query.boost_query(Query.term_query(self.schema, field, term, index_option="freq"), boost))
            for field, boost in boosts.items()
            for term in self.terms(field, query)
        ]
        return self._hits(clauses)

    def ideal(self, query: str) -> float:
        """Return the BM25 of a paper whose text is full of every term of the query; one that no paper has counts too.

        It is (k1 + 1) times the sum of idf.
        """
        return (_BM25_K1 + 1) * sum(map(self._idf, self.terms("text", query)))

    def heaviest(self, text: str, most: int | None) -> dict[str, int]:
        """Return how often a paper's text holds those of its terms that weigh most by tf * idf; all for None."""
        times = Counter(self._stemmed.analyze(text))
        ordered = sorted(times, key=lambda term: (-times[term] * self._idf(term), term))
        return {term: times[term] for term in ordered[:most]}

    def search_like(self, terms: Mapping[str, int]) -> tuple[Rows, Floats]:
        """Return (rows, scores) of the papers most like a text of these terms, each of which counts as often."""
        clauses = [
            (Occur.Should, Query.boost_query(Query.term_query(self.schema, field, term), boost * times))
            for field, boost in TEXT_AND_TITLE.items()
            for term, times in terms.items()
        ]
        return self._hits(clauses)

    def ideal_like(self, terms: Mapping[str, int]) -> float:
        """Return `ideal` for terms that count as often as they are said."""
        return (_BM25_K1 + 1) * sum(times * self._idf(term) for term, times in terms.items())

    def _hits(self, clauses: Sequence[tuple[Occur, Query]]) -> tuple[Rows, Floats]:
        hits = self._searcher.search(Query.boolean_query(clauses), WINDOW, count=False).hits
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


# Fusion


@dataclass(frozen=True, slots=True)
class Candidates:
    """What both legs know of a query's candidates, one entry a paper; a rank is infinite outside the leg's window."""

    rows: Rows
    vectors: NDArray[np.float32]
    query: NDArray[np.float32]
    cosine: Floats
    bm25: Floats
    dense_rank: Floats
    lexical_rank: Floats
    ideal: float

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
    return Candidates(rows, vectors[rows], vector, cosines[rows], bm25, dense_rank, lexical_rank, ideal)


Fusion = Callable[[Candidates], Floats]


def dense_only(found: Candidates) -> Floats:
    """Return the cosines of the dense leg's window."""
    return np.where(np.isfinite(found.dense_rank), found.cosine, -np.inf)


def lexical_only(found: Candidates) -> Floats:
    """Return the BM25 of the lexical leg's window."""
    return np.where(np.isfinite(found.lexical_rank), found.bm25, -np.inf)


def reciprocal_rank(found: Candidates, k: int = 60) -> Floats:
    """Return the sum of 1 / (k + rank) (Cormack, Clarke and Büttcher, 2009)."""
    return 1 / (k + found.dense_rank) + 1 / (k + found.lexical_rank)


def min_max(found: Candidates) -> Floats:
    """Return the sum of both legs' scores, each scaled from its window's least to its greatest; missing is 0."""
    return _scaled(found.cosine, np.isfinite(found.dense_rank)) + _scaled(found.bm25, np.isfinite(found.lexical_rank))


def _scaled(scores: Floats, inside: NDArray[np.bool_]) -> Floats:
    if not inside.any():
        return np.zeros_like(scores)
    least, greatest = scores[inside].min(), scores[inside].max()
    scaled: Floats = np.where(inside, (scores - least) / max(float(greatest - least), 1e-9), 0.0)
    return scaled


def by_maximum(found: Candidates) -> Floats:
    """Return the sum of both legs' scores, each divided by its greatest."""
    return found.cosine / max(float(found.cosine.max()), 1e-9) + found.bm25 / max(float(found.bm25.max()), 1e-9)


def weighted_share(weight: float) -> Fusion:
    """Return the fusion weight * cosine + (1 - weight) * share."""
    return lambda found: weight * found.cosine + (1 - weight) * found.share


def with_feedback(found: Candidates) -> Floats:
    """Return the recipe's score for a query moved towards its best papers (Rocchio, 1971), over the same candidates.

    The papers weigh as the softmax of their scores, so that a clear winner counts for more than its followers.
    """
    scores = weighted_share(DENSE_WEIGHT)(found)
    best = np.argsort(-scores, kind="stable")[:FEEDBACK_PAPERS]
    weights = np.exp(FEEDBACK_SHARPNESS * (scores[best] - scores[best[0]]))
    moved = found.query + FEEDBACK_WEIGHT * (weights / weights.sum()) @ found.vectors[best]
    cosine = found.vectors @ (moved / np.linalg.norm(moved))
    moved_scores: Floats = DENSE_WEIGHT * cosine + (1 - DENSE_WEIGHT) * found.share
    return moved_scores


# The table

RECIPE = "recipe: cosine and share, half each"
TEXT_AND_TITLE: Boosts = {"text": 1.0, "title": TITLE_BOOST}


@dataclass(frozen=True, slots=True)
class Ranking:
    """One row of the table: which fields are searched for words, and how the legs become one score."""

    name: str
    fusion: Fusion
    boosts: Boosts
    drops_stop_words: bool = False


def rankings() -> list[Ranking]:
    """Return the rows of the table."""
    fields: dict[str, Boosts] = {
        "title and abstract apart": {"title": 1.0, "abstract": 1.0},
        "one text, not stemmed": {"unstemmed": 1.0},
        "one text": {"text": 1.0},
        **{f"one text, title {boost}": {"text": 1.0, "title": boost} for boost in (0.1, TITLE_BOOST, 0.5, 1.0)},
    }
    fusions: dict[str, Fusion] = {
        "reciprocal rank fusion, k=60": reciprocal_rank,
        "min-max over the window": min_max,
        "divided by the maximum": by_maximum,
        **{f"cosine {weight}, share {1 - weight:.1f}": weighted_share(weight) for weight in (0.3, 0.4, 0.6, 0.7)},
        RECIPE: weighted_share(DENSE_WEIGHT),
        "recipe with feedback": with_feedback,
    }
    half = weighted_share(DENSE_WEIGHT)
    return [
        Ranking("dense", dense_only, TEXT_AND_TITLE),
        *(Ranking(f"lexical: {name}", lexical_only, boosts) for name, boosts in fields.items()),
        Ranking("lexical: query without stop words", lexical_only, TEXT_AND_TITLE, drops_stop_words=True),
        *(Ranking(name, fusion, TEXT_AND_TITLE) for name, fusion in fusions.items()),
        Ranking("recipe, title 0", half, {"text": 1.0}),
        Ranking("recipe, title 0.5", half, {"text": 1.0, "title": 0.5}),
        Ranking("recipe, query without stop words", half, TEXT_AND_TITLE, drops_stop_words=True),
    ]


def measured(judged: JudgedSet, encoder: Encoder, cache: Path) -> dict[str, Any]:
    """Return the table of one judged set."""
    vectors = document_vectors(judged, encoder, cache)
    asked = encoder.encode_queries(list(judged.queries.values()))
    leg = LexicalLeg(judged.documents)
    figures = {
        ranking.name: _figures(judged, list(_run(ranking, judged, asked, vectors, leg))) for ranking in rankings()
    }
    recipe = figures[RECIPE][str(MEASURES[0])]
    table = {
        name: {measure: round(float(values.mean()), 4) for measure, values in found.items()}
        | {"against_recipe": compared(found[str(MEASURES[0])], recipe)}
        for name, found in figures.items()
    }
    return {
        "papers": len(judged.documents),
        "queries": len(judged.queries),
        "rankings": table,
        "papers_as_queries": {
            f"{count} liked": _as_queries(judged, vectors, leg, count)
            for count in LIKED
            if len(dict(liked_papers(judged, count))) >= FEWEST_QUESTIONS
        },
    }


def _run(
    ranking: Ranking, judged: JudgedSet, asked: NDArray[np.float32], vectors: NDArray[np.float32], leg: LexicalLeg
) -> list[ir_measures.ScoredDoc]:
    run: list[ir_measures.ScoredDoc] = []
    for (query_id, text), vector in zip(judged.queries.items(), asked, strict=True):
        words = leg.without_stop_words(text) if ranking.drops_stop_words else text
        found = candidates(vector, vectors, leg.search(words, ranking.boosts), leg.ideal(words))
        run += _best(judged, query_id, found, ranking.fusion)
    return run


def _best(judged: JudgedSet, query_id: str, found: Candidates, fusion: Fusion) -> Iterator[ir_measures.ScoredDoc]:
    scores = fusion(found)
    best = np.argsort(-scores, kind="stable")[:DEPTH]
    for at in best[np.isfinite(scores[best])]:
        yield ir_measures.ScoredDoc(query_id, judged.documents[found.rows[at]].document_id, float(scores[at]))


def _figures(judged: JudgedSet, run: list[ir_measures.ScoredDoc]) -> dict[str, Floats]:
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


# Papers as queries


@dataclass(frozen=True, slots=True)
class PaperRanking:
    """One row of this table: how many of the papers' terms are searched, and of how many a share is told."""

    name: str
    fusion: Fusion
    terms: int | None = PAPER_TERMS
    share_of: int | None = PAPER_TERMS


def paper_rankings() -> list[PaperRanking]:
    """Return the rows of the table; related papers are ranked by the last one."""
    half = weighted_share(DENSE_WEIGHT)
    return [
        PaperRanking("dense", dense_only),
        PaperRanking("lexical", lexical_only),
        PaperRanking("lexical, all terms", lexical_only, None, None),
        PaperRanking("reciprocal rank fusion, k=60", reciprocal_rank),
        *(PaperRanking(f"recipe, {terms or 'all'} terms", half, terms, terms) for terms in (16, 64, None)),
        PaperRanking("recipe, share of all terms", half, PAPER_TERMS, None),
        *(PaperRanking(f"cosine {weight}, share {1 - weight:.1f}", weighted_share(weight)) for weight in (0.4, 0.6)),
        PaperRanking("recipe", half),
        PaperRanking("recipe with feedback", with_feedback),
    ]


def liked_papers(judged: JudgedSet, count: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield questions with papers relevant to them, so many at a time; each question has more than those."""
    relevant: defaultdict[str, list[str]] = defaultdict(list)
    for qrel in sorted(judged.qrels):
        if qrel.relevance > 0:
            relevant[qrel.query_id].append(qrel.doc_id)
    for query_id, papers in relevant.items():
        for start in range(0, min(len(papers) - count + 1, PAPERS_OF_A_QUESTION), count):
            if len(papers) > count:
                yield query_id, tuple(papers[start : start + count])


def _as_queries(judged: JudgedSet, vectors: NDArray[np.float32], leg: LexicalLeg, count: int) -> dict[str, Any]:
    """Return the table for so many liked papers at a time."""
    asked = {f"{query_id} {' '.join(papers)}": (query_id, papers) for query_id, papers in liked_papers(judged, count)}
    qrels = [
        ir_measures.Qrel(name, qrel.doc_id, qrel.relevance)
        for name, (query_id, papers) in asked.items()
        for qrel in judged.qrels
        if qrel.query_id == query_id and qrel.doc_id not in papers
    ]
    place = {document.document_id: row for row, document in enumerate(judged.documents)}
    runs: defaultdict[str, list[ir_measures.ScoredDoc]] = defaultdict(list)
    for name, (_, papers) in asked.items():
        for ranking, found in _found_by(judged, vectors, leg, [place[paper] for paper in papers]):
            runs[ranking.name] += _best(judged, name, found, ranking.fusion)
    figures = {name: _by_question(asked, qrels, run) for name, run in runs.items()}
    table = {
        name: {str(MEASURES[0]): round(float(values.mean()), 4), "against_dense": compared(values, figures["dense"])}
        for name, values in figures.items()
    }
    return {"questions": len(next(iter(figures.values()))), "papers_asked_with": len(asked), "rankings": table}


def _found_by(
    judged: JudgedSet, vectors: NDArray[np.float32], leg: LexicalLeg, rows: list[int]
) -> Iterator[tuple[PaperRanking, Candidates]]:
    """Yield each ranking with the candidates that the papers of these rows find."""
    text = " ".join(judged.documents[row].text for row in rows)
    mean = vectors[rows].mean(axis=0)
    towards = mean / np.linalg.norm(mean)
    terms = {
        most: leg.heaviest(text, most) for ranking in paper_rankings() for most in (ranking.terms, ranking.share_of)
    }
    hits = {most: leg.search_like(terms[most]) for most in {ranking.terms for ranking in paper_rankings()}}
    for ranking in paper_rankings():
        ideal = leg.ideal_like(terms[ranking.share_of])
        yield ranking, candidates(towards, vectors, hits[ranking.terms], ideal, rows)


def _by_question(
    asked: Mapping[str, tuple[str, tuple[str, ...]]], qrels: list[ir_measures.Qrel], run: list[ir_measures.ScoredDoc]
) -> Floats:
    """Return the first measure's figure for each question: the mean over what was asked for it."""
    figures: defaultdict[str, list[float]] = defaultdict(list)
    for metric in ir_measures.iter_calc([MEASURES[0]], qrels, run):
        figures[asked[metric.query_id][0]].append(metric.value)
    return np.array([np.mean(figures[query_id]) for query_id in dict.fromkeys(name for name, _ in asked.values())])


def main() -> None:
    """Measure every ranking on every set and keep the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("sets", nargs="+", metavar="FOLDER:SPLIT")
    arguments.add_argument("--vectors", type=Path, required=True, help="the papers' vectors are kept here")
    options = arguments.parse_args()
    encoder = LazyEncoder(ModelFolder.find())
    sets = [JudgedSet.read(Path(folder), split) for folder, _, split in (name.rpartition(":") for name in options.sets)]
    tables = {judged.name: measured(judged, encoder, options.vectors) for judged in sets}
    keep(
        "ablation",
        {
            "window": WINDOW,
            "title_boost": TITLE_BOOST,
            "dense_weight": DENSE_WEIGHT,
            "feedback": {
                "papers": FEEDBACK_PAPERS,
                "sharpness": FEEDBACK_SHARPNESS,
                "weight": FEEDBACK_WEIGHT,
            },
            "sets": tables,
        },
        [file for judged in sets for file in judged.files],
    )


if __name__ == "__main__":
    main()
