"""How far must lists be looked through, and how good are the answers then?

Both are measured when the lists are made, against the exact answers, on questions of two kinds: papers of the segment,
each without itself, and points in the middle of three random papers, which are far from everything, as many typed
questions are. One margin serves all kinds, and filters too, because it is measured from what is nearest to the question
among what is allowed: how many lists are within it follows from the question.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semsearch.vectors.flat import Flat, best
from semsearch.vectors.lists import NEAREST_ROWS, Lists, near

_RECALL = 0.991  # aimed at; what is measured on other questions shall not be below 0.99
_DEPTH = 10
_QUESTIONS = 400  # of each kind, and as many for the measurement; with half as many, margins differ by a tenth
_FOR_TYPED = 0.62
"""Of the way from the lists nearest to a question to the average row, the least margin that typed questions need. To
find 0.99 of their ten nearest, half remembered titles need 0.53 to 0.56 of it among 363,000 and a million abstracts,
and 0.61 where these are cut to their first words; what is asked here 0.50 to 0.53. Among ten million, most of
them made from others and so with their like beside them, it needed less, with which titles found 0.97."""
_MORE, _MOST_STEPS, _WORTH_A_STEP = 0.01, 10, 0.001
_TIE = 1e-5  # well over the error of a float32 inner product of unit vectors

Matrix = NDArray[np.float32]
Scores = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Probing:
    """How the lists of one segment are looked through.

    Those are whose centroids' cosines are lower than the mean of the nearest by at most `margin`. `recall_at_10` is
    which part of the ten nearest rows is found where all are allowed.
    """

    margin: float
    recall_at_10: float


def tuned(flat: Flat, lists: Lists) -> Probing:
    """Return how these lists are to be looked through for a recall@10 of 0.99, and the recall that this gives."""
    questions, itself = _questions(flat, np.random.default_rng(0))
    nearest = _nearest(flat, questions, itself)
    tuning, held_out = slice(0, None, 2), slice(1, None, 2)

    def recall_of(margin: float, some: slice) -> float:
        return _recall(_found(flat, lists, questions[some], itself[some], margin), nearest[some])

    margin, spread = _needed(lists, questions[tuning], nearest[tuning])
    recall = 0.0
    for wider in (margin + step * _MORE for step in range(_MOST_STEPS)):
        reached = recall_of(wider, tuning)
        if reached < recall + _WORTH_A_STEP:  # what the estimates miss is not found in more lists
            break
        margin, recall = wider, reached
        if recall >= _RECALL:
            break
    margin = round(max(margin, _FOR_TYPED * spread), 4)
    return Probing(margin, round(recall_of(margin, held_out), 4))


def _needed(lists: Lists, questions: Matrix, nearest: list[tuple[Scores, Rows]]) -> tuple[float, float]:
    """Return the margin within which enough of these rows stand in lists that are looked through, and the mean way.

    That is how much lower the average row's centroid is than those of the nearest rows.
    """
    margins, ways = [], []
    for question, (_, rows) in zip(questions, nearest, strict=True):
        cosines = lists.cosines(question)
        nearest_lists = near(cosines, lists.sizes, NEAREST_ROWS)
        margins.append(nearest_lists - cosines[lists.list_of_row[rows]])
        ways.append(nearest_lists - np.average(cosines, weights=lists.sizes))
    return float(np.quantile(np.concatenate(margins), _RECALL, method="higher")), float(np.mean(ways))


def _questions(flat: Flat, generator: np.random.Generator) -> tuple[Matrix, Rows]:
    """Return papers and middles of three papers in turns of two, and the row that each is itself, -1 for none."""
    rows = generator.integers(0, flat.rows, (4, 2 * _QUESTIONS))
    papers, *others = (flat.matrix[some] for some in rows)
    between = np.sum(others, axis=0)
    between /= np.maximum(np.linalg.norm(between, axis=1, keepdims=True), 1e-6)
    pairs = np.stack([papers.reshape(-1, 2, flat.dimension), between.reshape(-1, 2, flat.dimension)], axis=1)
    itself = np.stack([rows[0].reshape(-1, 2), np.full((_QUESTIONS, 2), -1)], axis=1)
    return pairs.reshape(-1, flat.dimension), itself.reshape(-1)


def _nearest(flat: Flat, questions: Matrix, itself: Rows) -> list[tuple[Scores, Rows]]:
    """Return the scores and rows of the ten nearest to each question, itself not among them."""
    scores, rows = flat.nearest(questions, _DEPTH + 1)
    others = (rows >= 0) & (rows != itself[:, None])
    return [(of[one][:_DEPTH], found[one][:_DEPTH]) for of, found, one in zip(scores, rows, others, strict=True)]


def _found(flat: Flat, lists: Lists, questions: Matrix, itself: Rows, margin: float) -> list[Scores]:
    """Return the scores of the ten best rows that are found, itself not among them."""
    found = []
    for question, own in zip(questions, itself, strict=True):
        rows = lists.candidates(question, _DEPTH + 1, margin)
        rows = rows[rows != own]
        found.append(best(rows, flat.scores_of(rows, question), _DEPTH)[0])
    return found


def _recall(found: list[Scores], nearest: list[tuple[Scores, Rows]]) -> float:
    """Return which part of the nearest is found; of rows that are equally near, one is as good as another."""
    met = sum(np.count_nonzero(some >= true[-1] - _TIE) for some, (true, _) in zip(found, nearest, strict=True))
    return float(met / sum(len(true) for true, _ in nearest))
