#!/usr/bin/env python3
"""Measure what each part of hybrid ranking adds, and what else was tried, over judged sets in BEIR's folder format.

    scripts/ablation.py SCIFACT:train NFCORPUS:dev --vectors FOLDER

Every row of the table is one ranking; `against_recipe` is its mean difference in nDCG@10 from the recipe, with a paired
bootstrap's 95 % interval and the p of a paired sign-flip permutation test. Defaults were chosen on these two splits.

The candidates of a query are the 1,000 best papers of each leg. Cosines are exact for all of them; a paper outside the
lexical leg's 1,000 has no BM25 and counts as 0.

A second table holds what was tried beyond that; `ablation_trials.py` tells of it.

Another table asks with papers instead of words, as related papers do. Papers that are relevant to one question are
liked; whoever likes them should find the others that are. A question that several papers are drawn from counts once, by
the mean of their figures. `against_dense` compares with the cosines alone.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
from ablation_trials import Trials, beyond
from judged_legs import (
    MEASURES,
    TEXT_AND_TITLE,
    TITLE_BOOST,
    WINDOW,
    Boosts,
    Candidates,
    Floats,
    Fusion,
    JudgedSet,
    LexicalLeg,
    best_of,
    candidates,
    compared,
    figures_of,
)
from measuring import keep
from numpy.typing import NDArray
from rankings import (
    DENSE_WEIGHT,
    FEEDBACK_PAPERS,
    FEEDBACK_SHARPNESS,
    FEEDBACK_WEIGHT,
    by_maximum,
    dense_only,
    lexical_only,
    min_max,
    reciprocal_rank,
    weighted_share,
    with_feedback,
)

from semsearch.encoders import LazyEncoder, ModelFolder

PAPER_TERMS = 32
LIKED = (1, 2, 5)
PAPERS_OF_A_QUESTION = 3
FEWEST_QUESTIONS = 20


# The table

RECIPE = "recipe: cosine and share, half each"


@dataclass(frozen=True, slots=True)
class Ranking:
    """One row of the table: which fields are searched for words, and how the legs become one score."""

    name: str
    fusion: Fusion
    boosts: Boosts
    drops_stop_words: bool = False
    counts_words_once: bool = False


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
        Ranking("recipe, a repeated word counts once", half, TEXT_AND_TITLE, counts_words_once=True),
    ]


def measured(trials: Trials) -> dict[str, Any]:
    """Return the tables of one judged set."""
    judged = trials.judged
    figures = {ranking.name: figures_of(judged, list(_run(ranking, trials))) for ranking in rankings()}
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
            f"{count} liked": _as_queries(judged, trials.vectors, trials.leg, count)
            for count in LIKED
            if len(dict(liked_papers(judged, count))) >= FEWEST_QUESTIONS
        },
    }


def _run(ranking: Ranking, trials: Trials) -> Iterator[ir_measures.ScoredDoc]:
    for (query_id, text), vector in zip(trials.judged.queries.items(), trials.asked, strict=True):
        words = trials.leg.without_stop_words(text) if ranking.drops_stop_words else text
        terms = trials.leg.terms(words)
        if ranking.counts_words_once:
            terms = dict.fromkeys(terms, 1.0)
        hits = (
            trials.leg.search_terms(terms)
            if ranking.boosts == TEXT_AND_TITLE
            else trials.leg.search(words, ranking.boosts)
        )
        found = candidates(vector, trials.vectors, hits, trials.leg.ideal(terms))
        yield from best_of(trials.judged, query_id, found, ranking.fusion)


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
            runs[ranking.name] += best_of(judged, name, found, ranking.fusion)
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
        most: leg.heaviest(leg.terms(text), most)
        for ranking in paper_rankings()
        for most in (ranking.terms, ranking.share_of)
    }
    hits = {most: leg.search_terms(terms[most]) for most in {ranking.terms for ranking in paper_rankings()}}
    for ranking in paper_rankings():
        ideal = leg.ideal(terms[ranking.share_of])
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
    model = ModelFolder.find()
    encoder = LazyEncoder(model)
    sets = [
        Trials.of(JudgedSet.read(Path(folder), split), model, encoder, options.vectors)
        for folder, _, split in (name.rpartition(":") for name in options.sets)
    ]
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
            "sets": {
                trials.judged.name: measured(trials)
                | {"beyond": beyond(trials, [others for others in sets if others is not trials])}
                for trials in sets
            },
        },
        [file for trials in sets for file in trials.judged.files],
    )


if __name__ == "__main__":
    main()
