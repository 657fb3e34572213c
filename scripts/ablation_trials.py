"""What was tried beyond the recipe with feedback, which is what semsearch does, one judged set at a time.

Long papers: vectors of more than the first 256 tokens. Kinds of query: another weight of the two legs for short
queries and for longer ones. Words: pseudo-relevance feedback by words (RM3), and pairs of words that stand together.
Neighbours: scores smoothed over the graph of the corpus. Calibration: scores standardised by what they are among, and
a logistic model of both, learnt on the other sets.

`against_product` compares each with the recipe with feedback. The parameters shown are those that were tried; none was
chosen for the row.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from judged_legs import (
    MEASURES,
    TEXT_AND_TITLE,
    Candidates,
    Floats,
    Fusion,
    JudgedSet,
    LexicalLeg,
    Rows,
    best_of,
    candidates,
    compared,
    figures_of,
)
from long_texts import vectors_by_way
from numpy.typing import NDArray
from rankings import DENSE_WEIGHT, FEEDBACK_SHARPNESS, dense_only, lexical_only, moved, weighted_share, with_feedback

from semsearch.encoders import Encoder, ModelFolder

PRODUCT = "recipe with feedback"
SHORT_QUERY = 3
"""A query of no more distinct words than this counts as short."""
WEIGHTS = (0.3, 0.4, 0.5, 0.6, 0.7)
_FOLDS = 5
_EXPANSION_PAPERS = 10
_LEARNT_FROM = 100  # best candidates of a query

Figures = dict[str, Floats]


@dataclass(frozen=True)
class Trials:
    """One judged set with what all trials share: vectors, query vectors, words, and each query's candidates."""

    judged: JudgedSet
    vectors_by_way: Mapping[str, NDArray[np.float32]]
    asked: NDArray[np.float32]
    leg: LexicalLeg

    @classmethod
    def of(cls, judged: JudgedSet, model: ModelFolder, encoder: Encoder, cache: Path) -> "Trials":
        """Return the trials of a set; what is encoded for them is kept in the cache."""
        ways = vectors_by_way(judged, model, encoder, cache)
        asked = encoder.encode_queries(list(judged.queries.values()))
        return cls(judged, ways, asked, LexicalLeg(judged.documents))

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The recipe's vectors."""
        return next(iter(self.vectors_by_way.values()))

    @cached_property
    def found(self) -> list[Candidates]:
        """The recipe's candidates of each query."""
        return self.found_in(self.vectors)

    def found_in(self, vectors: NDArray[np.float32], search: "Search | None" = None) -> list[Candidates]:
        """Return the candidates of each query, by these vectors and this search for words."""
        ask = search or _plainly
        return [
            candidates(vector, vectors, *ask(self.leg, place, text))
            for place, (vector, text) in enumerate(zip(self.asked, self.judged.queries.values(), strict=True))
        ]

    @cached_property
    def product(self) -> Figures:
        """The figures of what semsearch does."""
        return self.figures(self.found, with_feedback)

    @cached_property
    def is_short(self) -> NDArray[np.bool_]:
        """Which queries are short."""
        return np.array([len(self.leg.terms(text)) <= SHORT_QUERY for text in self.judged.queries.values()])

    def figures(self, found: Sequence[Candidates], fusion: Fusion) -> Figures:
        """Return each measure's figure for every query."""
        ranked = zip(self.judged.queries, found, strict=True)
        return figures_of(
            self.judged, [hit for query_id, each in ranked for hit in best_of(self.judged, query_id, each, fusion)]
        )

    def row(self, figures: Figures, which: NDArray[np.bool_] | slice = slice(None)) -> dict[str, Any]:
        """Return a row of the table, over all queries or some."""
        means = {measure: round(float(values[which].mean()), 4) for measure, values in figures.items()}
        gain = str(MEASURES[0])
        return means | {"against_product": compared(figures[gain][which], self.product[gain][which])}


Search = Callable[[LexicalLeg, int, str], tuple[tuple[Rows, Floats], float]]
"""Returns rows and BM25 for the query at this place, and what a paper could score at most."""


def _plainly(leg: LexicalLeg, place: int, text: str) -> tuple[tuple[Rows, Floats], float]:
    return leg.search(text, TEXT_AND_TITLE), leg.ideal(leg.terms(text))


def beyond(trials: Trials, others: Sequence[Trials]) -> dict[str, Any]:
    """Return the table of a set.

    :param others: the sets that what has to be learnt may be learnt from.
    """
    return {
        PRODUCT: trials.row(trials.product),
        "long_papers": _long_papers(trials),
        "kinds_of_query": _kinds_of_query(trials),
        "words": _words(trials),
        "feedback": _feedback(trials),
        "neighbours": _neighbours(trials),
        "calibration": _calibration(trials, others),
    }


# Long papers


def _long_papers(trials: Trials) -> dict[str, Any]:
    rows = {}
    for way, vectors in trials.vectors_by_way.items():
        found = trials.found_in(vectors)
        rows[f"dense, {way}"] = trials.row(trials.figures(found, dense_only))
        rows[f"{PRODUCT}, {way}"] = trials.row(trials.figures(found, with_feedback))
    long = np.any(trials.vectors != trials.vectors_by_way[list(trials.vectors_by_way)[-1]], axis=1)
    return {"papers_cut": int(long.sum()), "rankings": rows}


# Kinds of query


def _kinds_of_query(trials: Trials) -> dict[str, Any]:
    by_weight = {weight: trials.figures(trials.found, partial(with_feedback, weight=weight)) for weight in WEIGHTS}
    kinds = {f"up to {SHORT_QUERY} words": trials.is_short, "longer": ~trials.is_short}
    table: dict[str, Any] = {
        kind: {"queries": int(which.sum())}
        | {f"cosine {weight}": trials.row(figures, which) for weight, figures in by_weight.items()}
        for kind, which in kinds.items()
        if which.sum() > _FOLDS
    }
    chosen = _cross_fitted([by_weight[weight] for weight in WEIGHTS], list(kinds.values()))
    return table | {"each kind's best weight, chosen on the other four fifths of the queries": trials.row(chosen)}


def _cross_fitted(choices: Sequence[Figures], kinds: Sequence[NDArray[np.bool_]]) -> Figures:
    """Return, for the queries of each kind and fifth, the figures of the choice best for that kind's other fifths."""
    gains = np.stack([figures[str(MEASURES[0])] for figures in choices])
    fold = np.random.default_rng(0).permutation(gains.shape[1]) % _FOLDS
    chosen = {measure: np.zeros_like(values) for measure, values in choices[0].items()}
    for kind in kinds:
        for number in range(_FOLDS):
            here, elsewhere = kind & (fold == number), kind & (fold != number)
            if here.any() and elsewhere.any():
                best = choices[int(gains[:, elsewhere].mean(axis=1).argmax())]
                for measure, values in best.items():
                    chosen[measure][here] = values[here]
    return chosen


# Words


def _words(trials: Trials) -> dict[str, Any]:
    rows = {"lexical": trials.row(trials.figures(trials.found, lexical_only))}
    for terms, weight in ((10, 0.2), (10, 0.5), (30, 0.2), (30, 0.5)):
        found = trials.found_in(trials.vectors, _expanded(trials, terms, weight))
        name = f"RM3, {terms} words of {_EXPANSION_PAPERS} papers for {weight}"
        rows[f"lexical, {name}"] = trials.row(trials.figures(found, lexical_only))
        rows[f"recipe, {name}"] = trials.row(trials.figures(found, weighted_share(DENSE_WEIGHT)))
        rows[f"{PRODUCT}, {name}"] = trials.row(trials.figures(found, with_feedback))
    for boost in (0.1, 0.2, 0.4):
        found = trials.found_in(trials.vectors, partial(_in_pairs, boost=boost))
        rows[f"lexical, pairs of words {boost}"] = trials.row(trials.figures(found, lexical_only))
        rows[f"{PRODUCT}, pairs of words {boost}"] = trials.row(trials.figures(found, with_feedback))
    return rows


def _in_pairs(leg: LexicalLeg, place: int, text: str, boost: float) -> tuple[tuple[Rows, Floats], float]:
    return leg.search_pairs(text, boost), leg.ideal(leg.terms(text))


def _expanded(trials: Trials, most: int, weight: float) -> Search:
    """Return the search for the query's words and those of its best papers (RM3: Abdul-Jaleel and others, 2004)."""

    def search(leg: LexicalLeg, place: int, text: str) -> tuple[tuple[Rows, Floats], float]:
        terms = leg.terms(text)
        model = Counter({term: (1 - weight) * times / sum(terms.values()) for term, times in terms.items()})
        told = _relevance_model(trials, trials.found[place])
        best = leg.heaviest(told, most)
        model.update({term: weight * share / sum(best.values()) for term, share in best.items()})
        scaled = {term: share * sum(terms.values()) for term, share in model.items()}
        return leg.search_terms(scaled), leg.ideal(scaled)

    return search


def _relevance_model(trials: Trials, found: Candidates) -> dict[str, float]:
    """Return how likely each word is in the recipe's best papers, each weighted by the softmax of its score."""
    scores = weighted_share(DENSE_WEIGHT)(found)
    best = np.argsort(-scores, kind="stable")[:_EXPANSION_PAPERS]
    weights = np.exp(FEEDBACK_SHARPNESS * (scores[best] - scores[best[0]]))
    model: Counter[str] = Counter()
    for row, weight in zip(found.rows[best].tolist(), (weights / weights.sum()).tolist(), strict=True):
        terms = trials.leg.terms(trials.judged.documents[row].text)
        length = sum(terms.values())
        model.update({term: weight * times / length for term, times in terms.items()})
    return dict(model)


# Feedback


def _feedback(trials: Trials) -> dict[str, Any]:
    """Return what more feedback does: a second round, and candidates found anew by the query that was moved."""
    again = []
    for each, text in zip(trials.found, trials.judged.queries.values(), strict=True):
        towards = moved(each, weighted_share(DENSE_WEIGHT)(each)).astype(np.float32)
        again.append(candidates(towards, trials.vectors, *_plainly(trials.leg, 0, text)))
    return {
        "none": trials.row(trials.figures(trials.found, weighted_share(DENSE_WEIGHT))),
        "two rounds": trials.row(trials.figures(trials.found, partial(with_feedback, rounds=2))),
        "papers found anew": trials.row(trials.figures(again, weighted_share(DENSE_WEIGHT))),
    }


# Neighbours


def _neighbours(trials: Trials) -> dict[str, Any]:
    """Return what it does to add to a paper's score a share of those of its nearest papers."""
    cosines = trials.vectors @ trials.vectors.T
    np.fill_diagonal(cosines, -np.inf)
    graph = np.argsort(-cosines, axis=1, kind="stable")[:, :20]
    return {
        f"{base}, {count} neighbours for {share}": trials.row(
            trials.figures(trials.found, _smoothed(graph[:, :count], share, fusion))
        )
        for base, fusion in (("recipe", weighted_share(DENSE_WEIGHT)), (PRODUCT, with_feedback))
        for count, share in ((5, 0.1), (5, 0.3), (20, 0.1), (20, 0.3))
    }


def _smoothed(graph: NDArray[np.int64], share: float, fusion: Fusion) -> Fusion:
    """Return the fusion with that share of a score taken from the mean of its neighbours' that are candidates too."""

    def scores(found: Candidates) -> Floats:
        own = fusion(found)
        known = np.full(len(graph), np.nan)
        known[found.rows] = own
        near = known[graph[found.rows]]
        held = np.isfinite(near).sum(axis=1)
        means = np.where(held > 0, np.nansum(near, axis=1) / np.maximum(held, 1), own)
        return (1 - share) * own + share * means

    return scores


# Calibration


def _calibration(trials: Trials, others: Sequence[Trials]) -> dict[str, Any]:
    rows = {
        "sum of both legs' standardised scores": trials.row(trials.figures(trials.found, _standardised)),
        "cosine as it is, share of the best paper's": trials.row(trials.figures(trials.found, _share_of_best)),
    }
    if others:
        weights = _learnt(others)
        rows["logistic model of both legs, learnt on the other sets"] = trials.row(
            trials.figures(trials.found, lambda found: _features(found) @ weights)
        )
    return rows


def _standardised(found: Candidates) -> Floats:
    """Return the sum of both scores, each in standard deviations from the mean of its window; missing is its least."""
    legs = ((found.cosine, found.dense_rank), (found.bm25, found.lexical_rank))
    dense, lexical = (_in_deviations(scores, np.isfinite(ranks)) for scores, ranks in legs)
    return dense + lexical


def _in_deviations(scores: Floats, inside: NDArray[np.bool_]) -> Floats:
    if not inside.any():
        return np.zeros_like(scores)
    standard: Floats = (scores - scores[inside].mean()) / max(float(scores[inside].std()), 1e-9)
    return np.where(inside, standard, standard[inside].min())


def _share_of_best(found: Candidates) -> Floats:
    return found.cosine + found.share / max(float(found.share.max()), 1e-9) * float(found.cosine.max())


def _features(found: Candidates) -> NDArray[np.float64]:
    """Return what the model is told of each candidate, shape (n, 6)."""
    cosine = found.vectors @ moved(found, weighted_share(DENSE_WEIGHT)(found))
    behind = cosine - cosine.max()
    of_best = found.share / max(float(found.share.max()), 1e-9)
    return np.stack([cosine, found.share, cosine * found.share, behind, of_best, np.ones_like(cosine)], axis=1)


def _learnt(sets: Sequence[Trials]) -> NDArray[np.float64]:
    """Return the weights of a logistic model of relevance, fitted by Newton's method to the best of each query."""
    features, relevant = (np.concatenate(parts) for parts in zip(*map(_labelled, sets), strict=True))
    weights: Floats = np.zeros(features.shape[1])
    ridge = np.eye(features.shape[1])
    for _ in range(30):
        expected = 1 / (1 + np.exp(-features @ weights))
        slope = features.T @ (expected - relevant) + ridge @ weights
        curve = (features * (expected * (1 - expected))[:, None]).T @ features + ridge
        weights = weights - np.linalg.solve(curve, slope)
    return weights


def _labelled(trials: Trials) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the features of the best candidates of each query, and 1 for those that are relevant, 0 for others."""
    relevant = {(qrel.query_id, qrel.doc_id) for qrel in trials.judged.qrels if qrel.relevance > 0}
    features, labels = [], []
    for query_id, found in zip(trials.judged.queries, trials.found, strict=True):
        best = np.argsort(-with_feedback(found), kind="stable")[:_LEARNT_FROM]
        features.append(_features(found)[best])
        ids = [trials.judged.documents[row].document_id for row in found.rows[best].tolist()]
        labels.append(np.array([(query_id, paper_id) in relevant for paper_id in ids], dtype=np.float64))
    return np.concatenate(features), np.concatenate(labels)
