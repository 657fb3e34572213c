"""How do the two legs of a search become one ranking?

Each leg gives its best candidates, of a window that no page changes; every candidate then gets both exact scores, and
one formula joins them: the mean of its cosine and of the share that its BM25 is of what the query's words could score
at most. Unlike a normalised sum it needs no statistic of the window, and unlike reciprocal ranks it keeps by how much
one paper is better than the next. The ten best so found then move the query's vector a little towards them.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from semsearch.generation import Allowed, Generation
from semsearch.lexical import analyse
from semsearch.queries import LexicalQuery
from semsearch.stages import stage

Mode = Literal["hybrid", "dense", "lexical"]
MODES: tuple[Mode, ...] = ("hybrid", "dense", "lexical")

SCORE_DECIMALS = 6
DENSE_WEIGHT = 0.5
"""Of the cosine in a hybrid score; the rest is the lexical share's. Chosen on SciFact train and NFCorpus dev, where
0.35 to 0.65 are alike within noise."""

_TITLE_SCORE = 1.0
"""What a paper scores more where the question is its title: more than any other could make up for."""

_NEAR_TITLE, _NEAR_TITLE_SCORE = 0.75, 1.0
"""From how like a title a question counts as one half remembered, and what each bit more is worth. Of 600 titles of
64,389 papers in lower case and without one word, 596 find their paper first, without this 579; on SciFact train, whose
claims are no titles, no nDCG@10 changes."""
_TITLE_TERMS = 30  # a longer question is no title
_TITLE_CANDIDATES = 50

_FEEDBACK_PAPERS = 10
_FEEDBACK_SHARPNESS = 30.0
_FEEDBACK_WEIGHT = 0.5

_TIE_MARGIN = 1e-5  # well over the rounding to 1e-6 and twice the error of the scan's float32 arithmetic
_SPARE_ROWS = 16
_CANDIDATES = 1_024
"""Of so many rows that lists find the nearest are chosen, however few are asked for, so that pages fit each other."""

Rows = NDArray[np.int64]
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What a ranking is made for: a vector for the dense leg, words for the lexical one, or both.

    `allowed` are the rows that may be found, None for all live ones. `titled` are live rows whose
    title the question is; where both legs are asked, they come first. `exact` has the dense leg look at all rows.
    """

    vector: NDArray[np.float32] | None
    words: LexicalQuery | None
    allowed: Allowed | None = None
    titled: Rows = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    exact: bool = False

    @property
    def mode(self) -> Mode:
        """Which legs are asked."""
        return "lexical" if self.vector is None else "dense" if self.words is None else "hybrid"


@dataclass(frozen=True, slots=True)
class Ranking:
    """Candidates, best first; all arrays have shape (n,).

    `cosines` and `bm25` are what each leg gives the row; a rank counts from 1 in its leg's window, and is 0 for a row
    that is not in it. All four are None for a leg that was not asked.

    `best` is the highest score before feedback, which lifts good and bad answers alike; for words alone the highest
    share of what they could score at most. 0 where there are no rows.

    The first `settled` places are as they would be if everything was known of every candidate; of the rest, some BM25
    may be told as 0 because whatever it is, the row stands behind those.
    """

    rows: Rows
    scores: Scores
    best: float
    cosines: Scores | None
    bm25: Scores | None
    dense_ranks: Rows | None
    lexical_ranks: Rows | None
    settled: int

    def followed_by(self, wider: "Ranking") -> "Ranking":
        """Return these candidates and, behind them, those that only a wider window holds: whatever stands here stays.

        Both must be settled as a whole.
        """
        new = ~np.isin(wider.rows, self.rows)

        def joined(mine: NDArray[Any] | None, others: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if mine is None or others is None else np.concatenate([mine, others[new]])

        rows = np.concatenate([self.rows, wider.rows[new]])
        return Ranking(
            rows=rows,
            scores=np.concatenate([self.scores, wider.scores[new]]),
            best=self.best,
            cosines=joined(self.cosines, wider.cosines),
            bm25=joined(self.bm25, wider.bm25),
            dense_ranks=joined(self.dense_ranks, wider.dense_ranks),
            lexical_ranks=joined(self.lexical_ranks, wider.lexical_ranks),
            settled=len(rows),
        )


class Ranker:
    """Ranks one generation's rows for one question."""

    def __init__(self, generation: Generation, question: Question) -> None:
        """Prepare to rank."""
        self.mode = question.mode
        self._generation = generation
        self._vector = question.vector
        self._query = question.words
        self._allowed = question.allowed
        self._exact = question.exact
        titled = question.titled if self.mode == "hybrid" else question.titled[:0]
        self._titled = titled if question.allowed is None else titled[question.allowed.mask[titled]]

    def ranked(self, window: int, nearest: Rows | None = None, *, places: int | None = None) -> Ranking:
        """Return the candidates of a window of this many rows in each leg.

        :param nearest: the dense leg's rows, best first, for whoever has scanned for many queries at once.
        :param places: how many places must be settled; None for all.
        """
        dense = nearest if self._vector is None or nearest is not None else self._dense_leg(self._vector, window)
        found = None if self._query is None else self._lexical_leg(self._query, window)
        return self._fused(dense, found, window, places)

    @stage("fuse")
    def _fused(self, dense: Rows | None, found: tuple[Rows, Scores] | None, window: int, places: int | None) -> Ranking:
        """Return the candidates of the legs, which give their rows best first, in one order."""
        lexical = None if found is None else found[0]
        rows = np.unique(np.concatenate([self._titled, *(leg for leg in (dense, lexical) if leg is not None)]))
        vectors = None if self._vector is None else self._generation.vectors_at(rows).astype(np.float64)
        cosines = None if self._vector is None or vectors is None else _cosines(self._vector, vectors)
        words = (
            None if self._query is None or found is None else _Words(self._generation, self._query, rows, found, window)
        )
        places = len(rows) if places is None else min(places, len(rows))
        final, first = self._scores(rows, vectors, cosines, words, places)
        scores = np.round(final, SCORE_DECIMALS)
        order = self._order(rows, scores)
        return Ranking(
            rows=rows[order],
            scores=scores[order],
            best=round(float(first.max(initial=0.0)), SCORE_DECIMALS),
            cosines=None if cosines is None else cosines[order],
            bm25=None if words is None else words.bm25[order],
            dense_ranks=None if dense is None else _ranks(dense, rows[order]),
            lexical_ranks=None if lexical is None else _ranks(lexical, rows[order]),
            settled=len(rows) if words is None or words.all_known else places,
        )

    def _scores(
        self,
        rows: Rows,
        vectors: NDArray[np.float64] | None,
        cosines: Scores | None,
        words: "_Words | None",
        places: int,
    ) -> tuple[Scores, Scores]:
        """Return the scores by which the rows are ranked, and those before feedback: for words alone, shares."""
        if words is None:
            assert cosines is not None, "at least one leg was asked"
            return cosines, cosines
        if cosines is None:
            return words.bm25, words.share
        assert self._vector is not None, "cosines come from a vector"
        assert vectors is not None, "and from those of the candidates"
        words.settle(cosines, _TITLE_CANDIDATES, self._titled)
        title = self._title_scores(rows, _joined(cosines, words.share))
        first = np.round(_joined(cosines, words.share) + title, SCORE_DECIMALS)
        best = self._best(rows, first, _FEEDBACK_PAPERS)
        moved = _cosines(_with_feedback(self._vector, vectors[best], first[best]), vectors)
        words.settle(moved + title / DENSE_WEIGHT, places, self._titled)
        return _joined(moved, words.share) + title, first

    def _title_scores(self, rows: Rows, scores: Scores) -> Scores:
        """Return what rows score more because the question is their title, or nearly: of the best by these scores."""
        assert self._query, "both legs were asked"
        title: Scores = np.where(np.isin(rows, self._titled), _TITLE_SCORE, 0.0)
        terms = set(analyse(self._query.text))
        if len(terms) <= _TITLE_TERMS:
            best = np.argsort(-scores, kind="stable")[:_TITLE_CANDIDATES]
            lengths = self._generation.title_words_at(rows[best]).astype(np.int64)  # a byte would overflow
            held = self._generation.lexical.in_titles(terms, self._generation.seqs_at(rows[best]))
            dice = 2 * held / np.maximum(lengths + len(terms), 1)
            title[best] = np.maximum(title[best], _NEAR_TITLE_SCORE * np.maximum(dice - _NEAR_TITLE, 0))
        return title

    @stage("scan")
    def _dense_leg(self, vector: NDArray[np.float32], window: int) -> Rows:
        """Return the `window` rows of the highest cosines, best first.

        The scan fetches past the last place until nothing left could tie with it; then every candidate is scored again
        in one fixed arithmetic, so that neither threads nor batches nor segments can change an answer.
        """
        available = self._generation.papers if self._allowed is None else self._allowed.count
        wanted = min(window, available)
        fetch = wanted + _SPARE_ROWS
        while wanted:
            scores, rows = self._generation.nearest_to(
                vector, fetch, self._allowed, exact=self._exact, candidates=_CANDIDATES
            )
            if len(rows) >= available or scores[-1] < scores[wanted - 1] - _TIE_MARGIN:
                cosines = _cosines(vector, self._generation.vectors_at(rows).astype(np.float64))
                best: Rows = rows[self._order(rows, cosines)][:wanted]
                return best
            fetch *= 2
        return np.empty(0, dtype=np.int64)

    @stage("lexical")
    def _lexical_leg(self, query: LexicalQuery, window: int) -> tuple[Rows, Scores]:
        """Return the `window` rows of the highest BM25, best first, and it; fewer if fewer hold a word of the query."""
        allowed = None if self._allowed is None else self._allowed.seqs
        scores, seqs = self._generation.lexical.search(query, window, allowed)
        rows = self._generation.rows_of(seqs)
        order = self._order(rows, scores)[:window]
        return rows[order], scores[order]

    def _best(self, rows: Rows, scores: Scores, most: int) -> Rows:
        """Return the first places that `_order` would: of the others, nobody has to know which ties come first."""
        if len(scores) <= most:
            return self._order(rows, scores)
        places = np.flatnonzero(scores >= np.partition(scores, -most)[-most])
        return places[self._order(rows[places], scores[places])][:most]

    def _order(self, rows: Rows, scores: Scores) -> Rows:
        """Return the places of the rows by score, best first, and by paper id where scores are equal."""
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        tied = np.flatnonzero((np.diff(ranked, prepend=np.inf) == 0) | (np.diff(ranked, append=-np.inf) == 0))
        if tied.size:
            places = order[tied]
            ids = self._generation.ids_at(rows[places])
            by_id = sorted(range(len(places)), key=lambda place: (-ranked[tied[place]], ids[place]))
            order[tied] = places[by_id]
        return order


class _Words:
    """What the candidates' BM25 is, as far as it must be known.

    That of the leg's rows is, and all if it found fewer than its window. Others score no more than the leg's last, and
    to look one up costs more than anything else about a candidate: so only those are that could still come far enough.
    """

    def __init__(
        self, generation: Generation, query: LexicalQuery, rows: Rows, leg: tuple[Rows, Scores], window: int
    ) -> None:
        """Take over what the leg has found; `rows`, ascending, are all candidates."""
        self._lexical = generation.lexical
        self._query = query
        self._seqs = generation.seqs_at(rows)
        self._rows = rows
        self._most = self._lexical.most(query) or 1.0  # 0 where no word is worth asking for
        self.bm25: Scores = np.zeros(len(rows))
        """Of each candidate, 0 for those that hold no word of the query and those that are not looked up."""
        self.bm25[np.searchsorted(rows, leg[0])] = leg[1]
        self._bound = float(leg[1][-1]) if len(leg[0]) == window else 0.0
        self._unknown = ~np.isin(rows, leg[0]) if self._bound else np.zeros(len(rows), dtype=np.bool_)

    @property
    def share(self) -> Scores:
        """How much of what the query's words could score the rows do score: about 0 to 1."""
        return self.bm25 / self._most

    @property
    def all_known(self) -> bool:
        """Whether nothing is left to look up."""
        return not self._unknown.any()

    def settle(self, cosines: Scores, places: int, more: Rows) -> None:
        """Look up all rows that could be among so many best, joined with these cosines, and these `more` rows."""
        least = _joined(cosines, self.share)
        most = least + (1 - DENSE_WEIGHT) * self._bound / self._most
        nth = np.partition(least, -places)[-places] if 0 < places < len(least) else -np.inf
        wanted = np.flatnonzero(self._unknown & ((most >= nth - _TIE_MARGIN) | np.isin(self._rows, more)))
        if wanted.size:
            order = wanted[np.argsort(self._seqs[wanted])]
            scores, found = self._lexical.search(self._query, len(order), self._seqs[order])
            self.bm25[order[np.searchsorted(self._seqs[order], found)]] = scores
            self._unknown[wanted] = False


def _cosines(vector: NDArray[np.float32], vectors: NDArray[np.float64]) -> Scores:
    cosines: Scores = np.round(np.einsum("nd,d->n", vectors, vector.astype(np.float64)), SCORE_DECIMALS)
    return cosines


def _with_feedback(vector: NDArray[np.float32], vectors: NDArray[np.float64], scores: Scores) -> NDArray[np.float32]:
    """Return the query's vector moved towards these of the best candidates, best first, of unit length.

    Pseudo-relevance feedback after Rocchio (1971), each paper weighted by the softmax of its score. It wins on SciFact
    train (nDCG@10 +0.007) and NFCorpus dev (+0.009), and with every other setting tried it did too.
    """
    if not len(vectors):
        return vector
    weights = np.exp(_FEEDBACK_SHARPNESS * (scores - scores[0]))
    moved = vector.astype(np.float64) + _FEEDBACK_WEIGHT * (weights / weights.sum() @ vectors)
    unit: NDArray[np.float32] = (moved / np.linalg.norm(moved)).astype(np.float32)
    return unit


def _joined(cosines: Scores, share: Scores) -> Scores:
    return DENSE_WEIGHT * cosines + (1 - DENSE_WEIGHT) * share


def _ranks(leg: Rows, rows: Rows) -> Rows:
    """Return each row's rank in the leg, from 1; 0 if it is not there."""
    order = np.argsort(leg)
    places = np.minimum(np.searchsorted(leg, rows, sorter=order), len(leg) - 1)
    ranks: Rows = np.where(leg[order[places]] == rows, order[places] + 1, 0) if len(leg) else np.zeros_like(rows)
    return ranks
